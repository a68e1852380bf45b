"""The episodes that `benchmarks.reward` trains, tunes and measures on: collected once, kept, resumable.

For each task: demonstrations and disturbed attempts as they come (so at the true base rate of such attempts),
and near misses in which the arm only stirs. Each under the nominal looks, and under another light and camera
(`sim.randomisation`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from robot_rl.cli.collect import Collector, Portion
from robot_rl.cli.config import resolve
from robot_rl.cli.simulation import Simulation
from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.data.store import EpisodeStore
from sim.tasks import TASKS

CAMERAS = ("front", "side")
STIR_STEPS = 12
"""Length of a near-miss episode: the arm only stirs."""
DISTURBED = 1.0
"""Noise on the expert's actions at which most attempts fail."""
# What a room and a shaken tripod do. The test's range is wider than the one trained under.
TRAINED_LOOKS = "{camera_position_m:0.015,camera_rotation_rad:0.02,light:0.4,colour:0.05}"
CHANGED_LOOKS = "{camera_position_m:0.02,camera_rotation_rad:0.03,light:0.5,colour:0.06}"


@dataclass(frozen=True)
class Amounts:
    """Episodes of one split of one task, under one look: demonstrations, disturbed ones, near misses."""

    demos: int
    disturbed: int
    near_misses: int


@dataclass(frozen=True)
class Split:
    """Attributes:
    looks: name -> the simulator's randomisation ("" = none). first_seed: of a range used for nothing else.
    """

    name: str
    first_seed: int
    looks: dict[str, str]
    amounts: Amounts


def splits(quick: bool) -> dict[str, Split]:
    """`train` to learn and to tune on (the learner holds a part of it back), `test` to quote."""
    train = Amounts(10, 8, 8) if quick else Amounts(36, 20, 24)
    test = Amounts(8, 6, 8) if quick else Amounts(50, 25, 32)
    found = [
        Split("train", schema.SEED_DEMOS, {"plain": "", "changed": TRAINED_LOOKS}, train),
        Split("test", schema.SEED_HELD_OUT, {"plain": "", "changed": CHANGED_LOOKS}, test),
    ]
    return {split.name: split for split in found}


def episodes(folder: Path, task: str, split: Split, look: str) -> list[Episode]:
    """The split's episodes of `task` (short name) under `look`, collected on the first call."""
    return [
        episode
        for name, portion, steps in _portions(task, split.amounts)
        for episode in _kept(folder / task / f"{split.name}-{look}-{name}", task, split, look, portion, steps)
    ]


def _portions(task: str, amounts: Amounts) -> Iterator[tuple[str, Portion, int]]:
    """(name, portion, longest episode; 0 = the task's own)."""
    yield "demos", Portion(amounts.demos, TASKS[task].demo_noise), 0
    yield "disturbed", Portion(amounts.disturbed, DISTURBED), 0
    kinds: Sequence[str] = TASKS[task].near_misses
    for kind in kinds:
        number = max(1, amounts.near_misses // len(kinds))
        yield f"near-{kind.replace(' ', '-')}", Portion(number, 0.0, kind, success=False), STIR_STEPS


def _kept(folder: Path, task: str, split: Split, look: str, portion: Portion, steps: int) -> list[Episode]:
    store = EpisodeStore(folder, create=True)
    if len(store) < portion.episodes:
        overrides = [
            f"task=widowx/{task}",
            f"task.env.cameras=[{','.join(CAMERAS)}]",
            f"task.env.max_steps={steps}",
            "collect.workers=0",
        ]
        if split.looks[look]:
            overrides.append(f"task.env.randomisation={split.looks[look]}")
        simulation = Simulation(resolve(overrides))
        # Every portion has its own seeds, so that any of them can be collected alone.
        offset = 10_000 * (sum(map(ord, folder.name)) % 90)
        shutil.rmtree(folder)
        store = EpisodeStore(folder, create=True)
        env = simulation.vector_env(min(portion.episodes, 8), hold_steps=4)
        try:
            recorded = [
                episode
                for batch in Collector(simulation, env, "expert", split.first_seed + offset).record(portion)
                for episode in batch
            ]
        finally:
            env.close()
        store.extend(recorded)
    return store.load_all()
