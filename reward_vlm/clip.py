"""The default back end: open_clip asked "done or not done", from scratch, fine-tuned, LoRA or a probe.

    score(o, i) = scale * mean_c x_c . d_i
    d_i = mean over wordings and prompts of text(done) - text(not done)

with the unit embedding x_c of camera c's picture. A linear probe learns d_i itself and leaves CLIP alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reward_vlm.backbone import CONFIG_FILE, WEIGHTS_FILE, Backbone
from reward_vlm.judge import Pictures
from reward_vlm.prompts import TEMPLATES, PromptPair, normalised, prompt_pairs
from reward_vlm.scorer import BATCH, Scores
from robot_rl.data.artifact import Artifact, Content

PROBE_FILE = "probe.safetensors"


class ClipScorer:
    """A `Scorer`. Directions are computed once per instruction."""

    backend = "clip"

    def __init__(
        self,
        backbone: Backbone,
        wordings: Mapping[str, Sequence[str]] | None = None,
        templates: Sequence[PromptPair] = TEMPLATES,
        probe: Mapping[str, Tensor] | None = None,
    ) -> None:
        """
        Args:
            wordings: instruction -> all wordings whose text features are averaged; itself where absent.
            probe: instruction -> learned direction (D,), in the place of the text's.
        """
        self.backbone = backbone.eval()
        self.templates = tuple(templates)
        self.wordings = {normalised(k): tuple(v) for k, v in (wordings or {}).items()}
        self.probe = {normalised(k): v.detach() for k, v in (probe or {}).items()}
        self._directions: dict[str, Tensor] = {}

    @torch.inference_mode()
    def score(self, pictures: Pictures, instruction: str) -> Scores:
        """As `Scorer.score`."""
        n, cameras = pictures.shape[:2]
        flat = pictures.reshape(n * cameras, *pictures.shape[2:])
        direction = self.direction(instruction)
        pieces = [
            self.backbone.logits(self.backbone.pixels(flat[start : start + BATCH]), direction).cpu().numpy()
            for start in range(0, len(flat), BATCH)
        ]
        return np.concatenate(pieces).reshape(n, cameras).mean(1) if pieces else np.zeros(0, np.float32)

    def direction(self, instruction: str) -> Tensor:
        """d (D,) of any text: of a known instruction with its wordings, of another by its words alone."""
        key = normalised(instruction)
        if key in self.probe:
            return self.probe[key]
        if key not in self._directions:
            self._directions[key] = self.text_direction(self.wordings.get(key, (key,)))
        return self._directions[key]

    @torch.inference_mode()
    def text_direction(self, wordings: Sequence[str]) -> Tensor:
        """Mean direction (D,) of some wordings."""
        pairs = [pair for wording in wordings for pair in prompt_pairs(wording, self.templates)]
        return self.backbone.directions(pairs).mean(0)

    def files(self) -> Mapping[str, Content]:
        """open_clip's own `local-dir:` files, and the probe."""
        files: dict[str, Content] = {
            CONFIG_FILE: self.backbone.config_json().encode(),
            WEIGHTS_FILE: self.backbone.clip.state_dict(),
        }
        return files | ({PROBE_FILE: self.probe} if self.probe else {})

    def facts(self) -> Mapping[str, Any]:
        return {
            "templates": [list(pair) for pair in self.templates],
            "wordings": {instruction: list(texts) for instruction, texts in self.wordings.items()},
        }

    @classmethod
    def load(cls, artifact: Artifact, device: torch.device | str = "cpu") -> ClipScorer:
        facts = artifact.metadata
        backbone = Backbone(f"local-dir:{artifact.path}").to(device)
        probe = artifact.tensors(PROBE_FILE) if PROBE_FILE in artifact.files else {}
        return cls(
            backbone,
            facts.get("wordings"),
            [PromptPair(*pair) for pair in facts["templates"]],
            {instruction: direction.to(device) for instruction, direction in probe.items()},
        )


def freeze_but_lora(backbone: Backbone, rank: int, seed: int) -> Any:
    """Freeze CLIP and lay 2 B A of rank r beside every weight of the picture tower (LoRA, Hu et al. 2021).

    Returns:
        peft's model of it; `merge_lora` makes plain weights of it again.
    """
    from peft import LoraConfig, LoraModel

    kinds = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
    inside = [name for name, m in backbone.clip.named_modules() if isinstance(m, nn.MultiheadAttention)]
    targets = [
        name
        for name, module in backbone.clip.named_modules()
        if name.startswith("visual.")
        and "attnpool" not in name  # it reads its layers' weights past their forward
        and isinstance(module, kinds)
        and not any(name.startswith(f"{outer}.") for outer in inside)
    ]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LoraModel(backbone.clip, config, "default")


def merge_lora(backbone: Backbone, lora: Any) -> None:
    """W <- W + 2 B A: the backbone is plain open_clip again, and saved as such."""
    backbone.clip = lora.merge_and_unload()
