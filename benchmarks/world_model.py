"""How fast the world models imagine, and what they cost.

Everything that is compared runs in turns in one process, with the allocator settings of `robot-rl`, so ratios
hold on a busy machine where the rates do not. Weights are random: speed does not depend on them.

- `imagination`: imagined frames per second (`WorldModel.predict`: all of a step), and the share
  of the machine's own matrix-product rate that the denoiser's arithmetic reaches. `diamond` is a plain
  DIAMOND-sized pixel U-Net: channels 64 x 4, two blocks a level, three Euler steps.
- `precision`: the laptop's model in float32 and bfloat16, compiled or not, and its training step.
- `growth`: time and memory against resolution, batch and horizon.
- `memory`: peak resident memory, each in a process of its own.
- `--quality`: the laptop's model and `diamond` trained for the same time, one after the other, on the same
  episodes of `widowx/push`; PSNR at 1 and 15 steps, beside copying the last frame.
"""

from __future__ import annotations

import dataclasses
import multiprocessing as mp
import os
import resource
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from statistics import median

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import sim
from benchmarks.harness import Row, interleaved_rates, run
from robot_rl.cli.config import build, resolve
from robot_rl.cli.main import ALLOCATOR
from robot_rl.data import schema
from robot_rl.data.episode import Episode, EpisodeMetadata
from robot_rl.trainers.rollout import EpisodeOrigin, rollout
from world_model import (
    WorldModel,
    WorldModelConfig,
    WorldModelLearner,
    WorldModelLearnerConfig,
    WorldModelSpec,
)
from world_model.metrics import evaluate_world_model

CASES = {
    "laptop": ["preset=laptop"],
    "pixel": ["world_model=pixel"],
    "diamond": ["world_model=diamond"],
}
BATCHES = (1, 16, 64)
QUICK_BATCHES = (1, 4)
MATRIX = 1024
STATE, ACTION = 7, 7
Work = Callable[[], object]


def learner_config(case: str) -> WorldModelLearnerConfig:
    """What the command line would train for `case`."""
    return build(WorldModelLearnerConfig, resolve(CASES[case]).world_model, "world_model")


def spec(size: int = 64) -> WorldModelSpec:
    return WorldModelSpec(
        "widowx/push", "widowx_250s", 5.0, "observation.images.front", size, size, STATE, ACTION
    )


class Imagination:
    """One imagined step of `batch` arms, as a unit of work."""

    def __init__(self, config: WorldModelConfig, batch: int, size: int = 64) -> None:
        torch.manual_seed(0)
        self.model = WorldModel(spec(size), config).eval().requires_grad_(False)
        self.frames = torch.randint(0, 256, (batch, config.history, size, size, 3), dtype=torch.uint8)
        self.state = torch.zeros(batch, STATE)
        self.action = torch.rand(batch, ACTION) * 2 - 1
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self) -> None:
        self.model.predict(self.frames, self.state, self.state, self.action, self.generator)

    def flops(self) -> float:
        """Floating-point operations of one step, counted by torch."""
        with FlopCounterMode(display=False) as counter:
            self()
        return float(counter.get_total_flops())


def matmul(dtype: torch.dtype) -> Callable[[], None]:
    """One product of two square matrices: 2 MATRIX^3 operations."""
    a, b = torch.randn(2, MATRIX, MATRIX).to(dtype)

    def work() -> None:
        torch.mm(a, b)

    return work


def imagination(rounds: int, seconds: float, batches: tuple[int, ...]) -> list[Row]:
    """Frames a second of every case, as a share of the matrix-product rate of the same minute."""
    rows = []
    for batch in batches:
        works = {name: Imagination(learner_config(name).model, batch) for name in CASES}
        plain = dataclasses.replace(learner_config("diamond").model, precision="float32")
        works["diamond float32"] = Imagination(plain, batch)
        dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        products = {f"matmul {name}": matmul(dtype) for name, dtype in dtypes.items()}
        rates = interleaved_rates({**works, **products}, rounds, seconds, least=1)
        for name, work in works.items():
            case, precision = f"{name}, batch {batch}", work.model.config.precision
            rows.append(Row(case, "imagined frames", batch * median(rates[name]), "frames/s"))
            shares = [
                work.flops() * own / (2 * MATRIX**3 * product)
                for own, product in zip(rates[name], rates[f"matmul {precision}"], strict=True)
            ]
            rows.append(Row(case, f"share of the {precision} matmul rate", 100 * median(shares), "%"))
        for name in products:
            rows.append(Row(name, "rate", 2 * MATRIX**3 * median(rates[name]) / 1e9, "GFLOP/s"))
        for other in ("diamond", "diamond float32"):
            ratio = median(a / b for a, b in zip(rates["laptop"], rates[other], strict=True))
            rows.append(Row(f"laptop / {other}, batch {batch}", "frames, ratio", ratio, "x"))
    return rows


def training_step(config: WorldModelConfig, batch: int) -> Work:
    """One optimiser step on random windows of noise pictures."""
    learner_settings = dataclasses.replace(
        learner_config("laptop"), model=config, batch_size=batch, total_updates=10**9
    )
    return WorldModelLearner(_noise_episodes(), learner_settings).update


def _noise_episodes() -> list[Episode]:
    rng = np.random.default_rng(0)
    facts = spec()
    return [
        Episode.from_steps(
            {
                schema.STATE: rng.normal(size=(11, STATE)).astype(np.float32),
                schema.IMAGE: rng.integers(0, 256, (11, 64, 64, 3), dtype=np.uint8),
            },
            rng.uniform(-1, 1, (10, ACTION)).astype(np.float32),
            EpisodeMetadata(facts.task, "push", facts.robot, facts.control_hz, seed, "random"),
            success=np.arange(10) > 7,
        )
        for seed in range(4)
    ]


