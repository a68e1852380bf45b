"""Relabelling of whole datasets: batched, resumable, every answer cached by what it was an answer to."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from reward_vlm.debounce import fires, first_firing
from reward_vlm.evaluation import relabel
from reward_vlm.judge import Frames, SuccessJudge
from reward_vlm.metrics import Probabilities
from reward_vlm.wrapper import RewardWrapperConfig
from robot_rl.data.artifact import atomic_write
from robot_rl.data.episode import Episode
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError, DataError, unknown

Ends = Literal["cut", "keep"]
LABEL = "reward_label"
"""Key of a labelled episode's `metadata.extra`: what it was made from, and by whom."""


@dataclass(frozen=True)
class LabelConfig:
    """Attributes:
    ends: `cut`: the episode ends at the first judged success; `keep`: it stays whole, every step is rewarded.
    batch: frames judged at once. rewards: what a step is worth.
    """

    ends: Ends = "cut"
    batch: int = 1024
    rewards: RewardWrapperConfig = field(default_factory=RewardWrapperConfig)

    def __post_init__(self) -> None:
        if self.ends not in get_args(Ends):
            raise unknown("ends", str(self.ends), get_args(Ends))
        if self.batch < 1:
            raise ConfigError(f"label batch is {self.batch}; expected at least 1 frame")


class LabelCache:
    """Probabilities of episodes in files named by the hashes of episode and judge."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(self, episode_hash: str, fingerprint: str) -> Probabilities | None:
        """Probabilities (T,), or None where they are not known; a damaged file is not."""
        try:
            return safetensors.numpy.load_file(self._file(episode_hash, fingerprint))["probability"]
        except (FileNotFoundError, SafetensorError, KeyError):
            return None

    def put(self, episode_hash: str, fingerprint: str, probability: Probabilities) -> None:
        content = safetensors.numpy.save({"probability": np.ascontiguousarray(probability)})
        atomic_write(self._file(episode_hash, fingerprint), content)

    def _file(self, episode_hash: str, fingerprint: str) -> Path:
        key = hashlib.sha256(f"{episode_hash}|{fingerprint}".encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"


def judged_in_batches(
    episodes: Iterable[Episode], judge: SuccessJudge, batch: int, cache: LabelCache | None = None
) -> Iterator[tuple[Episode, Probabilities]]:
    """Each episode with its probabilities (T,), in order; what the cache knows is not asked again."""
    waiting: list[tuple[Episode, str, Probabilities | None]] = []
    frames = 0
    for episode in episodes:
        own = episode.content_hash() if cache else ""
        known = cache.get(own, judge.fingerprint) if cache else None
        waiting.append((episode, own, known))
        frames += 0 if known is not None else len(episode)
        if frames >= batch:
            yield from _answered(waiting, judge, cache)
            waiting, frames = [], 0
    yield from _answered(waiting, judge, cache)


def _answered(
    waiting: Sequence[tuple[Episode, str, Probabilities | None]],
    judge: SuccessJudge,
    cache: LabelCache | None,
) -> Iterator[tuple[Episode, Probabilities]]:
    """One question an instruction, whatever the number of episodes."""
    asked: dict[str, list[int]] = defaultdict(list)
    for i, (episode, _, known) in enumerate(waiting):
        if known is None:
            asked[episode.metadata.instruction].append(i)
    answers: dict[int, Probabilities] = {}
    for instruction, members in asked.items():
        moments = [Frames.of(waiting[i][0]) for i in members]
        keys = set.intersection(*(set(each.observations) for each in moments))
        joined = Frames(
            {key: np.concatenate([each.observations[key] for each in moments]) for key in sorted(keys)},
            instruction,
            np.concatenate([waiting[i][0].success for i in members]),
        )
        ends = np.cumsum([len(each) for each in moments])[:-1]
        answers |= dict(zip(members, np.split(judge.judge(joined), ends), strict=True))
    for i, (episode, own, known) in enumerate(waiting):
        probability = answers[i] if known is None else known
        if cache and known is None:
            cache.put(own, judge.fingerprint, probability)
        yield episode, probability


def labelled(
    episode: Episode, probability: Probabilities, judge: SuccessJudge, config: LabelConfig
) -> Episode:
    """The episode with the judge's rewards. `success` stays the recorder's truth."""
    if config.ends == "cut":
        return relabel(episode, judge, config.rewards, probability)
    fired = fires(probability >= judge.threshold, judge.debounce)
    return dataclasses.replace(episode, reward=config.rewards.reward(fired))


def label_dataset(
    source: Iterable[Episode],
    out: EpisodeStore,
    judge: SuccessJudge,
    config: LabelConfig | None = None,
    cache: LabelCache | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Append every episode of `source`, labelled, to `out`; goes on where an earlier call stopped.

    Args:
        out: empty, or what an earlier call with the same source, judge and config has left.
        progress: called with the number of episodes done.

    Returns:
        `episodes`, `frames` judged or found in the cache by this call, `judged_successes` of all episodes.

    Raises:
        DataError: `out` holds something else, `source` is empty, or the judge does not know an instruction.
    """
    config = config or LabelConfig()
    by = hashlib.sha256(f"{judge.fingerprint}|{config.ends}|{config.rewards}".encode()).hexdigest()
    episodes = iter(source)
    wins = _resumed(episodes, out, by)
    done, frames = len(out), 0
    for episode, probability in judged_in_batches(episodes, judge, config.batch, cache):
        success = first_firing(probability >= judge.threshold, judge.debounce) is not None
        note = {LABEL: {"of": episode.content_hash(), "by": by, "success": success}}
        told = labelled(episode, probability, judge, config)
        facts = dataclasses.replace(told.metadata, extra={**told.metadata.extra, **note})
        out.append(dataclasses.replace(told, metadata=facts))
        done, frames, wins = done + 1, frames + len(episode), wins + success
        if progress is not None:
            progress(done)
    if not done:
        raise DataError("the dataset holds no episodes to label; collect or fetch some first")
    return {"episodes": float(done), "frames": float(frames), "judged_successes": float(wins)}


def _resumed(episodes: Iterator[Episode], out: EpisodeStore, by: str) -> int:
    """Skip the episodes that `out` holds labels of; how many of them were judged successes."""
    wins = 0
    for i in range(len(out)):
        episode = next(episodes, None)
        found: Any = out.metadata(i).extra.get(LABEL, {})
        if episode is None or (found.get("of"), found.get("by")) != (episode.content_hash(), by):
            raise DataError(
                f"episode {i} of {out.path} is not episode {i} of this dataset with this reward model's "
                "labels: choose another place for the labelled episodes"
            )
        wins += bool(found["success"])
    return wins
