"""Speed and memory of the simulator, beside robosuite, Meta-World and Gymnasium-Robotics.

A step is one decision of the policy with its observation; an episode that ends is reset within its step.
Cases run in turns, so ratios hold on a busy machine where the rates do not.

- `side by side`: one environment with one 64x64 picture a step. `its defaults` is the simulator as it comes:
  robosuite Lift (Panda, 20 Hz, shadows on), Meta-World and Fetch with their own `render()` at 64x64.
  Each in its own process. All but the workers' case leave Mesa its threads, one a core.
- `scale`: `widowx/push` in a vector environment of up to two workers, with a picture and without, beside two
  environments in processes that do not wait for each other.
- `balance`: what two workers gain by processor time, where waiting is the only loss left.
- `pictures`: what a picture's size costs. `memory`: resident memory in a process of its own.
- `rollout`: the same 100 physics steps by `mujoco.mj_step` and by `mujoco.rollout`, from many states at once.
"""

from __future__ import annotations

import logging
import multiprocessing as mp
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

import sim
from benchmarks.harness import Row, interleaved_rates, ratio_rows, run
from robot_rl.data import schema
from robot_rl.errors import MissingExtraError

OURS = ("widowx/push", "metaworld/drawer-open-v3", "robosuite/Lift")
SUBJECT = "widowx/push"
TWO_WORKERS = f"{SUBJECT}, 2 workers"
PHYSICS_STEPS = round(1 / (schema.CONTROL_HZ * schema.PHYSICS_STEP_S))
MEMBERS = (1, 2, 4, 8, 16)
ONE, APART = "one environment, no worker", "two environments apart"
ALONE = 100
"""Steps of two environments apart between two meetings."""
SIZES = (64, 128, 224)
Work = Callable[[], None]


def stepper(env: Any, generator: np.random.Generator, picture: bool = False) -> Work:
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


def vector_stepper(env: sim.ParallelVectorEnv, generator: np.random.Generator) -> Work:
    """One random step of all members; those that ended are reset."""
    env.reset(seed=0)
    shape = env.action_space.shape

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(generator.uniform(-1, 1, shape).astype(np.float32))
        if (ended := terminated | truncated).any():
            env.reset(options={"reset_mask": ended})

    return step


def metaworld_defaults(generator: np.random.Generator) -> Work:
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


def robosuite_defaults(generator: np.random.Generator) -> Work:
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


def fetch_defaults(generator: np.random.Generator) -> Work:
    """Gymnasium-Robotics' FetchPush, 25 Hz, with its own renderer."""
    import gymnasium
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    env = gymnasium.make("FetchPush-v4", render_mode="rgb_array", width=64, height=64)
    return stepper(env, generator, picture=True)


THEIRS: Mapping[str, Callable[[np.random.Generator], Work]] = {
    "robosuite Lift, its defaults": robosuite_defaults,
    "Meta-World drawer-open-v3, its defaults": metaworld_defaults,
    "Gymnasium-Robotics FetchPush-v4, its defaults": fetch_defaults,
}


def ours(task: str, generator: np.random.Generator) -> Work:
    return stepper(sim.make(task), generator)


def two_workers(generator: np.random.Generator) -> Work:
    return vector_stepper(sim.ParallelVectorEnv(SUBJECT, 2, workers=2), generator)


def _serve_turns(make: Callable[[np.random.Generator], Work], pipe: Connection) -> None:
    """A case in a process of its own: says why it cannot run or None, then a rate for each turn."""
    warnings.simplefilter("ignore")
    try:
        work = make(np.random.default_rng(0))
        work()
    except (ImportError, MissingExtraError) as error:
        pipe.send(str(error))
        return
    pipe.send(None)
    while (seconds := pipe.recv()) is not None:
        pipe.send(interleaved_rates({"": work}, 1, seconds)[""][0])


def side_by_side(rounds: int, seconds: float) -> list[Row]:
    """One environment of each kind, and ours on two workers, each with a 64x64 picture a step.

    Each in a process of its own, in turns: robosuite makes its OpenGL context current once and for all, so
    beside another renderer in the same process it would draw into the wrong one.
    """
    makers: dict[str, Callable[[np.random.Generator], Work]] = {t: partial(ours, t) for t in OURS}
    makers |= {TWO_WORKERS: two_workers, **THEIRS}
    context, rows, pipes = mp.get_context("spawn"), [], {}
    processes = []
    for name, make in makers.items():
        pipe, theirs = context.Pipe()
        processes.append(context.Process(target=_serve_turns, args=(make, theirs)))
        processes[-1].start()
        theirs.close()
        if (reason := pipe.recv()) is None:
            pipes[name] = pipe
        else:
            rows.append(Row(name, f"skipped: {reason}", 0.0, ""))
    rates: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send(seconds)
            rates[name].append(pipe.recv() * (2 if name == TWO_WORKERS else 1))
    for pipe in pipes.values():
        pipe.send(None)
    for process in processes:
        process.join()
    rows += [Row(name, "steps per second", median(values), "1/s") for name, values in rates.items()]
    return rows + ratio_rows(rates, SUBJECT, "speed ratio") + ratio_rows(rates, TWO_WORKERS, "speed ratio")


