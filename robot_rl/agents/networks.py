"""Networks that two CPU cores can train: an MLP, a pixel encoder, an ensemble of critics.

Sizes are written B batch, N actions a state, E critics, F features, H x W pixels, A action dimensions.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robot_rl.agents.fused import ensemble_values
from robot_rl.errors import ConfigError, unknown

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU}
READOUTS = ("keypoints", "flatten")


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialise modules from `seed` and leave torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class MLP(nn.Sequential):
    """Linear (-> LayerNorm) -> activation for each hidden width, then Linear to `outputs`.

    (..., inputs) -> (..., outputs). LayerNorm before the activation is what keeps critics from
    extrapolating (RLPD, arXiv 2302.02948).
    """

    def __init__(
        self,
        inputs: int,
        hidden: tuple[int, ...],
        outputs: int,
        activation: str = "relu",
        layer_norm: bool = False,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        layers: list[nn.Module] = []
        for width in hidden:
            layers.append(nn.Linear(inputs, width))
            if layer_norm:
                layers.append(nn.LayerNorm(width))
            layers.append(ACTIVATIONS[activation]())
            inputs = width
        super().__init__(*layers, nn.Linear(inputs, outputs))


@dataclass(frozen=True)
class EncoderConfig:
    """Convolutions of `PixelEncoder`. The default costs 4.4 million multiply-adds a 64 x 64 picture."""

    channels: tuple[int, ...] = (16, 24, 32, 64)
    kernels: tuple[int, ...] = (5, 3, 3, 1)
    strides: tuple[int, ...] = (2, 2, 1, 1)
    readout: str = "keypoints"
    projection: int = 128
    """Width of the `flatten` readout; `keypoints` has two numbers a channel."""

    def __post_init__(self) -> None:
        if not len(self.channels) == len(self.kernels) == len(self.strides) > 0:
            raise ConfigError(
                f"encoder has {len(self.channels)} channels, {len(self.kernels)} kernels and "
                f"{len(self.strides)} strides; expected the same number (at least 1) of each"
            )
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ConfigError(f"encoder kernels are {self.kernels}; expected odd sizes")
        if self.readout not in READOUTS:
            raise unknown("encoder readout", self.readout, READOUTS)


class SpatialSoftmax(nn.Module):
    """Expected position of each channel's activation (Finn et al., arXiv 1509.06113).

    p = softmax(x / temperature) over pixels; output (sum p * column, sum p * row), each in [-1, 1].
    (B, C, H, W) -> (B, 2 C): all columns, then all rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Tensor) -> Tensor:
        batch, channels, height, width = maps.shape
        weights = (maps.reshape(batch, channels, -1) * torch.exp(-self.log_temperature)).softmax(-1)
        grid = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        rows, columns = (axis.reshape(-1).to(maps) for axis in grid)
        return torch.cat([weights @ columns, weights @ rows], dim=-1)


