"""`python -m benchmarks.data`: samples a second from our store and from a LeRobotDataset; recording.

Random training samples of two 128 x 128 cameras, a state of 14 and an action of 7, batches of 64, single
steps and chunks of 16 actions. The same episodes, as our store and as a LeRobotDataset v3 (PNG) through
lerobot's own loader, which has to be installed beside us: run it with the Python of `make test-formats`.
Both sides give torch tensors, pictures as float32 (3, H, W) in 0 .. 1; ours also as stored.

Recording: two 640 x 480 cameras at 30 Hz, committed in the background, while the next episode runs. A frame
is dropped when the loop comes to it more than a period late.
"""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import robot_rl.torchvision_compat  # noqa: F401 - before lerobot imports torchvision
from benchmarks.harness import Row, interleaved_rates, ratio_rows, run
from robot_rl.data import schema
from robot_rl.data.episode import Episode, EpisodeMetadata
from robot_rl.data.formats import convert
from robot_rl.data.loader import LoaderConfig, StepLoader
from robot_rl.data.recorder import EpisodeRecorder
from robot_rl.data.store import EpisodeStore

BATCH, CHUNK, STATE, ACTION, SIDE = 64, 16, 14, 7, 128
CAMERAS = (schema.IMAGE, schema.image_key("wrist"))
HZ, RECORDED = 30, (480, 640, 3)


def episodes(number: int, steps: int) -> list[Episode]:
    """Pictures of smooth shapes and some noise, so that PNG has about as much to do as with real ones."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    made = []
    for seed in range(number):
        clips = {}
        for camera in CAMERAS:
            phase = np.linspace(0, 3, steps + 1)[:, None, None, None] + rng.uniform(0, 6, 3)
            waves = np.sin(4 * rows[..., None] + phase) + np.cos(5 * columns[..., None] - phase)
            clips[camera] = (127 + 60 * waves + rng.normal(0, 3, waves.shape)).clip(0, 255).astype(np.uint8)
        made.append(
            Episode.from_steps(
                clips | {schema.STATE: rng.normal(size=(steps + 1, STATE)).astype(np.float32)},
                rng.uniform(-1, 1, (steps, ACTION)).astype(np.float32),
                EpisodeMetadata("benchmark/data", "stack it", "wx250s", HZ, seed, "benchmark"),
                truncated=np.arange(steps) == steps - 1,
            )
        )
    return made


def to_floats(rows: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """As a lerobot batch: pictures (B, 3, H, W) float32 in 0 .. 1."""
    tensors = {name: torch.from_numpy(value) for name, value in rows.items()}
    for camera in CAMERAS:
        tensors[camera] = tensors[camera].permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255)
    return tensors


def ours(store: Path, chunk: int, *, floats: bool) -> Callable[[], None]:
    loader = StepLoader(store, LoaderConfig(chunk=chunk))
    generator = np.random.default_rng(0)

    def batch() -> None:
        rows = loader.sample(BATCH, generator)
        if floats:
            to_floats(rows)

    return batch


def lerobot(root: Path, chunk: int, workers: int) -> Callable[[], None]:
    """The next batch of a shuffled DataLoader over lerobot's own dataset."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    deltas = {"action": [i / HZ for i in range(chunk)]} if chunk > 1 else None
    dataset = LeRobotDataset("benchmark/data", root=root, delta_timestamps=deltas)
    loader = torch.utils.data.DataLoader(
        dataset,
        BATCH,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        generator=torch.Generator().manual_seed(0),
        persistent_workers=workers > 0,
    )
    batches = iter(loader)

    def batch() -> None:
        nonlocal batches
        try:
            next(batches)
        except StopIteration:
            batches = iter(loader)
            next(batches)

    return batch


def loading(quick: bool, folder: Path) -> list[Row]:
    made = episodes(4 if quick else 20, 100)
    EpisodeStore(folder / "store", create=True).extend(made)
    convert(made, folder / "lerobot", "lerobot_v3")
    there = find_spec("lerobot") is not None
    rows: list[Row] = []
    for chunk in (1, CHUNK):
        what = "single step" if chunk == 1 else f"{chunk}-step chunks"
        name = f"store, float32, {what}"
        cases = {
            name: ours(folder / "store", chunk, floats=True),
            f"store, as stored, {what}": ours(folder / "store", chunk, floats=False),
        }
        if there:
            cases |= {
                f"lerobot, {workers} workers, {what}": lerobot(folder / "lerobot", chunk, workers)
                for workers in ((0,) if quick else (0, 2))
            }
        rates = interleaved_rates(cases, rounds=3 if quick else 5, seconds=1.0 if quick else 5.0)
        rows += [
            Row(case, "samples", BATCH * float(np.median(values)), "1/s") for case, values in rates.items()
        ]
        rows += ratio_rows(rates, name)
    return rows


def recording(quick: bool, folder: Path) -> list[Row]:
    """Processor share of one core, dropped frames and memory while recording."""
    frames = np.random.default_rng(0).integers(0, 256, (8, *RECORDED), np.uint8)
    length, number = (60, 3) if quick else (300, 6)
    recorder = EpisodeRecorder(folder / "recorded")
    action = np.zeros(ACTION, np.float32)

    def observation(tick: int) -> dict[str, Any]:
        return {
            schema.STATE: np.full(STATE, tick, np.float32),
            CAMERAS[0]: frames[tick % 8],
            CAMERAS[1]: frames[(tick + 3) % 8],
        }

    metadata = EpisodeMetadata("benchmark/data", "record", "wx250s", HZ, source="benchmark")
    begin, busy = time.perf_counter(), time.process_time()
    late: list[float] = []
    tick = 0
    for _ in range(number):
        for step in range(length + 1):
            due = begin + tick / HZ
            time.sleep(max(0.0, due - time.perf_counter()))
            late.append(time.perf_counter() - due)
            if step == 0:
                recorder.start(observation(tick), metadata)
            else:
                recorder.step(observation(tick), requested=action, executed=action)
            tick += 1
        recorder.commit_later()
    recorder.close()
    share = (time.process_time() - busy) / (tick / HZ)
    stored = EpisodeStore(folder / "recorded")
    complete = sum(len(stored.metadata(i).instruction) > 0 for i in range(len(stored)))
    case = f"recording, {HZ} Hz, two {RECORDED[1]} x {RECORDED[0]}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [
        Row(case, "processor", 100 * share, "% of a core"),
        Row(case, "dropped", float(np.sum(np.array(late) > 1 / HZ)), f"of {tick} frames"),
        Row(case, "latest", 1000 * max(late), "ms"),
        Row(case, "episodes", float(complete), f"of {number}"),
        Row(case, "memory, peak", peak, "GiB"),
    ]


def measure(quick: bool) -> list[Row]:
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="benchmark-data-"))
    try:
        return loading(quick, folder) + recording(quick, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    run("data", ("torch", "numpy", "lerobot", "datasets", "pyarrow", "safetensors"), measure)
