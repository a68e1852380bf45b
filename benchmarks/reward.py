"""How far the reward model that ships can be trusted: three pairs of tasks, pictures of 64x64, from scratch.

For each pair one `clip_tiny` is trained on both directions (two cameras, near misses, counterfactuals,
wordings, pose check), calibrated on episodes held back, and measured on held-out seeds at the base rate of
demonstrations, disturbed attempts and near misses as they come: under the looks of the simulator, under
another light and camera, and asked in a wording that it never met. Also: seconds of training, and frames
labelled a second.

Everything is kept under runs/benchmark_reward, and an interrupted benchmark goes on from there; that is
also where the pages of the worst mistakes are. `--pot_lid_on` measures that pair alone.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Row, run
from benchmarks.reward_data import CAMERAS, episodes, splits
from reward_vlm import RewardConfig, RewardLearner, SuccessClassifier
from reward_vlm.evaluation import metrics_of
from reward_vlm.labelling import judged_in_batches
from reward_vlm.mistakes import mistakes_page, worst_mistakes
from robot_rl.data.artifact import atomic_write
from robot_rl.data.augmentation import AugmentationConfig
from robot_rl.data.episode import Episode
from robot_rl.errors import DataError
from robot_rl.trainers.loop import train
from robot_rl.trainers.run import Run, command_line
from sim.tasks import TASKS

PAIRS = ("pot_lid_on", "pot_to_stove", "vase_to_bin")
FOLDER = Path("runs/benchmark_reward")
SAME_WORDING = 0.6
"""Cosine of text features from which an unknown wording is taken for a known instruction."""
BATCH = 1024
METRICS = (
    "auroc", "fpr", "near_miss_fpr", "recall", "precision", "ece", "base_rate", "episode_false_success",
    "failure_false_success", "episode_recall", "episode_false_failure", "frame_order", "episodes",
)  # fmt: skip


def config(quick: bool, wordings: tuple[tuple[str, ...], ...]) -> RewardConfig:
    """configs/reward/clip_paired.yaml, with the wordings of a pair."""
    return RewardConfig(
        cameras=CAMERAS,
        updates=120 if quick else 400,
        hard_fraction=0.4,
        near_miss_fraction=0.3,
        pose_margin=0.1,
        augmentation=AugmentationConfig(3, 0.35, 0.3, 0.1),
        wordings=wordings,
    )


class Timed:
    """A learner that counts the processor time of its updates, over resumes."""

    def __init__(self, learner: RewardLearner) -> None:
        self.learner, self.total_updates, self.cpu_s = learner, learner.total_updates, 0.0

    def update(self) -> dict[str, float]:
        started = time.process_time()
        metrics = self.learner.update()
        self.cpu_s += time.process_time() - started
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {"learner": self.learner.state_dict(), "cpu_s": self.cpu_s}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self.cpu_s = float(state["cpu_s"])


def pair_of(forward: str) -> tuple[str, str]:
    """Short names of a task and of the one that undoes it."""
    return forward, TASKS[forward].pair.removeprefix("widowx/")


def trained(folder: Path, pair: Sequence[str], quick: bool) -> tuple[SuccessClassifier, list[Row]]:
    """The pair's classifier and what its training took."""
    made = Run(folder) if (folder / "run.json").exists() else Run.create(folder, "", command_line())
    model, cost = made.stage_dir("reward") / "model", made.stage_dir("reward") / "cost.json"
    if not cost.exists():
        split = splits(quick)["train"]
        found = [
            e for task in pair for look in split.looks for e in episodes(folder.parent, task, split, look)
        ]
        wordings = tuple(TASKS[task].instructions[:-1] for task in pair)
        learner = Timed(RewardLearner(found, config(quick, wordings)))
        wall = train(learner, made, "reward")
        started = time.process_time()
        classifier, validation = learner.learner.finish()
        cpu = learner.cpu_s + time.process_time() - started
        classifier.save(model)
        rows = [
            Row(pair[0], "training, processor time", cpu, "s"),
            Row(pair[0], "training, wall time", wall, "s"),
            Row(pair[0], "training episodes", len(found), ""),
            *(Row(pair[0], f"validation {name}", validation[name], "") for name in METRICS),
        ]
        atomic_write(cost, json.dumps([dataclasses.asdict(row) for row in rows]).encode())
    rows = [Row(**row) for row in json.loads(cost.read_text())]
    return SuccessClassifier.load(model, paraphrases=SAME_WORDING), rows


