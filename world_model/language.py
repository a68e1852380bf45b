"""Instructions as vectors, for one world model of many tasks."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robot_rl import torchvision_compat  # noqa: F401  (open_clip imports torchvision)
from robot_rl.data.language import embed
from robot_rl.errors import ConfigError
from world_model.config import WorldModelConfig


class HashedWords:
    """`robot_rl.data.language.embed`: words and pairs of words, hashed. Needs no weights and no download."""

    def __init__(self, size: int) -> None:
        self.size = size

    def embed(self, instructions: Sequence[str]) -> Tensor:
        """Instructions -> float32 (N, size), of about unit deviation."""
        rows = np.stack([embed(text, self.size) for text in instructions])
        return torch.from_numpy(rows * np.float32(np.sqrt(self.size)))


class ClipText:
    """The frozen text tower of an open_clip model; weights come from files alone.

    Args:
        model: NAME:FILE, an architecture of open_clip and its weights, or local-dir:FOLDER.
        size: expected width of the embedding.

    Raises:
        ConfigError: no such model or file, or another width.
    """

    def __init__(self, model: str, size: int) -> None:
        open_clip: Any = importlib.import_module("open_clip")
        local = model.startswith("local-dir:")
        name, file = (model, None) if local else (model.partition(":")[0], model.partition(":")[2])
        try:
            self._clip = open_clip.create_model(name, pretrained=file or None).eval().requires_grad_(False)
            self._tokenizer = open_clip.get_tokenizer(name)
        except (RuntimeError, ValueError, FileNotFoundError) as error:
            raise ConfigError(f"world_model.clip_model {model!r}: {str(error).splitlines()[0]}") from error
        self.size = size
        width = self.embed(["a"]).shape[1]
        if width != size:
            raise ConfigError(
                f"world_model.language_dim is {size}; the text tower of {model!r} gives {width}: set "
                f"world_model.model.language_dim={width}"
            )

    @torch.no_grad()
    def embed(self, instructions: Sequence[str]) -> Tensor:
        """Instructions -> float32 (N, size), of about unit deviation."""
        features = self._clip.encode_text(self._tokenizer(list(instructions)))
        return torch.nn.functional.normalize(features, dim=-1) * features.shape[-1] ** 0.5


def make_language(config: WorldModelConfig) -> HashedWords | ClipText | None:
    """The embedding that `config` asks for; None for a model of one task."""
    if config.language == "hashed":
        return HashedWords(config.language_dim)
    if config.language == "clip":
        return ClipText(config.clip_model, config.language_dim)
    return None
