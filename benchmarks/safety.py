"""What the safety layer costs: time and memory.

    python -m benchmarks.safety [--realtime] [--json FILE]

Time of the filter and of the whole guard, beside a QP filter (the common alternative) where `daqp` is
installed: min |u' - u|^2 in 6 variables under 24 inequalities, the size of a joint-space barrier filter. Only
the call is timed, not what makes its arguments. safe-control-gym is not on the package index; where `casadi`
is installed, the problem that its `CBF.certify_action` solves at each step is posed and solved as there, for
its cart-pole, the only system that it is for. Percentiles are those of a round of 2,000 calls, the median
over 50 rounds; the maximum is that of all calls. `--realtime` (Linux, with the right to) gives the timing,
and it alone, the last core under SCHED_FIFO for some seconds: what a quiet core shows on a machine that does
other work.

What the layer does to the tasks' success is `python -m benchmarks.liveness`, what it stands
`python -m benchmarks.adversaries`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.attacks import DAMPING, HOME, STIFFNESS, filter_config
from benchmarks.harness import Row, run
from robot_rl.data import schema
from robot_rl.safety import Command, CommandGuard, GuardConfig, JointState, PassivityConfig
from robot_rl.safety.passivity import PassivityFilter

PERIOD_S = 1 / schema.SETPOINT_HZ
HOUR = 3600 * schema.SETPOINT_HZ
PERCENTILES = (("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9))
ROUND = 2000
CYCLE = 4096

Step = Callable[[int], float]
"""One step of what is measured, the k-th; returns the seconds that the call itself took."""


def _motion(size: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Requests (CYCLE, size): smooth, with a jump now and then, so that the tank has something to refuse."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(CYCLE)[:, None] * PERIOD_S
    waves = 0.3 * np.sin(time_s * rng.uniform(0.5, 4.0, size) + rng.uniform(0, 6, size))
    return waves + 0.2 * rng.normal(size=waves.shape) * (rng.random((CYCLE, 1)) < 0.02)


def filter_step() -> Step:
    """The filter on six joints, on arrays, as a caller meets it."""
    passivity = PassivityFilter(filter_config(mode="energy_bounded", power_w=2.0))
    motion = HOME + _motion(6)
    passivity.reset(HOME, HOME, STIFFNESS, DAMPING)
    position = HOME.copy()

    def step(k: int) -> float:
        asked = motion[k % CYCLE]
        start = time.perf_counter()
        result = passivity.step(q=position, setpoint=asked, stiffness=STIFFNESS, damping=DAMPING)
        taken = time.perf_counter() - start
        position[:] += 0.2 * (result.setpoint - position)
        return taken

    return step


def guard_step() -> Step:
    """The whole command path of a WidowX, passivity filter included."""
    guard = CommandGuard(GuardConfig.widowx_250s(passivity=PassivityConfig.widowx_250s()))
    home = np.append(HOME, 0.03)
    motion = home + _motion(7) * np.array([1, 1, 1, 1, 1, 1, 0.01])
    guard.reset(home, 0.0)
    position = home.copy()

    def step(k: int) -> float:
        now = k * PERIOD_S
        command, state = Command(motion[k % CYCLE], now, k), JointState(position.copy(), now)
        start = time.perf_counter()
        decision = guard.step(command, state, now)
        taken = time.perf_counter() - start
        assert decision.executed is not None
        assert not decision.latched
        position[:] += 0.2 * (decision.executed - position)
        return taken

    return step


def qp_step() -> Step:
    """The same decision as a QP: nearest setpoint within position, rate, leash and energy-rate bounds."""
    from ctypes import c_int

    import daqp

    motion, rng = _motion(6), np.random.default_rng(0)
    hessian, kinds = np.eye(6), np.zeros(24, c_int)
    rows = np.ascontiguousarray(rng.normal(size=(18, 6)))
    high = np.concatenate([np.full(6, 0.25), np.full(18, 0.2)])
    low = -high

    def step(k: int) -> float:
        linear = -motion[k % CYCLE]
        start = time.perf_counter()
        daqp.solve(hessian, linear, rows, high, low, kinds)
        return time.perf_counter() - start

    return step


def certify_step() -> Step:
    """safe-control-gym's CBF filter of a cart-pole, through casadi's `Opti` and qpOASES: one input, a slack.

    min |u' - u|^2 / 2 + 1e4 s^2,  dh/dx x_dot(x, u') + .1 h >= -s,  s >= 0,  |u'| <= 10 N, with the barrier
    h = 1 - sum (x_i / limit_i)^2 (utiasDSL/safe-control-gym, safety_filters/cbf, MIT).
    """
    import casadi as cs

    x, u = cs.MX.sym("x", 4), cs.MX.sym("u")
    mass, pole, half, gravity = 1.0, 0.1, 0.5, 9.8
    sin, cos = cs.sin(x[2]), cs.cos(x[2])
    push = (u + pole * half * x[3] ** 2 * sin) / (mass + pole)
    turn = (gravity * sin - cos * push) / (half * (4 / 3 - pole * cos**2 / (mass + pole)))
    rate = cs.vertcat(x[1], push - pole * half * turn * cos / (mass + pole), x[3], turn)
    limits = np.array([2.0, 2.0, 0.2, 1.0])
    barrier = 1 - cs.sumsqr(x / limits)
    lie = cs.Function("lie", [x, u], [cs.dot(cs.gradient(barrier, x), rate)])
    barrier = cs.Function("barrier", [x], [barrier])
    opti = cs.Opti("conic")
    certified, slack = opti.variable(1), opti.variable(1)
    state, asked = opti.parameter(4), opti.parameter(1)
    opti.minimize(0.5 * (asked - certified) ** 2 + 1e4 * slack**2)
    opti.subject_to(slack >= 0)
    opti.subject_to(-0.1 * barrier(state) - lie(state, certified) <= slack)
    opti.subject_to(opti.bounded(-10, certified, 10))
    opti.solver("qpoases", {"printLevel": "none", "print_time": False, "error_on_fail": False})
    rng = np.random.default_rng(0)
    states, actions = rng.uniform(-0.4, 0.4, (CYCLE, 4)) * limits, rng.uniform(-10, 10, CYCLE)

    def step(k: int) -> float:
        start = time.perf_counter()
        opti.set_value(state, states[k % CYCLE])
        opti.set_value(asked, actions[k % CYCLE])
        opti.solve().value(certified)
        return time.perf_counter() - start

    return step


def timed(step: Step, first: int) -> npt.NDArray[np.float64]:
    """Seconds of each of `ROUND` calls from the `first`-th on, after a tenth as many to warm up."""
    for k in range(first, first + ROUND // 10):
        step(k)
    return np.array([step(first + ROUND // 10 + k) for k in range(ROUND)])


def growth(step: Step, steps: int) -> tuple[int, int]:
    """Bytes that `steps` steps leave allocated in Python after a warm-up, and growth of the resident set."""
    first = 1000 * ROUND  # stamps go on
    for k in range(first, first + ROUND):
        step(k)
    tracemalloc.start()
    try:
        resident, (before, _) = _resident(), tracemalloc.get_traced_memory()
        for k in range(steps):
            step(first + ROUND + k)
        (after, _), grown = tracemalloc.get_traced_memory(), _resident() - resident
    finally:
        tracemalloc.stop()
    return after - before, grown


def _resident() -> int:
    """Resident set of this process [bytes]; 0 where /proc does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


