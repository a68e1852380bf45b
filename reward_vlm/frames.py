"""Labelled frames out of episodes, and which of them to learn from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from reward_vlm.judge import stacked
from robot_rl.data.episode import Episode
from robot_rl.errors import DataError

Indices = npt.NDArray[np.int64]


def frame_labels(episode: Episode) -> npt.NDArray[np.bool_]:
    """Whether each of the T+1 frames shows a success: frame t+1 is what step t led to, frame 0 is none."""
    return np.concatenate(([False], episode.success))


def refuse_without_failures(episodes: Sequence[Episode]) -> None:
    """A judge that never saw a failed attempt takes every attempt for a success.

    Raises:
        DataError: an instruction has no failed episode.
    """
    for instruction in sorted({episode.metadata.instruction for episode in episodes}):
        if all(each.succeeded for each in episodes if each.metadata.instruction == instruction):
            raise DataError(
                f"{instruction!r} has no failed episode; expected at least 1: add failures, such as "
                "robot-rl collect failures=0.5 records"
            )


def split_episodes(
    episodes: Sequence[Episode], validation_fraction: float, generator: torch.Generator
) -> tuple[list[Episode], list[Episode]]:
    """Training and validation episodes, never two halves of one; successes and failures in proportion.

    Raises:
        DataError: an instruction lacks successes or failures enough for both sides.
    """
    groups: dict[tuple[str, bool], list[Episode]] = defaultdict(list)
    for episode in episodes:
        groups[episode.metadata.instruction, episode.succeeded].append(episode)
    if not any(succeeded for _, succeeded in groups):
        raise DataError(f"none of the {len(episodes)} episodes succeeds: add successful demonstrations")
    train: list[Episode] = []
    validation: list[Episode] = []
    for (instruction, succeeded), group in sorted(groups.items()):
        if succeeded and len(group) < 2:
            raise DataError(
                f"{instruction!r} has 1 successful episode; expected at least 2, one to learn from and one "
                "to pick the threshold on: add successful demonstrations"
            )
        order = torch.randperm(len(group), generator=generator).tolist()
        held = min(len(group) - 1, max(1, round(validation_fraction * len(group))))
        validation += [group[i] for i in order[:held]]
        train += [group[i] for i in order[held:]]
    return train, validation


@dataclass(frozen=True)
class FramePool:
    """All frames of the training episodes, and the indices to draw from.

    Attributes:
        images: uint8 (F, C, H, W, 3). instruction: index into the instructions (F,).
        positives, negatives: every frame of the class. hard: the negatives that decide, namely frames
            shortly before a success (the clipped success of RoboReward), shortly after one was lost, and
            the last of a failed episode. near_misses: those of episodes that start from a near miss.
    """

    images: npt.NDArray[np.uint8]
    instruction: Indices
    positives: Indices
    negatives: Indices
    hard: Indices
    near_misses: Indices

    @classmethod
    def of(
        cls, episodes: Sequence[Episode], instructions: Sequence[str], cameras: Sequence[str], window: int
    ) -> FramePool:
        """
        Args:
            window: frames next to a success, or before a failure's end, that count as hard.

        Raises:
            DataError: the pictures differ in size, or a class is missing.
        """
        pictures = [stacked(episode.observations, cameras) for episode in episodes]
        sizes = {picture.shape[2:] for picture in pictures}
        if len(sizes) != 1:
            raise DataError(
                f"pictures of {', '.join(cameras)} differ in size: {sorted(sizes)}; expected one size"
            )
        labels = [frame_labels(episode) for episode in episodes]
        hard = np.concatenate([_hard_negatives(label, window) for label in labels])
        label = np.concatenate(labels)
        if label.all() or not label.any():
            raise DataError(f"all {len(label)} training frames are {label[0]}: expected both classes")
        near = [np.full(len(each), is_near_miss(own)) for own, each in zip(episodes, labels, strict=True)]
        numbers = [instructions.index(episode.metadata.instruction) for episode in episodes]
        return cls(
            images=np.concatenate(pictures),
            instruction=np.repeat(np.array(numbers, np.int64), [len(each) for each in labels]),
            positives=np.flatnonzero(label),
            negatives=np.flatnonzero(~label),
            hard=np.flatnonzero(hard),
            near_misses=np.flatnonzero(np.concatenate(near) & ~label),
        )

    def draw(
        self, batch: int, hard_fraction: float, near_fraction: float, generator: torch.Generator
    ) -> tuple[Indices, npt.NDArray[np.bool_]]:
        """Frame indices (B,) and labels (B,): half positives; of the negatives shares that matter more."""
        positives = batch // 2
        negatives = batch - positives
        hard = round(hard_fraction * negatives) if len(self.hard) else 0
        near = min(round(near_fraction * negatives), negatives - hard) if len(self.near_misses) else 0
        sizes = (
            (self.positives, positives),
            (self.hard, hard),
            (self.near_misses, near),
            (self.negatives, negatives - hard - near),
        )
        drawn = [pool[torch.randint(len(pool), (n,), generator=generator).numpy()] for pool, n in sizes if n]
        return np.concatenate(drawn), np.arange(batch) < positives


def is_near_miss(episode: Episode) -> bool:
    """Whether the episode was recorded from a near miss (`robot-rl collect` names it so)."""
    return episode.metadata.source.startswith("near_miss")


def _hard_negatives(label: npt.NDArray[np.bool_], window: int) -> npt.NDArray[np.bool_]:
    near = np.convolve(label, np.ones(2 * window + 1), mode="same")[: len(label)] > 0
    if not label.any():
        near = np.arange(len(label)) >= len(label) - window
    return near & ~label
