"""`robot-rl study passivity`: {aware, agnostic} x {filter, none} on the contact-rich maze."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from robot_rl.cli.figures import COLOURS
from robot_rl.cli.passivity import FILTERS, TASK, TOLERANCE_J, VARIANTS, PassivityStudyConfig, cell
from robot_rl.cli.verbs import whole_number
from robot_rl.data.artifact import atomic_write
from robot_rl.errors import ConfigError
from robot_rl.trainers.loop import Silent
from robot_rl.trainers.run import command_line, git_commit, machine, versions
from robot_rl.trainers.statistics import nested_interval

Episodes = Mapping[str, Sequence[float]]


def _rate(name: str) -> Callable[[Episodes], float]:
    return lambda episodes: float(np.mean(episodes[name]))


def _joules_per_success(episodes: Episodes) -> float:
    wins = sum(episodes["success"])
    return sum(episodes["energy"]) / wins if wins else math.inf


def _measures(budget: float) -> dict[str, tuple[str, Callable[[Episodes], float]]]:
    """Name -> (heading with unit, statistic of some episodes)."""
    return {
        "success": ("success", _rate("success")),
        "joules_per_success": ("J per success", _joules_per_success),
        "peak_force": ("peak force [N]", _rate("peak_force")),
        "curtailed": ("curtailed steps", lambda e: sum(e["curtailed"]) / sum(e["steps"])),
        "violations": (
            f"episodes over {budget:.2g} J",
            lambda e: float(np.mean([peak > budget + TOLERANCE_J for peak in e["peak_net_energy"]])),
        ),
        "peak_net_energy": ("peak net energy [J]", _rate("peak_net_energy")),
    }


def summarise(out: Path, config: PassivityStudyConfig) -> dict[str, Any]:
    """The table as data: `VARIANT, FILTER` -> measure -> mean and 95 % interval over seeds and episodes."""
    measures = _measures(config.budget_j)
    table: dict[str, Any] = {}
    for variant in VARIANTS:
        runs = [
            json.loads((out / f"{variant}_{seed}" / "evaluation.json").read_text()) for seed in config.seeds
        ]
        for name in FILTERS:
            episodes = [run[name] for run in runs]
            table[f"{variant}, {name}"] = {
                measure: dict(zip(("mean", "low", "high"), nested_interval(episodes, statistic), strict=True))
                for measure, (_, statistic) in measures.items()
            }
    return table


def _cell(value: Mapping[str, float], measure: str) -> str:
    percent = measure in ("success", "curtailed", "violations")
    numbers = [value[key] * (100 if percent else 1) for key in ("mean", "low", "high")]
    mean, low, high = ("-" if math.isinf(number) else f"{number:.3g}" for number in numbers)
    return f"{mean}{' %' if percent else ''} [{low}, {high}]"


def markdown(table: Mapping[str, Any], config: PassivityStudyConfig) -> str:
    """The table as text."""
    measures = _measures(config.budget_j)
    heads = ["training, deployment", *(heading for heading, _ in measures.values())]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, row in table.items():
        lines.append("| " + " | ".join([name, *(_cell(row[key], key) for key in measures)]) + " |")
    count = f"{len(config.seeds)} seeds x {config.evaluation} held-out episodes"
    return "\n".join([*lines, "", f"{TASK}, {count}; 95 % nested bootstrap intervals over both.", ""])


def plot(table: Mapping[str, Any], config: PassivityStudyConfig, path: Path) -> None:
    """One panel a measure, one bar a cell of the study."""
    measures = _measures(config.budget_j)
    figure, panels = plt.subplots(2, 3, figsize=(10, 5.6), layout="constrained")
    for axes, (measure, (heading, _)) in zip(panels.flat, measures.items(), strict=True):
        for x, (name, row) in enumerate(table.items()):
            value = row[measure]
            if any(map(math.isinf, value.values())):
                axes.text(x, 0, "none", ha="center", va="bottom")
                continue
            error = np.abs([[value["mean"] - value["low"]], [value["high"] - value["mean"]]])
            colour = COLOURS[VARIANTS.index(name.split(",")[0])]
            hatch = "" if name.endswith(FILTERS[0]) else "//"
            axes.bar(x, value["mean"], 0.6, yerr=error, capsize=4, color=colour, alpha=0.6, hatch=hatch)
        axes.set_title(heading, loc="left", fontsize=9)
        axes.set_xticks(range(len(table)), [name.replace(", ", "\n") for name in table], fontsize=8)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _configured(arguments: Mapping[str, str]) -> PassivityStudyConfig:
    config = PassivityStudyConfig.quick() if "quick" in arguments else PassivityStudyConfig()
    changes: dict[str, Any] = {}
    if "seeds" in arguments:
        words = arguments["seeds"].split(",")
        if not all(word.isdigit() for word in words):
            raise ConfigError(f"seeds={arguments['seeds']!r}; expected whole numbers, such as 0,1,2")
        changes["seeds"] = tuple(int(word) for word in words)
    for name in ("episodes", "evaluation"):
        if name in arguments:
            changes[name] = whole_number(dict(arguments), name, 1)
    return dataclasses.replace(config, **changes)


def study(arguments: dict[str, str], overrides: list[str]) -> int:
    """Train, judge, and write table and plots; goes on where an earlier call stopped."""
    config = _configured(arguments)
    out = Path(arguments.get("out", "runs/passivity"))
    jobs = [(variant, seed) for seed in config.seeds for variant in VARIANTS]
    workers = min(whole_number(arguments, "jobs", 2), len(jobs))
    if workers == 1:
        for variant, seed in jobs:
            cell(out, variant, seed, config, Silent())
            print(f"{variant}, seed {seed}: done", flush=True)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context) as pool:
            futures = {pool.submit(cell, out, *job, config, Silent()): job for job in jobs}
            for future in as_completed(futures):
                future.result()
                print("{}, seed {}: done".format(*futures[future]), flush=True)
    table = summarise(out, config)
    text = markdown(table, config)
    record = {
        "command": command_line(),
        "config": dataclasses.asdict(config),
        "git_commit": git_commit(),
        "versions": versions(),
        "machine": machine(),
        "table": table,
    }
    atomic_write(out / "results.json", json.dumps(record, indent=2).encode())
    atomic_write(out / "table.md", text.encode())
    plot(table, config, out / "figure.svg")
    print(f"\n{text}\n{out / 'results.json'}, table.md and figure.svg written")
    return 0
