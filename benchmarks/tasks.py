"""What every WidowX task owes: its expert's success, with and without noise, and pairs without a reset.

For each registered task: success of the scripted expert on held-out seeds without noise and at the task's
`demo_noise`, and the mean number of steps; for candies also the mean share swept. For each pair, on one
scene that is never reset: how many of the alternating forward and backward episodes succeed.

All tasks by default; `--push --lift` measures these alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np

import sim
from benchmarks.harness import Row, run
from robot_rl.data import schema
from sim.tasks import TASKS
from sim.widowx import WidowXEnv

EPISODES, ALTERNATIONS = 100, 20
QUICK_EPISODES, QUICK_ALTERNATIONS = 5, 4
PROCESSES = 2


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


def task_rows(name: str, episodes: int, alternations: int) -> list[Row]:
    """Everything about one task."""
    task = TASKS[name]
    seeds = range(schema.SEED_HELD_OUT, schema.SEED_HELD_OUT + episodes)
    rows = success_rows(name, 0.0, seeds) + success_rows(name, task.demo_noise, seeds)
    if task.pair and task.name < task.pair:
        rows.append(pair_row(name, alternations))
    return rows


def measure(quick: bool, names: Sequence[str]) -> list[Row]:
    """The rows of the tasks `names`, two at a time."""
    one = partial(
        task_rows,
        episodes=QUICK_EPISODES if quick else EPISODES,
        alternations=QUICK_ALTERNATIONS if quick else ALTERNATIONS,
    )
    if len(names) == 1:
        return one(names[0])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        return [row for rows in pool.map(one, names) for row in rows]


if __name__ == "__main__":
    chosen = [name for name in TASKS if f"--{name}" in sys.argv] or list(TASKS)
    run(
        "tasks",
        ("mujoco", "gymnasium", "numpy"),
        partial(measure, names=chosen),
        flags=[f"--{name}" for name in TASKS],
    )
