"""What the safety layer costs, and what it stands: time, memory, adversaries, liveness.

    python -m benchmarks.safety                 time of filter and guard, next to a daqp QP filter; growth
    python -m benchmarks.safety --adversaries   five attacks and a searched one, with and without the filter
    python -m benchmarks.safety --liveness      budgets against the experts' success on every WidowX task

`--quick` is a rough figure in a fraction of the time. A QP filter (the common alternative) is timed where
`daqp` is installed: min |u' - u|^2 in 6 variables under 24 inequalities, the size of a joint-space barrier
filter. safe-control-gym's `certify_action` is not on the package index and is not timed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import sim
from benchmarks.adversaries import (
    ATTACKS,
    DAMPING,
    HOME,
    STIFFNESS,
    Outcome,
    Plant,
    assail,
    filter_config,
    optimised,
)
from benchmarks.harness import Row, run
from robot_rl.data import schema
from robot_rl.safety import Command, CommandGuard, GuardConfig, GuardFilter, JointState, PassivityConfig
from robot_rl.safety.passivity import PassivityFilter

PERIOD_S = 1 / schema.SETPOINT_HZ
HOUR = 3600 * schema.SETPOINT_HZ
PERCENTILES = (("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9), ("maximum", 100.0))
CONTACT_TOLERANCE_J = 0.03
"""Largest rise of S in a step that counts as none in contact: the contacts' own springs are not in S."""
BUDGETS: dict[str, dict[str, Any] | None] = {
    "no filter": None,
    "passive 2 J": {"mode": "passive", "tank_max_j": 2.0, "power_w": 0.0},
    "passive 4 J": {"mode": "passive", "tank_max_j": 4.0, "power_w": 0.0},
    "1 J + 1 W": {"tank_max_j": 1.0, "power_w": 1.0},
    "1 J + 2 W": {"tank_max_j": 1.0, "power_w": 2.0},
    "4 J + 2 W (default)": {},
    "4 J + 4 W": {"power_w": 4.0},
}

Step = Callable[[int], Any]