def asked(episode: Episode, text: str) -> Episode:
    """The episode with another instruction."""
    return dataclasses.replace(episode, metadata=dataclasses.replace(episode.metadata, instruction=text))


def test_rows(
    folder: Path, classifier: SuccessClassifier, pair: Sequence[str], quick: bool, threads: int
) -> list[Row]:
    """Every measurement of a pair on the held-out seeds."""
    split, rows = splits(quick)["test"], []
    for look in split.looks:
        all_episodes, all_answers = [], []
        for task in pair:
            found = episodes(folder.parent, task, split, look)
            wall, cpu = time.perf_counter(), time.process_time()
            answers = [p for _, p in judged_in_batches(found, classifier, BATCH)]
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            frames = sum(map(len, found))
            case = f"{task}, {look}"
            figures = metrics_of(classifier, found, answers)
            rows += [Row(case, name, figures[name], "") for name in METRICS]
            rows.append(
                Row(case, f"labelled a second of processor time, {threads} threads", frames / cpu, "1/s")
            )
            rows.append(Row(case, f"labelled, wall time with {threads} threads", frames / wall, "1/s"))
            rows += wording_rows(classifier, task, found, look)
            all_episodes += found
            all_answers += answers
        page = worst_mistakes(classifier, all_episodes, CAMERAS, 24, all_answers)
        mistakes_page(folder / f"mistakes_{look}.png", page, f"{' and '.join(pair)}, {look} looks")
    return rows


def wording_rows(classifier: SuccessClassifier, task: str, found: list[Episode], look: str) -> list[Row]:
    """The same episodes, asked about in the wording that was kept from training."""
    unseen = TASKS[task].instructions[-1]
    case = f"{task}, {look}, unseen wording"
    closest = classifier.similarities(unseen)
    rows = [Row(case, "cosine to its own instruction", closest[TASKS[task].instructions[0]], "")]
    try:
        understood = classifier.instruction_for(unseen) == TASKS[task].instructions[0]
    except DataError:
        return [*rows, Row(case, "refused", 1.0, "")]
    rows.append(Row(case, "understood", float(understood), ""))
    renamed = [asked(episode, unseen) for episode in found]
    figures = metrics_of(classifier, renamed, [p for _, p in judged_in_batches(renamed, classifier, BATCH)])
    names = ("near_miss_fpr", "episode_false_success", "failure_false_success", "episode_recall")
    return rows + [Row(case, name, figures[name], "") for name in names]


def measure(quick: bool, forward: Sequence[str]) -> list[Row]:
    """All rows of the pairs, the finished ones from where they are kept."""
    rows = []
    for first in forward:
        folder = FOLDER / ("quick" if quick else "full") / f"{first}_pair"
        kept = folder / "rows.json"
        if not kept.exists():
            pair = pair_of(first)
            classifier, found = trained(folder, pair, quick)
            found += test_rows(folder, classifier, pair, quick, torch.get_num_threads())
            atomic_write(kept, json.dumps([dataclasses.asdict(row) for row in found]).encode())
        rows += [Row(**row) for row in json.loads(kept.read_text())]
    return rows + summary(rows)


def summary(rows: Sequence[Row]) -> list[Row]:
    """The worst task of each bar."""

    def of(metric: str, ending: str) -> list[float]:
        return [row.value for row in rows if row.metric == metric and row.case.endswith(ending)]

    found = []
    for metric, ending, worst in (
        ("auroc", ", plain", np.min),
        ("near_miss_fpr", ", plain", np.max),
        ("episode_false_success", ", plain", np.max),
        ("episode_recall", ", plain", np.min),
        ("episode_false_success", ", changed", np.max),
        ("episode_false_success", "unseen wording", np.max),
    ):
        values = of(metric, ending)
        if values:
            found.append(
                Row(
                    f"worst task, {ending.removeprefix(', ')}",
                    metric,
                    float(worst(values)),
                    "",
                )
            )
    return found


if __name__ == "__main__":
    chosen = [name for name in PAIRS if f"--{name}" in sys.argv]
    run(
        "reward",
        ("torch", "open_clip_torch", "mujoco", "numpy", "scikit-learn"),
        lambda quick: measure(quick, chosen or (PAIRS[:1] if quick else PAIRS)),
        flags=PAIRS,
    )
