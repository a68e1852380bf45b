"""The deterministic policy of a bundle as ONNX, for runtimes without torch.

Inputs, B the batch: `observation.state` float32 (B, S) and, with pictures, `observation.images.front` uint8
(B, H, W, 3), as recorded: normalisation is inside. Output: `action` float32 (B, A) in [-1, 1], the mean of
the policy's distribution. The guards are not inside: whoever runs the file has to bring them.
"""

from __future__ import annotations

import importlib
import io
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from robot_rl.agents.policy import ActorPolicy
from robot_rl.data import schema
from robot_rl.data.artifact import atomic_write
from robot_rl.errors import DataError, MissingExtraError

TOLERANCE = 1e-4
"""Largest difference of an action from torch's that counts as the same: float32 in another order."""
OPSET = 18


class _Deterministic(nn.Module):
    """`ActorPolicy.act_from_features(features(.))`, with the observations as plain inputs."""

    def __init__(self, policy: ActorPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, state: Tensor, image: Tensor | None = None) -> Tensor:
        observations = {schema.STATE: state} | ({} if image is None else {schema.IMAGE: image})
        return cast(Tensor, self.policy(self.policy.features(observations)).mean.clamp(-1, 1))


def export_onnx(policy: ActorPolicy, path: str | Path, *, samples: int = 64, seed: int = 0) -> float:
    """Write the policy as ONNX at `path`, once it agrees with torch.

    Args:
        policy: on the CPU. path: the file, replaced whole.
        samples, seed: random observations on which both are compared.

    Returns:
        the largest difference of an action between onnxruntime and torch.

    Raises:
        DataError: they differ by more than `TOLERANCE`, or the file cannot be written.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    runtime = _require("onnxruntime")
    _require("onnx"), _require("onnxscript")
    module = _Deterministic(policy).eval()
    inputs = _observations(policy, samples, seed)
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    stream = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's, about its own inner workings
        program: Any = torch.onnx.export(
            module,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=["action"],
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        program.save(stream)
        expected = module(*inputs.values()).numpy()
    content = stream.getvalue()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    fed = {
        entry.name: value.numpy() for entry, value in zip(session.get_inputs(), inputs.values(), strict=True)
    }
    found = session.run(None, fed)[0]
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:
        raise DataError(
            f"the exported policy's actions differ from torch's by {difference:.2g}; expected at most "
            f"{TOLERANCE:.0e}: nothing was written"
        )
    atomic_write(path, content)
    return difference


def _observations(policy: ActorPolicy, samples: int, seed: int) -> dict[str, Tensor]:
    """Random ones about the statistics' mean, so that the network is where it is used."""
    rng = np.random.default_rng(seed)
    noise = torch.from_numpy(rng.normal(size=(samples, policy.config.state_dim)).astype(np.float32))
    observations = {schema.STATE: policy.state_mean + 2 * policy.state_std * noise}
    if policy.config.image_shape is not None:
        picture = rng.integers(0, 256, (samples, *policy.config.image_shape, 3), np.uint8)
        observations[schema.IMAGE] = torch.from_numpy(picture)
    return observations


def _require(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(module, "onnx") from error