class PixelEncoder(nn.Module):
    """Pictures uint8 (B, H, W, 3) -> features float32 (B, `features`)."""

    def __init__(self, config: EncoderConfig, image_shape: tuple[int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        height, width = image_shape
        for channels, kernel, stride in zip(config.channels, config.kernels, config.strides, strict=True):
            layers += [nn.Conv2d(inputs, channels, kernel, stride, kernel // 2), nn.ReLU(inplace=True)]
            inputs, height, width = channels, math.ceil(height / stride), math.ceil(width / stride)
        # Interleaved channels are how the pictures arrive, and twice as fast on a CPU.
        self.convolutions = nn.Sequential(*layers[:-1])
        self.convolutions.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.readout: nn.Module
        if config.readout == "keypoints":
            self.readout, self.features = SpatialSoftmax(), 2 * inputs
        else:
            self.features = config.projection
            self.readout = nn.Sequential(
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(inputs * height * width, config.projection),
                nn.LayerNorm(config.projection),
                nn.Tanh(),
            )

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
        return self.readout(self.convolutions(pixels))


class CriticEnsemble(nn.Module):
    """E critics Q_e(features, action), evaluated together by batched matrix products.

    Each hidden layer is relu(LayerNorm(W x) + b). (LayerNorm's scale is left out: ahead of a ReLU it is
    the next layer's to learn, and it costs three passes over memory.) The first layer is split into a
    features part and an action part, so that N actions of one state share the former. With `bf16` the
    hidden layers are evaluated in bfloat16, for CPUs that have it; parameters and values are float32. With
    `fused` the gradient is `robot_rl.agents.fused`'s: the same numbers but for rounding, sooner on a CPU.
    """

    def __init__(
        self,
        features: int,
        actions: int,
        members: int,
        hidden: tuple[int, ...],
        layer_norm: bool = True,
        bf16: bool = False,
        fused: bool = False,
    ) -> None:
        super().__init__()
        if members < 1 or not hidden:
            raise ConfigError(f"critic has {members} members, hidden {hidden}; expected at least 1 of each")
        self.members, self.layer_norm, self.fused = members, layer_norm, fused
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        fans = (features + actions, *hidden[:-1])
        self.of_features = _uniform(members, features, hidden[0], fan_in=fans[0])
        self.of_action = _uniform(members, actions, hidden[0], fan_in=fans[0])
        self.weights = nn.ParameterList(
            _uniform(members, *widths, fan_in=widths[0]) for widths in itertools.pairwise(hidden)
        )
        self.biases = nn.ParameterList(
            _uniform(members, 1, width, fan_in=fan) for width, fan in zip(hidden, fans, strict=True)
        )
        self.last_weight = _uniform(members, 1, hidden[-1], fan_in=hidden[-1])
        self.last_bias = _uniform(members, 1, fan_in=hidden[-1])

    def forward(
        self, features: Tensor, actions: Tensor, members: Tensor | None = None, frozen: bool = False
    ) -> Tensor:
        """Values (E, B) of `actions` (B, A), or (E, B, N) of `actions` (B, N, A).

        features: (B, F). members: indices of the critics to evaluate; every one if None.
        frozen: whether the critics are passed through alone, and get no gradient.
        """

        if self.fused:
            return self._fused_forward(features, actions, members, frozen)

        def chosen(parameter: Tensor, dtype: torch.dtype = self.dtype) -> Tensor:
            parameter = parameter.detach() if frozen else parameter
            return (parameter if members is None else parameter[members]).to(dtype)

        several = actions.dim() == 3
        count = actions.shape[1] if several else 1
        size, batch = self.members if members is None else len(members), len(features)
        hidden = torch.bmm(features.to(self.dtype).expand(size, -1, -1), chosen(self.of_features))
        if several:
            hidden = hidden.repeat_interleave(count, dim=1)
        flat = actions.reshape(batch * count, -1).to(self.dtype).expand(size, -1, -1)
        hidden = torch.baddbmm(hidden, flat, chosen(self.of_action))
        for layer, bias in enumerate(self.biases):
            if layer:
                hidden = torch.bmm(hidden, chosen(self.weights[layer - 1]))
            if self.layer_norm:
                hidden = F.layer_norm(hidden, hidden.shape[-1:])
            hidden = hidden.add_(chosen(bias)).relu_()  # in place: neither is needed again
        # A product with one column: seven times faster as a sum than as a matrix product.
        last_weight, last_bias = (
            chosen(parameter, self.last_weight.dtype) for parameter in (self.last_weight, self.last_bias)
        )
        value = (hidden.float() * last_weight).sum(-1) + last_bias
        return value.reshape(size, batch, count) if several else value

    def smallest(self, features: Tensor, actions: Tensor) -> Tensor:
        """min_e Q_e, (B,), of `actions` (B, A), the critics frozen.

        A row's gradient comes from its smallest critic alone, so that only this one is evaluated with a
        graph: each member on its own rows, filled up to equal numbers.
        """
        if not self.fused or self.members == 1:
            return self(features, actions, frozen=True).amin(0)
        with torch.no_grad():
            choice = self(features, actions, frozen=True).argmin(0)
        order = choice.argsort(stable=True)
        counts = torch.bincount(choice, minlength=self.members)
        place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[choice[order]]
        slots = order.new_zeros(self.members, int(counts.max()))
        slots[choice[order], place] = order  # what is not filled repeats row 0, and is not read
        rows = torch.cat([features, actions], dim=1)[slots]
        values = self._values(rows, frozen=True)
        return values[choice[order], place][order.argsort()]

    def _fused_forward(
        self, features: Tensor, actions: Tensor, members: Tensor | None, frozen: bool
    ) -> Tensor:
        flat = actions.reshape(-1, actions.shape[-1])
        if actions.dim() == 3:
            features = features.repeat_interleave(actions.shape[1], dim=0)
        values = self._values(torch.cat([features, flat], dim=1), members, frozen)
        return values.unflatten(1, actions.shape[:2]) if actions.dim() == 3 else values

    def _values(self, rows: Tensor, members: Tensor | None = None, frozen: bool = False) -> Tensor:
        """Values (E, R) of rows (R, F + A), or of each member's own rows (E, R, F + A)."""

        def chosen(parameter: Tensor) -> Tensor:
            parameter = parameter.detach() if frozen else parameter
            return parameter if members is None else parameter[members]

        first = torch.cat([chosen(self.of_features), chosen(self.of_action)], dim=1)
        return ensemble_values(
            rows,
            [first, *(chosen(each) for each in self.weights)],
            [chosen(each) for each in self.biases],
            (chosen(self.last_weight), chosen(self.last_bias)),
            self.layer_norm,
            self.dtype,
        )


@torch.no_grad()
def move_towards(target: nn.Module, source: nn.Module, rate: float) -> None:
    """target += rate (source - target), parameter by parameter: a moving average of `source`."""
    torch._foreach_lerp_(list[Tensor](target.parameters()), list[Tensor](source.parameters()), rate)


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Each critic as torch.nn.Linear would start it: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    return nn.Parameter(torch.empty(*shape).uniform_(-1, 1) / math.sqrt(fan_in))
