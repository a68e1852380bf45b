"""A page of a judge's worst mistakes as pictures: what to look at before a reward model is trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from reward_vlm.evaluation import judge_episodes
from reward_vlm.frames import is_near_miss
from reward_vlm.judge import Frames, Pictures, SuccessJudge
from reward_vlm.metrics import Probabilities
from robot_rl.data.artifact import explain_write_errors
from robot_rl.data.episode import Episode

COLUMNS = 6


@dataclass(frozen=True)
class Mistake:
    """One moment that was judged wrongly.

    Attributes:
        truth, probability: of its being a success. step: of the episode, the first is 1.
        pictures: uint8 (C, H, W, 3). origin: instruction, seed, and who acted.
    """

    truth: bool
    probability: float
    step: int
    pictures: Pictures
    origin: str

    @property
    def size(self) -> float:
        """How far the probability is off, 0 .. 1."""
        return abs(float(self.truth) - self.probability)


def worst_mistakes(
    judge: SuccessJudge,
    episodes: Sequence[Episode],
    cameras: Sequence[str],
    count: int,
    probabilities: Sequence[Probabilities] | None = None,
) -> list[Mistake]:
    """The `count` moments whose decision is wrong by most, at most one of either kind from an episode."""
    if probabilities is None:
        probabilities = judge_episodes(judge.judge, episodes)
    found = []
    for episode, p in zip(episodes, probabilities, strict=True):
        wrong = (p >= judge.threshold) != episode.success
        for truth in (False, True):
            of_kind = np.flatnonzero(wrong & (episode.success == truth))
            if len(of_kind) == 0:
                continue
            t = int(of_kind[np.abs(p[of_kind] - truth).argmax()])
            facts = episode.metadata
            kind = facts.source if is_near_miss(episode) else "attempt"
            origin = f"{facts.instruction}\n{kind}, seed {facts.seed}"
            (pictures,) = Frames.of(episode).where(np.array([t])).pictures(cameras)
            found.append(Mistake(truth, float(p[t]), t + 1, pictures, origin))
    return sorted(found, key=lambda mistake: -mistake.size)[:count]


def mistakes_page(path: str | Path, mistakes: Sequence[Mistake], title: str) -> None:
    """Draw the mistakes into a PNG, false successes in red and missed ones in blue.

    Raises:
        DataError: the place cannot be written.
    """
    rows = max(1, -(-len(mistakes) // COLUMNS))
    figure = Figure(figsize=(3 * COLUMNS, 2.9 * rows + 0.6), layout="constrained")
    figure.suptitle(f"{title}: {len(mistakes)} worst mistakes (red: false success, blue: missed success)")
    for place, mistake in enumerate(mistakes):
        axes = figure.add_subplot(rows, COLUMNS, place + 1)
        axes.imshow(np.concatenate(list(mistake.pictures), 1), interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(
            f"{mistake.origin}, step {mistake.step}, p = {mistake.probability:.3f}",
            fontsize=7,
            color="tab:blue" if mistake.truth else "tab:red",
        )
    with explain_write_errors(Path(path)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=90)
