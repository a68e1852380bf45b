"""What of CLIP is trained: everything, LoRA on the picture tower, or a linear probe.

full   all weights; from scratch or from a checkpoint
lora   W + 2 B A of rank r beside the picture tower's weights (Hu et al. 2021); merged when done
probe  a direction d_i per instruction on frozen features, which start as the text's
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reward_vlm.backbone import Backbone
from reward_vlm.clip import ClipScorer, freeze_but_lora, merge_lora
from reward_vlm.config import RewardConfig
from reward_vlm.judge import Pictures
from reward_vlm.prompts import TEMPLATES, normalised, prompt_pairs
from robot_rl.errors import MissingExtraError

WORD_DROPOUT = 0.3
"""Share of an instruction's words that the wording loss leaves out."""


class ClipTrainee:
    """What `RewardLearner` trains of an open_clip model: a `Trainee`."""

    def __init__(self, instructions: Sequence[str], config: RewardConfig) -> None:
        self.config = config
        self.backbone = Backbone(config.model, config.pretrained, config.seed).to(config.device)
        self._instructions = list(instructions)
        self._wordings = {each: config.wordings_of(each) for each in instructions}
        self._lora = None
        self.module: nn.Module = self.backbone
        self._frozen: Tensor | None = None
        self._text: Tensor | None = None
        if config.tuning != "full":
            self.backbone.eval().requires_grad_(False)
            with torch.no_grad():
                self._frozen = self._text_directions()
        if config.tuning == "lora":
            try:
                self._lora = freeze_but_lora(self.backbone, config.lora_rank, config.seed)
            except ImportError as error:
                raise MissingExtraError("peft", "vlm") from error
        if config.tuning == "probe":
            assert self._frozen is not None
            self.module = nn.Module()
            self.module.register_parameter("direction", nn.Parameter(self._frozen.clone()))
            self.module.register_parameter("logit_scale", self.backbone.clip.logit_scale)
        self.backbone.clip.logit_scale.requires_grad_(True)

    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    def pixels(self, pictures: Pictures) -> Tensor:
        """(B, C, 3, h, w) in [0, 1] at the model's size."""
        return self.backbone.pixels(pictures.reshape(-1, *pictures.shape[2:])).unflatten(
            0, pictures.shape[:2]
        )

    def logits(self, pixels: Tensor, instruction: Tensor) -> Tensor:
        """mean_c scale * x_c . d_i (B,)."""
        self.backbone.train(self.config.tuning == "full")  # frozen features keep their batch statistics
        cameras = pixels.shape[1]
        each = self.backbone.logits(
            pixels.flatten(0, 1), self._directions()[instruction].repeat_interleave(cameras, 0)
        )
        return each.view(-1, cameras).mean(1)

    def regulariser(self, generator: torch.Generator) -> tuple[Tensor | float, dict[str, float]]:
        """Weight * mean_i (1 - cos(d(w), d_i)) with a wording w of i that misses words; and the logit scale.

        A text tower trained from scratch knows the trained wordings alone; this makes it read words.
        """
        metrics = {"scale": self.backbone.clip.logit_scale.exp().item()}
        groups = [each for each in self._instructions if len(self._wordings[each]) > 1]
        if self.config.tuning != "full" or not groups or not self.config.wording_weight:
            return 0.0, metrics
        assert self._text is not None  # of the logits before
        targets = self._text.detach()
        pairs = []
        for each in groups:
            wordings = self._wordings[each]
            wording = wordings[int(torch.randint(len(wordings), (), generator=generator))]
            words = normalised(wording).split()
            kept = torch.rand(len(words), generator=generator) > WORD_DROPOUT
            heard = " ".join(word for word, keep in zip(words, kept, strict=True) if keep) or wording
            template = TEMPLATES[int(torch.randint(len(TEMPLATES), (), generator=generator))]
            pairs.append(template.about(heard))
        wanted = targets[[self._instructions.index(each) for each in groups]]
        loss = (1 - F.cosine_similarity(self.backbone.directions(pairs), wanted)).mean()
        return self.config.wording_weight * loss, metrics | {"wording": loss.item()}

    def scorer(self) -> ClipScorer:
        """The trained model; LoRA becomes plain weights."""
        if self._lora is not None:
            merge_lora(self.backbone, self._lora)
            self._lora = None
        probe: Mapping[str, Tensor] = {}
        if self.config.tuning == "probe":
            probe = dict(zip(self._instructions, self._directions().detach(), strict=True))
        wordings = {each: texts for each, texts in self._wordings.items() if len(texts) > 1}
        return ClipScorer(self.backbone, wordings, probe=probe)

    def _directions(self) -> Tensor:
        """d (I, D)."""
        if self.config.tuning == "probe":
            return self.module.get_parameter("direction")
        if self._frozen is not None:
            return self._frozen
        self._text = self._text_directions()
        return self._text

    def _text_directions(self) -> Tensor:
        """Text features averaged over wordings and prompts (I, D).

        One random paraphrase a step would do for pretrained text. From scratch the directions of two
        paraphrases start out orthogonal, successive steps then contradict each other, and some seeds
        never leave a loss of log 2.
        """
        return torch.stack(
            [
                self.backbone.directions(
                    [pair for wording in self._wordings[text] for pair in prompt_pairs(wording)]
                ).mean(0)
                for text in self._instructions
            ]
        )
