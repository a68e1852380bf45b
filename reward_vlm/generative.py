"""A generative vision-language model asked in words; its answer is read from the next token's probabilities.

    score(o, i) = log p(yes | pictures, question) - log p(no | pictures, question)

summed over the spellings of either word that are one token. Any model of transformers' image-text-to-text
class, from a folder on this machine; nothing is generated, so one forward pass answers a batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from reward_vlm.judge import Pictures
from reward_vlm.preference import Prefer, Preferences
from reward_vlm.scorer import Scores
from robot_rl.data.artifact import Artifact, Content
from robot_rl.errors import ConfigError, DataError, MissingExtraError

SAMPLES, SAMPLE_BYTES = 64, 1 << 14
"""What is read of each weights file to know it again."""


@dataclass(frozen=True)
class GenerativeConfig:
    """Attributes:
    path: folder with the model's safetensors, config, tokenizer and processor.
    question: with {} for the instruction. comparison: the same, about two pictures.
    batch: questions at once. dtype: of the weights, such as `bfloat16`.
    """

    path: str = ""
    question: str = "Has the robot managed to {}? Answer yes or no."
    comparison: str = "In which picture is the robot nearer to having managed to {}? Answer 1 or 2."
    batch: int = 8
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("question", "comparison"):
            if "{}" not in getattr(self, name):
                raise ConfigError(
                    f"generative {name} is {getattr(self, name)!r}; expected {{}} where the instruction goes"
                )
        if self.batch < 1:
            raise ConfigError(f"generative batch is {self.batch}; expected at least 1")
        if self.dtype not in ("float32", "float16", "bfloat16"):
            raise ConfigError(f"generative dtype is {self.dtype!r}; expected float32, float16 or bfloat16")


class GenerativeScorer:
    """A `Scorer`. The weights stay where they are: an artifact holds their path and a check of them."""

    backend = "generative"

    def __init__(self, config: GenerativeConfig, device: torch.device | str = "cpu") -> None:
        """
        Raises:
            ConfigError: no path. DataError: no model there that transformers can read.
            MissingExtraError: transformers is not installed.
        """
        self.config = config
        if not config.path:
            raise ConfigError("generative path is empty; expected a folder with a transformers model")
        try:
            from transformers import AutoModelForImageTextToText, AutoProcessor
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise MissingExtraError("transformers", "vlm") from error
        disable_progress_bar()
        try:
            local = {"local_files_only": True}
            self.processor: Any = AutoProcessor.from_pretrained(config.path, **local)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                config.path, dtype=getattr(torch, config.dtype), use_safetensors=True, **local
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            first = str(error).splitlines()[0]
            raise DataError(f"{config.path} holds no image-text-to-text model: {first}") from error
        self.model: Any = model.eval().to(device)
        self.processor.tokenizer.padding_side = "left"  # the answer is the last position of every row

    def score(self, pictures: Pictures, instruction: str) -> Scores:
        """As `Scorer.score`: the log odds of yes."""
        yes, no = self._tokens("yes"), self._tokens("no")
        return self._odds(pictures, self.config.question.format(instruction), yes, no)

    def prefer(self, margin: float) -> Prefer:
        """RL-VLM-F's question about two pictures, asked in both orders; log odds within `margin`: none."""
        first, second = self._tokens("1"), self._tokens("2")

        def ask(pictures0: Pictures, pictures1: Pictures, instruction: str) -> Preferences:
            question = self.config.comparison.format(instruction)
            forward = self._odds(np.concatenate([pictures0, pictures1], 1), question, second, first)
            backward = self._odds(np.concatenate([pictures1, pictures0], 1), question, second, first)
            odds = (forward - backward) / 2  # a habit of answering "2" cancels out
            return np.where(np.abs(odds) > margin, (odds > 0).astype(np.int64), -1)

        return ask

    @torch.inference_mode()
    def _odds(self, pictures: Pictures, question: str, this: Sequence[int], that: Sequence[int]) -> Scores:
        """log p(this) - log p(that) (N,) of the answer's first token."""
        found = []
        for start in range(0, len(pictures), self.config.batch):
            views = [list(moment) for moment in pictures[start : start + self.config.batch]]
            text = [self._prompt(question, len(views[0]))] * len(views)
            inputs = self.processor(images=views, text=text, return_tensors="pt", padding=True)
            logits: Tensor = (
                self.model(**inputs.to(self.model.device, self.model.dtype)).logits[:, -1].float()
            )
            odds = logits[:, list(this)].logsumexp(-1) - logits[:, list(that)].logsumexp(-1)
            found.append(odds.cpu().numpy())
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    def _prompt(self, question: str, pictures: int) -> str:
        """The question after its pictures, as the model's own chat template writes it."""
        content = [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": question}]
        prompt: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        return prompt

    def _tokens(self, word: str) -> list[int]:
        """Ids of the one-token spellings of `word`.

        Raises:
            DataError: the tokenizer has none.
        """
        tokenizer = self.processor.tokenizer
        spellings = {f"{space}{each}" for space in ("", " ") for each in (word, word.title(), word.upper())}
        encoded = (tokenizer.encode(each, add_special_tokens=False) for each in sorted(spellings))
        found = {ids[0] for ids in encoded if len(ids) == 1 and ids[0] != tokenizer.unk_token_id}
        if not found:
            raise DataError(f"the tokenizer of {self.config.path} has no token for {word!r}")
        return sorted(found)

    def files(self) -> Mapping[str, Content]:
        return {"weights.json": {"check": self._check()}}

    def facts(self) -> Mapping[str, Any]:
        return {"generative": dataclasses.asdict(self.config)}

    def _check(self) -> str:
        """Names, sizes and samples from all over the weights, hashed: gigabytes are not read for it."""
        digest = hashlib.sha256()
        for file in sorted(Path(self.config.path).glob("*.safetensors")):
            size = file.stat().st_size
            digest.update(f"{file.name}|{size}".encode())
            with file.open("rb") as stream:
                for sample in range(SAMPLES):
                    stream.seek(size * sample // SAMPLES)
                    digest.update(stream.read(SAMPLE_BYTES))
        return digest.hexdigest()

    @classmethod
    def load(cls, artifact: Artifact, device: torch.device | str = "cpu") -> GenerativeScorer:
        """
        Raises:
            DataError: the weights are others than those that were calibrated.
        """
        scorer = cls(GenerativeConfig(**artifact.metadata["generative"]), device)
        if scorer._check() != artifact.json("weights.json")["check"]:
            raise DataError(
                f"the weights in {scorer.config.path} are not those that {artifact.path} was calibrated with"
            )
        return scorer
