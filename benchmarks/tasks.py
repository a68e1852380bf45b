"""What every WidowX task owes: its expert's success, with and without noise, and pairs without a reset.

For each registered task: success of the scripted expert on held-out seeds without noise and at the task's
documented noise, and the mean number of steps; for candies also the mean share swept. For each pair, on one
scene that is never reset: how many of the alternating forward and backward episodes succeed.

`python -m benchmarks.tasks [TASK ...] --json FILE` measures what FILE does not hold yet, and writes FILE
after each task. Noise levels are chosen with `--sweep .1,.2`, on validation seeds.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

import sim
from benchmarks.harness import Row, machine, show, versions, write_json
from robot_rl.data import schema
from sim.tasks import TASKS
from sim.widowx import WidowXEnv

EPISODES, ALTERNATIONS = 100, 40


def episode(env: WidowXEnv, noise: float, generator: np.random.Generator) -> tuple[bool, int]:
    """The expert's success in the episode that `env` is at the start of, and its number of steps."""
    steps, ended = 0, False
    while not ended:
        action = env.expert_action()
        action[:-1] += noise * generator.standard_normal(len(action) - 1).astype(np.float32)
        *_, terminated, truncated, _ = env.step(np.clip(action, -1.0, 1.0))
        steps, ended = steps + 1, terminated or truncated
    return terminated, steps


def success_rows(name: str, noise: float, seeds: Iterable[int]) -> list[Row]:
    """Expert success of a task over `seeds` at a noise level, and the mean number of steps."""
    env = make(name)
    successes, steps, swept = [], [], []
    for seed in seeds:
        env.reset(seed=seed)
        success, length = episode(env, noise, np.random.default_rng([seed, 1]))
        successes.append(success)
        steps.append(length)
        if "swept" in env.task.reward_weights:
            swept.append(env.task.reward_terms(env.scene)["swept"])
    env.close()
    case = f"widowx/{name}, noise {noise:g}"
    rows = [
        Row(case, "success", float(np.mean(successes)), ""),
        Row(case, "steps", float(np.mean(steps)), ""),
    ]
    return rows + [Row(case, "share swept", float(np.mean(share)), "") for share in [swept] if share]


def pair_row(name: str, alternations: int) -> Row:
    """Successes of the expert in `alternations` episodes there and back on one scene, without a reset."""
    env, successes = make(name), 0
    env.reset(seed=schema.SEED_HELD_OUT)
    for _ in range(alternations):
        success, _ = episode(env, 0.0, np.random.default_rng(0))
        successes += success
        env.reset(options={"keep_scene": True, "task": env.task.pair})
    env.close()
    return Row(f"widowx/{name} and back", "episodes in a row", float(successes), f"of {alternations}")


def make(name: str) -> WidowXEnv:
    """The state-only environment of a task."""
    env = sim.make(f"widowx/{name}", cameras=())
    assert isinstance(env, WidowXEnv)
    return env


def task_rows(name: str, episodes: int) -> list[Row]:
    """Everything about one task."""
    task = TASKS[name]
    seeds = range(schema.SEED_HELD_OUT, schema.SEED_HELD_OUT + episodes)
    rows = success_rows(name, 0.0, seeds) + success_rows(name, task.hard_noise, seeds)
    if task.pair and task.name < task.pair:
        rows.append(pair_row(name, ALTERNATIONS))
    return rows


def sweep_rows(name: str, noises: Iterable[float], episodes: int) -> list[Row]:
    """Success at several noise levels on validation seeds, to choose the documented one by."""
    seeds = range(schema.SEED_VALIDATION, schema.SEED_VALIDATION + episodes)
    return [row for noise in noises for row in success_rows(name, noise, seeds)]


def is_measured(name: str, parts: dict[str, Any]) -> bool:
    """Whether the task's rows are among `parts`, at the noise that it documents now."""
    case = f"widowx/{name}, noise {TASKS[name].hard_noise:g}"
    return name in parts and any(row["case"] == case for row in parts[name]["rows"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks")
    parser.add_argument(
        "tasks", nargs="*", metavar="TASK", help="short names; by default all not yet in FILE"
    )
    parser.add_argument("--episodes", type=int, default=EPISODES, help="at each noise level")
    parser.add_argument("--sweep", metavar="NOISE,...", help="these noise levels, on validation seeds")
    parser.add_argument("--again", action="store_true", help="also the tasks that FILE holds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write here after each task")
    options = parser.parse_args()
    unknown = [name for name in options.tasks if name not in TASKS]
    if unknown:
        parser.error(f"unknown tasks {', '.join(unknown)}; choose from {', '.join(TASKS)}")
    noises = [float(noise) for noise in (options.sweep or "").split(",") if noise]
    file: Path | None = options.json
    done = json.loads(file.read_text())["parts"] if file and file.exists() else {}
    chosen = [name for name in options.tasks or TASKS if options.again or not is_measured(name, done)]
    for name in track(chosen, "tasks"):
        host = machine()
        if noises:
            rows = sweep_rows(name, noises, options.episodes)
        else:
            rows = task_rows(name, options.episodes)
        part = {
            "machine": host,
            "versions": versions(("mujoco", "gymnasium", "numpy")),
            "episodes": options.episodes,
            "command": shlex.join(["python", "-m", "benchmarks.tasks", *sys.argv[1:]]),
            "rows": [asdict(row) for row in rows],
        }
        done[name] = part
        if file:
            write_json(file, {"benchmark": "tasks", "parts": {n: done[n] for n in TASKS if n in done}})
        else:
            show(f"widowx/{name}", rows)


if __name__ == "__main__":
    main()
