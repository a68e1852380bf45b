"""Environment steps per second with a 64x64 picture: this project's environments and others' defaults.

Each case runs in turns of the same process; a step is one decision of the policy and its picture.
An episode that ends is reset within its step. `robosuite Lift` is robosuite as it comes (Panda, 20 Hz,
one 64x64 camera, shadows on); `Meta-World drawer-open-v3` is Meta-World's own `render()` at 64x64 after
each of its steps.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

import sim
from benchmarks.harness import Row, interleaved_rates, ratio_rows, run
from robot_rl.errors import MissingExtraError

OURS = ("widowx/push", "metaworld/drawer-open-v3", "robosuite/Lift")
SUBJECT = "widowx/push"


def stepper(env: Any, generator: np.random.Generator, picture: bool = False) -> Callable[[], None]:
    """One random step of a Gymnasium environment, with `render()` where the observation holds no picture."""
    env.reset(seed=0)
    shape = env.action_space.shape

    def step() -> None:
        *_, terminated, truncated, _ = env.step(generator.uniform(-1, 1, shape).astype(np.float32))
        if picture:
            env.render()
        if terminated or truncated:
            env.reset()

    return step


def metaworld_defaults(generator: np.random.Generator) -> Callable[[], None]:
    """Meta-World through its own registration and renderer."""
    import gymnasium
    import metaworld  # noqa: F401 - registers the environment

    env = gymnasium.make(
        "Meta-World/MT1",
        env_name="drawer-open-v3",
        render_mode="rgb_array",
        camera_name="corner2",
        width=64,
        height=64,
    )
    return stepper(env, generator, picture=True)


def robosuite_defaults(generator: np.random.Generator) -> Callable[[], None]:
    """robosuite as it comes: Panda, its default controller and rate, shadows on."""
    logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)
    import robosuite

    env = robosuite.make(
        "Lift",
        robots="Panda",
        has_renderer=False,
        has_offscreen_renderer=True,
        use_camera_obs=True,
        camera_names="agentview",
        camera_heights=64,
        camera_widths=64,
        horizon=10**9,
    )
    env.reset()
    size = env.action_dim

    def step() -> None:
        env.step(generator.uniform(-1, 1, size))

    return step


def measure(quick: bool) -> list[Row]:
    """The rates of every installed case, then the ratios of `widowx/push` to the others."""
    warnings.simplefilter("ignore")
    generator = np.random.default_rng(0)
    cases: dict[str, Callable[[], None]] = {}
    for task in OURS:
        try:
            cases[task] = stepper(sim.make(task), generator)
        except MissingExtraError:
            continue
    for name, make in (
        ("robosuite Lift, its defaults", robosuite_defaults),
        ("Meta-World drawer-open-v3, its renderer", metaworld_defaults),
    ):
        try:
            cases[name] = make(generator)
        except ImportError:
            continue
    rounds, seconds = (2, 0.5) if quick else (7, 3.0)
    rates = interleaved_rates(cases, rounds, seconds)
    rows = [Row(name, "steps per second", median(values), "1/s") for name, values in rates.items()]
    return rows + ratio_rows(rates, SUBJECT, "speed ratio")


if __name__ == "__main__":
    run("sim", ("mujoco", "gymnasium", "metaworld", "robosuite", "numpy"), measure)
