"""What an energy budget leaves of the tasks' success: the scripted experts with and without it, paired.

    python -m benchmarks.liveness --json benchmarks/results/liveness.json
    python -m benchmarks.liveness --json FILE --tasks push,drawer_open --budgets default --episodes 20
    python -m benchmarks.liveness --json FILE --plot docs/liveness.svg        draws what the file holds

Validation seeds, each task at the noise of its demonstrations (`demo_noise`): there the experts mostly
succeed, so that pairs of episodes can tell a loss of 5 %. Every task with the default budget and without a
filter, the tasks of `CURVE` under all budgets; no cameras. The file grows by `CHUNK` episodes of one task
under one budget at a time; a call with it goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import track

import sim
from benchmarks.harness import machine, versions
from robot_rl.data import schema
from robot_rl.data.artifact import atomic_write
from robot_rl.errors import unknown
from robot_rl.safety import GuardConfig, GuardFilter, PassivityConfig

NONE, DEFAULT = "no filter", "default"
BUDGETS: dict[str, dict[str, Any] | None] = {
    NONE: None,
    "passive 2 J": {"mode": "passive", "tank_max_j": 2.0, "power_w": 0.0},
    "passive 4 J": {"mode": "passive", "tank_max_j": 4.0, "power_w": 0.0},
    "1 J + 1 W": {"tank_max_j": 1.0, "power_w": 1.0},
    "1 J + 2 W": {"tank_max_j": 1.0, "power_w": 2.0},
    DEFAULT: {},  # 4 J + 2 W
    "4 J + 4 W": {"tank_max_j": 4.0, "power_w": 4.0},
    "8 J + 8 W": {"tank_max_j": 8.0, "power_w": 8.0},
}
"""Name -> changes of `PassivityConfig.widowx_250s`."""
CURVE = ("push", "pick_place", "drawer_open", "pot_lid_on", "weight_to_bin", "candy_sweep")
"""Tasks that are tried under every budget."""
CHUNK = 20
MEASURES = ("success", "steps", "curtailed", "starved")
"""One entry an episode: success, steps, steps curtailed by the guard, of these by energy."""

Runs = dict[str, dict[str, list[int]]]


def joint_tasks() -> list[str]:
    """The tasks whose port are joint setpoints; the mazes have springs (`robot-rl study passivity`)."""
    return [task.partition("/")[2] for task in sim.tasks() if "maze" not in task]


def chunk(task: str, budget: str, first: int, episodes: int) -> dict[str, list[int]]:
    """`MEASURES` of the expert on `episodes` validation seeds from the `first`-th on."""
    changes = BUDGETS[budget]
    passivity = None if changes is None else PassivityConfig.widowx_250s(**changes)
    env = sim.make(f"widowx/{task}", cameras=())
    arm: Any = env.unwrapped
    arm.set_command_filter(GuardFilter(GuardConfig.widowx_250s(passivity=passivity)))
    noise, energy = float(arm.task.demo_noise), schema.FILTER_REASONS.index("energy")
    result: dict[str, list[int]] = {name: [] for name in MEASURES}
    for seed in range(schema.SEED_VALIDATION + first, schema.SEED_VALIDATION + first + episodes):
        rng, over = np.random.default_rng([seed, 1]), False
        steps = curtailed = starved = 0
        env.reset(seed=seed)
        while not over:
            action = arm.expert_action()
            action[:-1] += rng.normal(0, noise, len(action) - 1)
            *_, terminated, truncated, info = env.step(np.clip(action, -1, 1).astype(np.float32))
            over = terminated or truncated
            steps += 1
            curtailed += int(info["filter_reason"] > 0)
            starved += int(info["filter_reason"] == energy)
        for name, value in zip(MEASURES, (bool(info["success"]), steps, curtailed, starved), strict=True):
            result[name].append(int(value))
    env.close()
    return result


def fill(path: Path, cases: Sequence[tuple[str, str]], episodes: int, processes: int) -> None:
    """Bring every (task, budget) of `cases` to `episodes` episodes, few of all before many of one."""
    record = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    runs: Runs = record["runs"]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for have in range(0, episodes, CHUNK):
            waiting = {}
            for task, budget in cases:
                run = runs.setdefault(f"{task}, {budget}", {name: [] for name in MEASURES})
                if len(run["success"]) <= have:
                    future = pool.submit(chunk, task, budget, have, min(CHUNK, episodes - have))
                    waiting[future] = run
            for future in track(as_completed(waiting), f"to {have + CHUNK} episodes", total=len(waiting)):
                for name, values in future.result().items():
                    waiting[future][name] += values
                record |= {
                    "benchmark": "liveness",
                    "machine": machine(),
                    "versions": versions(("numpy", "mujoco")),
                    "table": table(runs),
                }
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(path, (json.dumps(record) + "\n").encode())


def table(runs: Runs) -> dict[str, dict[str, float]]:
    """`TASK, BUDGET` -> success, share `kept` of what the same seeds gave without a filter (with a paired
    95 % bootstrap interval), share of steps curtailed and starved."""
    result = {}
    for name, run in runs.items():
        if not run["success"]:
            continue
        task, budget = name.split(", ", 1)
        steps = max(1, sum(run["steps"]))
        row = {
            "episodes": float(len(run["success"])),
            "success": float(np.mean(run["success"])),
            "curtailed": sum(run["curtailed"]) / steps,
            "starved": sum(run["starved"]) / steps,
        }
        bare = runs.get(f"{task}, {NONE}", {"success": []})["success"]
        pairs = min(len(bare), len(run["success"]))
        if budget != NONE and sum(bare[:pairs]):
            row |= kept(np.array(run["success"][:pairs]), np.array(bare[:pairs]))
        result[name] = row
    return result


def kept(filtered: npt.NDArray[np.int64], bare: npt.NDArray[np.int64]) -> dict[str, float]:
    """Successes with the filter over those without, (episodes,) of 0 and 1, paired."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(bare), size=(2000, len(bare)))
    wins = bare[drawn].sum(1)
    ratios = filtered[drawn].sum(1)[wins > 0] / wins[wins > 0]
    low, high = np.percentile(ratios, (2.5, 97.5))
    return {"kept": float(filtered.sum() / bare.sum()), "kept_low": float(low), "kept_high": float(high)}