def _motion(size: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Requests (4096, size): smooth, with a jump now and then, so that the tank has something to refuse."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(4096)[:, None] * PERIOD_S
    waves = 0.3 * np.sin(time_s * rng.uniform(0.5, 4.0, size) + rng.uniform(0, 6, size))
    return waves + 0.2 * rng.normal(size=waves.shape) * (rng.random((4096, 1)) < 0.02)


def filter_step(joints: int = 6) -> Step:
    """One step of the filter on six joints, on arrays, as a caller meets it."""
    passivity = PassivityFilter(filter_config(mode="energy_bounded", power_w=2.0))
    motion, stiffness, damping = _motion(joints), STIFFNESS[:joints], DAMPING[:joints]
    passivity.reset(HOME[:joints], HOME[:joints], stiffness, damping)
    position = HOME[:joints].copy()

    def step(k: int) -> None:
        result = passivity.step(
            q=position,
            setpoint=HOME[:joints] + motion[k % 4096],
            stiffness=stiffness,
            damping=damping,
        )
        position[:] += 0.2 * (result.setpoint - position)

    return step


def guard_step() -> Step:
    """One step of the whole command path of a WidowX, passivity filter included."""
    guard = CommandGuard(GuardConfig.widowx_250s(passivity=PassivityConfig.widowx_250s()))
    home = np.append(HOME, 0.03)
    motion = _motion(7) * np.array([1, 1, 1, 1, 1, 1, 0.01])
    guard.reset(home, 0.0)
    position = home.copy()

    def step(k: int) -> None:
        now = k * PERIOD_S
        decision = guard.step(Command(home + motion[k % 4096], now, k), JointState(position.copy(), now), now)
        assert decision.executed is not None
        position[:] += 0.2 * (decision.executed - position)

    return step


def qp_step() -> Step:
    """The same decision as a QP: nearest setpoint within position, rate, leash and energy-rate bounds."""
    from ctypes import c_int

    import daqp

    motion, rng = _motion(6), np.random.default_rng(0)
    hessian, kinds = np.eye(6), np.zeros(24, c_int)
    rows = np.ascontiguousarray(rng.normal(size=(18, 6)))

    def step(k: int) -> None:
        asked = motion[k % 4096]
        high = np.concatenate([np.full(6, 0.25), np.full(18, 0.2)])
        daqp.solve(hessian, -asked, rows, high, -high, kinds)

    return step


def timed(step: Step, calls: int) -> npt.NDArray[np.float64]:
    """Seconds of each of `calls` calls, after a tenth as many to warm up."""
    warm = calls // 10
    for k in range(warm):
        step(k)
    taken = np.empty(calls)
    for k in range(calls):
        start = time.perf_counter()
        step(warm + k)
        taken[k] = time.perf_counter() - start
    return taken


def growth(step: Step, steps: int) -> int:
    """Bytes that `steps` steps leave allocated, after a warm-up."""
    for k in range(2000):
        step(k)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for k in range(steps):
            step(2000 + k)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before


def measure(quick: bool) -> list[Row]:
    """Microseconds per step by percentile, and growth over an hour of simulated time."""
    calls, rounds = (5_000, 2) if quick else (40_000, 5)
    steps: dict[str, Step] = {"passivity filter": filter_step(), "command guard": guard_step()}
    with contextlib.suppress(ImportError):
        steps["daqp QP filter"] = qp_step()
    taken: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            taken[name].append(timed(step, calls // rounds))
    rows = [
        Row(name, f"time {label}", 1e6 * float(np.percentile(np.concatenate(values), share)), "us")
        for name, values in taken.items()
        for label, share in PERCENTILES
    ]
    for name in ("passivity filter", "command guard"):
        hour = HOUR // 20 if quick else HOUR
        rows.append(Row(name, f"growth over {hour} steps", growth(steps[name], hour), "bytes"))
    return rows


def adversaries(quick: bool) -> list[Row]:
    """Every attack on the filtered arm, free and in contact, and unfiltered."""
    steps, seeds, generations = (1_000, 1, 3) if quick else (100_000, 5, 60)
    rows: list[Row] = []
    for torque_limits in (False, True):
        config = filter_config(torque_limits)
        plant, touching = Plant(False, torque_limits), Plant(True, torque_limits)
        servo = "limited torque" if torque_limits else "unlimited torque"
        attacks = ATTACKS | {"searched": optimised(plant, config, generations, 150, seed=0)}
        for name, attack in attacks.items():
            for where, arm, budget, tolerance in (
                ("free", plant, config, 1e-6),
                ("contact", touching, config, CONTACT_TOLERANCE_J),
                ("free, no filter", plant, None, 1e-6),
            ):
                outcome = Outcome()
                length = steps if budget is not None else min(steps, 1_000)
                for seed in range(seeds):
                    outcome = outcome.merge(assail(arm, attack, budget, length, seed, tolerance))
                rows += _rows(f"{name}, {where}, {servo}", outcome)
    return rows


def _rows(case: str, outcome: Outcome) -> list[Row]:
    return [
        Row(case, "steps", outcome.steps, ""),
        Row(case, "rises of S", outcome.rises, "steps"),
        Row(case, "largest rise of S", outcome.largest_rise, "J"),
        Row(case, "violations of the tank's bounds", outcome.tank_violations, "steps"),
        Row(case, "ledger residual", outcome.residual, "J"),
        Row(case, "peak kinetic energy", outcome.peak_kinetic, "J"),
        Row(case, "peak kinetic + spring energy", outcome.peak_energy, "J"),
    ]


def liveness(quick: bool) -> list[Row]:
    """Success, length and curtailed share of the experts at each task's documented noise."""
    episodes = 5 if quick else 100
    rows = []
    for task in sim.tasks():
        if not task.startswith("widowx/") or task.startswith("widowx/maze"):
            continue
        for budget, changes in BUDGETS.items():
            passivity = None if changes is None else PassivityConfig.widowx_250s(**changes)
            result = expert_success(task, GuardConfig.widowx_250s(passivity=passivity), episodes)
            for (metric, unit), value in zip(
                (("success", ""), ("steps", ""), ("curtailed steps", ""), ("energy-curtailed steps", "")),
                result,
                strict=True,
            ):
                rows.append(Row(f"{task}, {budget}", metric, value, unit))
    return rows


def expert_success(
    task: str, guard: GuardConfig, episodes: int, noise: float | None = None
) -> tuple[float, float, float, float]:
    """Success, steps an episode, share of steps curtailed, and by energy, on validation seeds."""
    env = sim.make(task, cameras=())
    arm: Any = env.unwrapped
    arm.set_command_filter(GuardFilter(guard))
    if noise is None:
        noise = float(getattr(arm.task, "hard_noise", 0.3))
    energy = schema.FILTER_REASONS.index("energy")
    wins = steps = curtailed = starved = 0
    for seed in range(schema.SEED_VALIDATION, schema.SEED_VALIDATION + episodes):
        rng, over = np.random.default_rng([seed, 1]), False
        env.reset(seed=seed)
        while not over:
            action = arm.expert_action()
            action[:-1] += rng.normal(0, noise, len(action) - 1)
            *_, terminated, truncated, info = env.step(np.clip(action, -1, 1).astype(np.float32))
            over = terminated or truncated
            steps += 1
            curtailed += info["filter_reason"] > 0
            starved += info["filter_reason"] == energy
        wins += bool(info["success"])
    env.close()
    return wins / episodes, steps / episodes, curtailed / steps, starved / steps


MODES = {"--adversaries": adversaries, "--liveness": liveness}

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chosen = [flag for flag in MODES if flag in sys.argv[1:]]
    run("safety", ("numpy", "mujoco", "daqp"), MODES[chosen[0]] if chosen else measure, flags=MODES)