@contextlib.contextmanager
def realtime(wanted: bool) -> Iterator[None]:
    """The last core, before all ordinary processes, if wanted."""
    if not wanted:
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, cores)


def measure(quick: bool) -> list[Row]:
    """Microseconds per step by percentile, and growth over an hour of simulated time."""
    rounds = 3 if quick else 50
    steps: dict[str, Step] = {"passivity filter": filter_step(), "command guard": guard_step()}
    with contextlib.suppress(ImportError):
        steps["daqp QP filter"] = qp_step()
    with contextlib.suppress(ImportError):
        steps["CBF filter as safe-control-gym's"] = certify_step()
    taken: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in steps}
    with realtime("--realtime" in sys.argv[1:]):
        for turn in range(rounds):
            for name, step in steps.items():
                taken[name].append(timed(step, turn * 2 * ROUND))
    rows = []
    for name, values in taken.items():
        for label, share in PERCENTILES:
            in_rounds = np.percentile(np.array(values), share, axis=1)
            rows.append(Row(name, f"time {label}", 1e6 * float(np.median(in_rounds)), "us"))
        rows.append(Row(name, "time maximum", 1e6 * float(np.max(values)), "us"))
    hour = HOUR // 20 if quick else HOUR
    for name in ("passivity filter", "command guard"):
        allocated, resident = growth(steps[name], hour)
        rows.append(Row(name, f"growth over {hour} steps", allocated, "bytes"))
        rows.append(Row(name, f"growth of the resident set over {hour} steps", resident, "bytes"))
    return rows


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run("safety", ("numpy", "daqp", "casadi"), measure, flags=("--realtime",))