def _serve_steps(cameras: tuple[str, ...], seed: int, pipe: Connection) -> None:
    """An environment in a process of its own: takes as many steps as each message says."""
    os.environ["LP_NUM_THREADS"] = "0"  # as in a worker: Mesa draws in the calling thread
    step = stepper(sim.make(SUBJECT, cameras=cameras), np.random.default_rng(seed))
    while count := pipe.recv():
        for _ in range(count):
            step()
        pipe.send(None)


@contextmanager
def apart(cameras: tuple[str, ...]) -> Iterator[Work]:
    """`ALONE` steps of each of two environments in processes that do not wait for each other meanwhile."""
    context, pipes = mp.get_context("spawn"), []
    for seed in range(2):
        pipe, theirs = context.Pipe()
        context.Process(target=_serve_steps, args=(cameras, seed, theirs), daemon=True).start()
        pipes.append(pipe)

    def work() -> None:
        for pipe in pipes:
            pipe.send(ALONE)
        for pipe in pipes:
            pipe.recv()

    try:
        yield work
    finally:
        for pipe in pipes:
            pipe.send(0)


def scale(rounds: int, seconds: float) -> list[Row]:
    """Rates by the number of environments, with the camera and without, against a single environment.

    Beside them two environments `apart`: what the two cores have to give at that moment.
    """
    generator = np.random.default_rng(1)
    rows = []
    for cameras in ((schema.DEFAULT_CAMERA,), ()):
        kind = "with a picture" if cameras else "state only"
        envs = {n: sim.ParallelVectorEnv(SUBJECT, n, workers=min(2, n), cameras=cameras) for n in MEMBERS}
        single = sim.make(SUBJECT, cameras=cameras)
        cases = {ONE: stepper(single, generator)}
        cases |= {f"{n} on {min(2, n)} workers": vector_stepper(env, generator) for n, env in envs.items()}
        counts = {ONE: 1, APART: 2 * ALONE}
        counts |= dict(zip(list(cases)[1:], MEMBERS, strict=True))
        try:
            with apart(cameras) as both:
                rates = interleaved_rates(cases | {APART: both}, rounds, seconds)
        finally:
            for env in (*envs.values(), single):
                env.close()
        one = rates[ONE]
        for name, values in rates.items():
            case, rate = f"{SUBJECT}, {kind}, {name}", [counts[name] * value for value in values]
            rows.append(Row(case, "steps per second", median(rate), "1/s"))
            rows.append(Row(case, "physics steps per second", PHYSICS_STEPS * median(rate), "1/s"))
            if name != ONE:
                ratio = median(a / b for a, b in zip(rate, one, strict=True))
                rows.append(Row(case, "ratio to one environment", ratio, "x"))
    return rows