def precision(rounds: int, seconds: float, batch: int) -> list[Row]:
    """What bfloat16 and torch.compile bring, on this machine, in imagination and in training."""
    full = dataclasses.replace(learner_config("laptop").model, precision="float32")
    half = dataclasses.replace(full, precision="bfloat16")
    works: dict[str, Work] = {
        "imagine, float32": Imagination(full, batch),
        "imagine, bfloat16": Imagination(half, batch),
    }
    for name, config in (("float32", full), ("bfloat16", half)):
        compiled = Imagination(config, batch)
        compiled.model.denoiser.unet = torch.compile(compiled.model.denoiser.unet)  # type: ignore[assignment]
        works[f"imagine, {name} compiled"] = compiled
    works |= {"train, float32": training_step(full, 32), "train, bfloat16": training_step(half, 32)}
    rates = interleaved_rates(works, rounds, seconds)
    rows = []
    for name in works:
        kind = name.partition(",")[0]
        base = rates[f"{kind}, float32"]
        ratio = median(a / b for a, b in zip(rates[name], base, strict=True))
        rows.append(Row(f"laptop, {name}", "speed against float32", ratio, "x"))
    return rows


def growth(rounds: int, seconds: float) -> list[Row]:
    """Time of the laptop's model against resolution, batch and horizon, relative to 64 x 64, 16 and 1."""
    config = learner_config("laptop").model
    works: dict[str, Work] = {
        f"{size} x {size} pixels": Imagination(config, 16, size) for size in (32, 64, 128)
    }
    works |= {f"batch {batch}": Imagination(config, batch) for batch in (1, 4, 64)}
    one = Imagination(config, 16)
    works |= {f"horizon {steps}": _repeat(one, steps) for steps in (1, 5, 20)}
    rates = interleaved_rates(works, rounds, seconds)
    base = rates["64 x 64 pixels"]
    return [
        Row(f"laptop, {name}", "time of a batch, against 64 x 64 at batch 16, one step",
            median(b / a for a, b in zip(values, base, strict=True)), "x")
        for name, values in rates.items()
    ]  # fmt: skip


def _repeat(work: Work, times: int) -> Work:
    def several() -> None:
        for _ in range(times):
            work()

    return several


def _peak(case: str, batch: int, size: int, steps: int, answer: Connection) -> None:
    work = Imagination(learner_config(case).model, batch, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(steps):
        work()
    answer.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def memory(points: tuple[tuple[str, int, int, int], ...]) -> list[Row]:
    """Peak memory that imagination adds to a process that holds the model: (case, batch, pixels, steps)."""
    rows, context = [], mp.get_context("spawn")
    for case, batch, size, steps in points:
        ours, theirs = context.Pipe()
        process = context.Process(target=_peak, args=(case, batch, size, steps, theirs))
        process.start()
        theirs.close()
        added = ours.recv()
        process.join()
        name = f"{case}, batch {batch}, {size} x {size}, {steps} steps"
        rows.append(Row(name, "peak memory added", added, "MiB"))
    return rows


def recorded(count: int) -> list[Episode]:
    """Noisy demonstrations of `widowx/push`, from seed 0 on."""
    env = sim.ParallelVectorEnv("widowx/push", 8, workers=1)
    try:
        origin = EpisodeOrigin("widowx/push", "widowx_250s", 5.0, "expert")
        return rollout(env, sim.ExpertPolicy(env, 0.6), range(count), origin)
    finally:
        env.close()


def quality(seconds: float, count: int) -> list[Row]:
    """Train both for the same time; a tenth of the episodes is judged on and never trained on."""
    episodes = recorded(count)
    train, test = episodes[count // 10 :], episodes[: count // 10]
    rows = []
    for case in ("laptop", "diamond"):
        # The learning rate and the drift training follow the share of the training done: fit it to the time.
        timed = learner_config(case)
        probe = WorldModelLearner(train, timed)
        probe.update()
        start = time.perf_counter()
        for _ in range(3):
            probe.update()
        updates = max(10, int(3 * seconds / (time.perf_counter() - start)))
        learner = WorldModelLearner(train, dataclasses.replace(timed, total_updates=updates))
        start = time.perf_counter()
        while learner.updates < updates and time.perf_counter() - start < seconds:
            learner.update()
        spent, name = time.perf_counter() - start, f"{case}, {count} episodes"
        rows.append(Row(name, "training time", spent, "s"))
        rows.append(Row(name, "updates", learner.updates, ""))
        figures = evaluate_world_model(learner.model, test, horizons=(1, 15), max_windows=32)
        rows += [Row(name, key, value, "dB") for key, value in figures.items() if "psnr" in key]
    return rows


def measure(quick: bool) -> list[Row]:
    """Every part, in the order of the module's description."""
    rounds, seconds = (1, 0.2) if quick else (5, 2.0)
    rows = imagination(rounds, seconds, QUICK_BATCHES if quick else BATCHES)
    rows += precision(rounds, seconds, 16)
    rows += growth(rounds, seconds)
    points = [(case, 4 if quick else 16, 64, 1) for case in CASES]
    points += [("laptop", 64, 64, 4), ("laptop", 16, 128, 4), ("laptop", 16, 64, 40)]
    rows += memory(tuple(points))
    if "--quality" in sys.argv:
        rows += quality(60.0 if quick else 380.0, 40 if quick else 200)
    return rows


if __name__ == "__main__":
    if sys.platform == "linux" and not ALLOCATOR.keys() <= os.environ.keys():
        command = [sys.executable, "-m", "benchmarks.world_model", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | ALLOCATOR)
    run("world_model", ("torch", "diffusers"), measure, flags=("--quality",))
