"""A plain convolutional network without language: the baseline, and what VICE and RL-VLM-F train.

Every camera has its own first layers' features; a head per instruction reads them all:

    f_m,i(o) = w_m,i . relu(W_m [phi_m(o_1) ... phi_m(o_C)]),   score = mean over members m
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reward_vlm.judge import Pictures
from reward_vlm.prompts import normalised
from reward_vlm.scorer import BATCH, Scores
from robot_rl.data.artifact import Artifact, Content

FILE = "cnn.safetensors"
SIZE = 64


class PictureNet(nn.Module):
    """One member: pictures (N, C, 3, 64, 64) in [0, 1] to a number for every instruction (N, I)."""

    def __init__(self, cameras: int, instructions: int, width: int = 32, hidden: int = 128) -> None:
        super().__init__()
        channels = (3, width, width, 2 * width, 2 * width)
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Flatten())
        inputs = cameras * 2 * width * (SIZE // 16) ** 2
        self.head = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, instructions))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels.flatten(0, 1)).view(len(pixels), -1))


class PictureEnsemble(nn.Module):
    """Members with their own initial weights; the global generator is left as it was."""

    def __init__(self, members: int, cameras: int, instructions: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.members = nn.ModuleList(PictureNet(cameras, instructions) for _ in range(members))

    def forward(self, pixels: Tensor) -> Tensor:
        """(M, N, I)."""
        return torch.stack([member(pixels) for member in self.members])


def pixels_of(pictures: Pictures, device: torch.device | str = "cpu") -> Tensor:
    """Pictures uint8 (N, C, H, W, 3) as float (N, C, 3, 64, 64) in [0, 1]."""
    batch = torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 1, 4, 2, 3).float() / 255
    if batch.shape[-2:] != (SIZE, SIZE):
        flat = F.interpolate(batch.flatten(0, 1), (SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 1)
        batch = flat.unflatten(0, batch.shape[:2])
    return batch


class CnnTrainee:
    """What `RewardLearner` trains of the plain network: a `Trainee`."""

    def __init__(self, instructions: Sequence[str], cameras: int, seed: int, device: str) -> None:
        self.module = PictureEnsemble(1, cameras, len(instructions), seed).to(device)
        self._instructions, self._cameras, self._device = instructions, cameras, device

    def parameters(self) -> list[nn.Parameter]:
        return list(self.module.parameters())

    def pixels(self, pictures: Pictures) -> Tensor:
        return pixels_of(pictures, self._device)

    def logits(self, pixels: Tensor, instruction: Tensor) -> Tensor:
        """(B,) of the head that each picture's instruction (B,) has."""
        self.module.train()
        return self.module(pixels)[0].gather(1, instruction[:, None])[:, 0]

    def regulariser(self, generator: torch.Generator) -> tuple[Tensor | float, dict[str, float]]:
        return 0.0, {}

    def scorer(self) -> CnnScorer:
        return CnnScorer(self.module, self._instructions, self._cameras)


class CnnScorer:
    """A `Scorer`: the mean of an ensemble's numbers for the instruction."""

    def __init__(
        self, network: PictureEnsemble, instructions: Sequence[str], cameras: int, backend: str = "cnn"
    ) -> None:
        self.network, self.cameras = network.eval(), cameras
        self.backend = backend  # `vice` and `preference` are this network, trained otherwise
        self._index = {normalised(instruction): i for i, instruction in enumerate(instructions)}

    @torch.inference_mode()
    def score(self, pictures: Pictures, instruction: str) -> Scores:
        """As `Scorer.score`."""
        device = next(self.network.parameters()).device
        pieces = [
            self.network(pixels_of(pictures[start : start + BATCH], device))[..., self._index[instruction]]
            .mean(0)
            .cpu()
            .numpy()
            for start in range(0, len(pictures), BATCH)
        ]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

    def files(self) -> Mapping[str, Content]:
        return {FILE: self.network.state_dict()}

    def facts(self) -> Mapping[str, Any]:
        return {"members": len(self.network.members)}

    @classmethod
    def load(cls, artifact: Artifact, instructions: Sequence[str], device: torch.device | str) -> CnnScorer:
        facts = artifact.metadata
        cameras = len(facts["cameras"])
        network = PictureEnsemble(facts["members"], cameras, len(instructions))
        network.load_state_dict(artifact.tensors(FILE))
        return cls(network.to(device), instructions, cameras, facts["backend"])