def plot(path: Path, out: Path) -> None:
    """The liveness curve: for each budget the share of success kept, a dot a task and the mean."""
    import matplotlib.pyplot as plt

    rows = json.loads(path.read_text())["table"]
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    names = [name for name in BUDGETS if name != NONE]
    rng = np.random.default_rng(0)
    for x, chosen in enumerate(names):
        values = [row["kept"] for name, row in rows.items() if name.endswith(f", {chosen}") and "kept" in row]
        if values:
            axes.plot(x + rng.uniform(-0.15, 0.15, len(values)), values, "o", color="tab:blue", alpha=0.5)
            axes.plot([x - 0.25, x + 0.25], [np.mean(values)] * 2, color="black")
    axes.axhline(0.95, color="tab:red", linewidth=0.8, linestyle="--")
    budget = PassivityConfig.widowx_250s()
    default = f"{DEFAULT}:\n{budget.tank_max_j:g} J + {budget.power_w:g} W"
    axes.set_xticks(range(len(names)), [default if name == DEFAULT else name for name in names], fontsize=8)
    axes.set_ylabel("success kept")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


def _chosen(text: str | None, valid: Sequence[str], kind: str) -> list[str]:
    names = list(valid) if text is None else text.split(",")
    for name in names:
        if name not in valid:
            raise unknown(kind, name, valid)
    return names


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.liveness")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="grows; goes on from it")
    parser.add_argument("--tasks", help="comma-separated; all but the mazes by default")
    parser.add_argument("--budgets", help=f"comma-separated, of {', '.join(BUDGETS)}")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--plot", type=Path, metavar="FILE", help="only draw what the file holds")
    options = parser.parse_args()
    if options.plot is not None:
        plot(options.json, options.plot)
        return
    tasks = _chosen(options.tasks, joint_tasks(), "task")
    budgets = _chosen(options.budgets, list(BUDGETS), "budget")
    cases = [
        (task, budget)
        for task in tasks
        for budget in budgets
        if options.budgets or task in CURVE or budget in (NONE, DEFAULT)
    ]
    fill(options.json, cases, options.episodes, options.processes)


if __name__ == "__main__":
    main()