def processor_time(pid: int) -> float:
    """What a process of one thread has spent on a processor [s], to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) * 1e-9


def balance(steps: int) -> list[Row]:
    """What two workers would gain on two idle cores, by processor time: a busy machine cannot spoil it.

    ratio = N c / sum over steps of (max over workers of their time + the main process's time), c the time of
    a single environment's step. Left out is the time from a message to the waking of who waits for it.
    """
    rows = []
    for cameras in ((schema.DEFAULT_CAMERA,), ()):
        kind = "with a picture" if cameras else "state only"
        for members in (2, 8):
            generator = np.random.default_rng(5)
            one, single = stepper(sim.make(SUBJECT, cameras=cameras), generator), 0.0
            vector = sim.ParallelVectorEnv(SUBJECT, members, workers=2, cameras=cameras)
            many = vector_stepper(vector, generator)
            pids = [worker.pid or 0 for worker in vector._workers]
            longest = main = sums = 0.0
            for _ in range(steps):
                before = time.process_time()
                for _ in range(members):
                    one()
                single += time.process_time() - before
                starts, before = [processor_time(pid) for pid in pids], time.process_time()
                many()
                main += time.process_time() - before
                busy = [processor_time(pid) - start for pid, start in zip(pids, starts, strict=True)]
                longest, sums = longest + max(busy), sums + sum(busy)
            vector.close()
            case = f"{SUBJECT}, {kind}, {members} on 2 workers"
            rows.append(
                Row(case, "ratio to one environment by processor time", single / (longest + main), "x")
            )
            rows.append(Row(case, "main process's share of a step", main / (longest + main), ""))
            rows.append(Row(case, "time a worker waits for the other", 1 - sums / (2 * longest), ""))
    return rows


def pictures(rounds: int, seconds: float) -> list[Row]:
    """One environment at each picture size, and without a picture."""
    generator = np.random.default_rng(2)
    envs = {f"{SUBJECT}, {size}x{size}": sim.make(SUBJECT, image_size=size) for size in SIZES}
    envs[f"{SUBJECT}, state only"] = sim.make(SUBJECT, cameras=())
    rates = interleaved_rates({n: stepper(e, generator) for n, e in envs.items()}, rounds, seconds)
    for env in envs.values():
        env.close()
    rows = [Row(name, "steps per second", median(values), "1/s") for name, values in rates.items()]
    return rows + ratio_rows(rates, f"{SUBJECT}, {SIZES[0]}x{SIZES[0]}", "speed ratio")


def rollouts(rounds: int, seconds: float) -> list[Row]:
    """100 physics steps from each of 16 states: `mj_step` in a loop against `mujoco.rollout`."""
    import mujoco
    from mujoco import rollout

    env: Any = sim.make(SUBJECT, cameras=()).unwrapped
    model, data, count = env.scene.model, env.scene.data, MEMBERS[-1]
    full = mujoco.mjtState.mjSTATE_FULLPHYSICS
    states = np.empty((count, mujoco.mj_stateSize(model, full)))
    for index in range(count):
        env.reset(seed=index)
        mujoco.mj_getState(model, data, states[index], full)
    control = np.repeat(data.ctrl[None], PHYSICS_STEPS, 0)[None].repeat(count, 0)
    scratch = [mujoco.MjData(model) for _ in range(2)]

    def loop() -> None:
        for state in states:
            mujoco.mj_setState(model, data, state, full)
            data.ctrl[:] = control[0, 0]
            mujoco.mj_step(model, data, nstep=PHYSICS_STEPS)

    cases: dict[str, Work] = {"mj_step": loop}
    runners = {}
    for threads in (1, 2):
        runners[threads] = rollout.Rollout(nthread=threads if threads > 1 else 0)

        def work(threads: int = threads) -> None:
            runners[threads].rollout([model] * count, scratch[:threads], states, control)

        cases[f"mujoco.rollout, {threads} thread{'s' * (threads > 1)}"] = work
    rates = interleaved_rates(cases, rounds, seconds)
    for runner in runners.values():
        runner.close()
    steps = PHYSICS_STEPS * count
    rows = [Row(n, "physics steps per second", steps * median(values), "1/s") for n, values in rates.items()]
    for name in list(cases)[1:]:
        ratio = median(a / b for a, b in zip(rates[name], rates["mj_step"], strict=True))
        rows.append(Row(f"{name} / mj_step", "speed ratio", ratio, "x"))
    return rows


def resident_mib() -> float:
    """Resident memory of this process [MiB]."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _memory_of_environments(options: dict[str, Any], count: int, answer: Any) -> None:
    first = sim.make(SUBJECT, **options)
    first.reset(seed=0)
    before = resident_mib()
    envs = [sim.make(SUBJECT, **options) for _ in range(count)]
    for env in envs:
        env.reset(seed=0)
    answer.send((resident_mib() - before) / count)


def _memory_growth(options: dict[str, Any], steps: int, answer: Any) -> None:
    step = stepper(sim.make(SUBJECT, **options), np.random.default_rng(3))
    for _ in range(steps // 10):  # caches fill
        step()
    before = resident_mib()
    for _ in range(steps):
        step()
    answer.send(resident_mib() - before)


def _in_a_process(measure: Callable[..., None], *arguments: Any) -> float:
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=measure, args=(*arguments, theirs))
    process.start()
    theirs.close()
    value: float = ours.recv()
    process.join()
    return value


def memory(kind: str, options: dict[str, Any], steps: int) -> list[Row]:
    """Memory of an environment more, and what is added over `steps` steps."""
    one = _in_a_process(_memory_of_environments, options, 8)
    grown = _in_a_process(_memory_growth, options, steps)
    case = f"{SUBJECT}, {kind}"
    return [
        Row(case, "memory an environment", one, "MiB"),
        Row(case, f"memory added over {steps:,} steps", grown, "MiB"),
    ]


def measure(quick: bool) -> list[Row]:
    """Every part, in the order of the module's description."""
    warnings.simplefilter("ignore")
    rounds, seconds = (2, 0.5) if quick else (7, 3.0)
    steps = 2_000 if quick else 100_000
    parts: list[Callable[[], list[Row]]] = [
        *(partial(part, rounds, seconds) for part in (side_by_side, scale, pictures, rollouts)),
        partial(balance, 50 if quick else 500),
        partial(memory, "with a picture", {}, steps),
        partial(memory, "state only", {"cameras": ()}, steps),
    ]
    return [row for part in track(parts, "parts", console=Console(stderr=True)) for row in part()]


if __name__ == "__main__":
    packages = ("mujoco", "gymnasium", "metaworld", "robosuite", "gymnasium-robotics", "numpy")
    run("sim", packages, measure)
