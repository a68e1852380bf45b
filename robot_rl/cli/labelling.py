"""`robot-rl dataset label`: a dataset's rewards and ends as a reward model sees them."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from reward_vlm import Oracle, SuccessClassifier, SuccessJudge
from reward_vlm.labelling import LabelCache, LabelConfig, label_dataset
from reward_vlm.wrapper import RewardWrapperConfig
from robot_rl.cli.progress import TerminalProgress
from robot_rl.data.formats import Dataset
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError, Interrupted

CACHE = ".labels"
"""Folder beside the labelled episodes: what was judged is not judged again."""


def label(arguments: dict[str, str]) -> None:
    """A dataset with a reward model's rewards and ends, as a store."""
    rewards = RewardWrapperConfig(
        _number(arguments, "step_reward", -1), _number(arguments, "success_reward", 0)
    )
    config = LabelConfig(arguments.get("ends", "cut"), rewards=rewards)  # type: ignore[arg-type]
    judge = load_judge(arguments["reward"], arguments.get("paraphrase"))
    source = Dataset.open(arguments["src"])
    total = len(EpisodeStore(source.path)) if source.format.name == "store" else None
    out = EpisodeStore(arguments["dst"], create=True)
    cache = LabelCache(arguments.get("cache", Path(arguments["dst"]) / CACHE))
    started = time.monotonic()
    try:
        with TerminalProgress().task("label", total or 1) as bar:
            found = label_dataset(source, out, judge, config, cache, bar.update if total else None)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; the same command goes on with {out.path}") from None
    rate = found["frames"] / max(time.monotonic() - started, 1e-9)
    print(
        f"{found['episodes']:.0f} episodes in {out.path}, {found['judged_successes']:.0f} judged successful "
        f"({found['frames']:.0f} frames now, {rate:.0f} a second)"
    )


def load_judge(source: str, paraphrase: str | None = None) -> SuccessJudge:
    """The judge that `source` names: `oracle`, or the path of a reward model."""
    if source == "oracle":
        return Oracle()
    least = None if paraphrase is None else _number({"paraphrase": paraphrase}, "paraphrase", 0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return SuccessClassifier.load(source, paraphrases=least, device=device)


def _number(arguments: dict[str, str], name: str, default: float) -> float:
    try:
        return float(arguments.get(name, default))
    except ValueError:
        raise ConfigError(f"{name}={arguments[name]!r}; expected a number") from None
