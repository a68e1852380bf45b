"""An open_clip model with its tokenizer and preprocessing: pictures and prompts in, logits out."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from robot_rl import torchvision_compat  # noqa: F401  isort: skip  # open_clip needs it before itself
import numpy as np
import numpy.typing as npt
import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reward_vlm.prompts import PromptPair
from robot_rl.errors import ConfigError, unknown

SHIPPED: Final = "clip_tiny"
"""The model that ships with the project: 64x64 pictures, trained from scratch, nothing to download."""

MAX_SCALE: Final = 100.0
"""CLIP's own ceiling of the learned logit scale (Radford et al. 2021, section 2.5)."""

# What open_clip itself reads from a `local-dir:`, so that a saved model is one.
CONFIG_FILE: Final = "open_clip_config.json"
WEIGHTS_FILE: Final = "open_clip_model.safetensors"


class Backbone(nn.Module):
    """Both towers of an open_clip model.

    `logits(x, d) = scale * x . d` with the unit picture embedding x and a direction
    d = text(done) - text(not done), that is scale * (sim(x, done) - sim(x, not done)).
    """

    clip: Any  # open_clip's models share no base class that states encode_image and encode_text
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, model: str = SHIPPED, pretrained: str | None = None, seed: int = 0) -> None:
        """
        Args:
            model: `clip_tiny`, any open_clip architecture, or `local-dir:FOLDER`.
            pretrained: a weights file or an open_clip tag (which is downloaded); None starts from scratch.
            seed: of the initial weights; the global generator is left as it was.

        Raises:
            ConfigError: open_clip knows no such model, or its weights cannot be read.
        """
        super().__init__()
        if SHIPPED not in open_clip.list_models():
            open_clip.add_model_config(Path(__file__).with_name(f"{SHIPPED}.json"))
        if ":" not in model and model not in open_clip.list_models():
            raise unknown("open_clip model", model, [SHIPPED, *open_clip.list_models()])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.clip = _create(model, pretrained)
        self.tokenizer = open_clip.get_tokenizer(model)
        self.model_config: dict[str, Any] = open_clip.get_model_config(model)
        # Through JSON, as an artifact will hold it.
        self.preprocessing: dict[str, Any] = json.loads(json.dumps(self.clip.visual.preprocess_cfg))
        size = self.preprocessing["size"]
        self.image_size: tuple[int, int] = (size, size) if isinstance(size, int) else (size[0], size[1])
        for name in ("mean", "std"):
            values = torch.tensor(self.preprocessing[name]).view(1, 3, 1, 1)
            self.register_buffer(f"pixel_{name}", values, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def pixels(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """Pictures uint8 (N, H, W, 3) as float (N, 3, h, w) in [0, 1] at the model's size [pixels]."""
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        batch = batch.permute(0, 3, 1, 2).float() / 255
        if batch.shape[-2:] != self.image_size:
            batch = F.interpolate(batch, self.image_size, mode="bicubic", antialias=True).clamp(0, 1)
        return batch

    def logits(self, pixels: Tensor, directions: Tensor) -> Tensor:
        """Logits (N,) of pictures (N, 3, h, w) in [0, 1] along directions (N, D) or (D,)."""
        embedding = self.embedding(pixels)
        scale = self.clip.logit_scale.exp().clamp(max=MAX_SCALE)
        return scale * (embedding * directions).sum(-1)

    def embedding(self, pixels: Tensor) -> Tensor:
        """Unit embeddings (N, D) of pictures (N, 3, h, w) in [0, 1]."""
        return F.normalize(self.clip.encode_image((pixels - self.pixel_mean) / self.pixel_std), dim=-1)

    def directions(self, pairs: Sequence[PromptPair]) -> Tensor:
        """text(done) - text(not done), unit text embeddings, one row per pair: (P, D)."""
        prompts = [pair.done for pair in pairs] + [pair.not_done for pair in pairs]
        features = F.normalize(self.clip.encode_text(self.tokenizer(prompts).to(self.device)), dim=-1)
        return features[: len(pairs)] - features[len(pairs) :]

    def config_json(self) -> str:
        """open_clip's own description of the model, with the preprocessing that its weights expect."""
        config = {"model_cfg": self.model_config, "preprocess_cfg": self.preprocessing}
        return json.dumps(config, indent=2)


def _create(model: str, pretrained: str | None) -> nn.Module:
    # open_clip warns on the root logger that weights are random, which is what training from scratch means.
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        # The whole picture is squashed to the model's size: cropping could cut the goal out of view.
        created: nn.Module = open_clip.create_model(
            model, pretrained=pretrained, force_preprocess_cfg={"resize_mode": "squash"}
        )
    except (RuntimeError, ValueError, FileNotFoundError) as error:
        raise ConfigError(f"open_clip model {model!r} with pretrained={pretrained!r}: {error}") from error
    finally:
        root.setLevel(level)
    return created
