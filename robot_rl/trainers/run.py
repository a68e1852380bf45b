"""A run is one directory: what was asked, what happened, what came out.

```
RUN/config.yaml       the resolved configuration
    run.json          command, versions, git commit, machine
    metrics.jsonl     one line a logged update
    tensorboard/      the same, as events
    data/NAME/        episode stores
    stages/NAME/      state.pt while it trains, its artifacts, eval.json, done.json once finished
    videos/           mp4
    summary.json      success, wall time and metrics of every finished stage
    report.html
```
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from robot_rl.data.artifact import atomic_write, explain_write_errors
from robot_rl.errors import ConfigError, DataError, MissingExtraError

VERSIONED = ("robot-rl", "torch", "numpy", "mujoco", "gymnasium", "diffusers", "open_clip_torch", "metaworld")
STATE_FORMAT = 1


def machine() -> dict[str, Any]:
    """The hardware and system that a figure was measured on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result; absent ones are left out."""
    found = {}
    for package in VERSIONED:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit(folder: Path | None = None) -> str | None:
    """The source's commit, with `+changes` where the tree differs from it; None outside a checkout."""
    folder = folder or Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if dirty else "")


class Run:
    """One run directory, newly made or opened again.

    Args:
        path: the directory.

    Raises:
        DataError: the directory is not a run.
    """

    def __init__(self, path: Path) -> None:
        if not (path / "run.json").exists():
            raise DataError(f"{path} is not a run directory: it has no run.json. Runs stand in runs/")
        self.path = path
        self._tensorboard: SummaryWriter | None = None
        self._wandb: Any = None

    @classmethod
    def create(cls, path: Path, config_yaml: str, command: list[str]) -> Run:
        """Make the directory and write down what was asked for.

        Raises:
            ConfigError: `path` is in use. DataError: it cannot be made.
        """
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path} is no directory: choose another run=")
        with explain_write_errors(path):
            if path.exists() and any(path.iterdir()):
                raise ConfigError(f"{path} exists and is not empty: choose another run=, or resume={path}")
            path.mkdir(parents=True, exist_ok=True)
        atomic_write(path / "config.yaml", config_yaml.encode())
        record = {
            "command": command,
            "git_commit": git_commit(),
            "versions": versions(),
            "machine": machine(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        atomic_write(path / "run.json", json.dumps(record, indent=2).encode())
        return cls(path)

    @classmethod
    def again(cls, path: Path, config_yaml: str, command: list[str], remedy: str) -> Run:
        """The run at `path`: a new one, or one made before with the same configuration.

        Args:
            remedy: what to do about one that was made with another.

        Raises:
            ConfigError: there is one with another configuration, or `path` is otherwise in use.
        """
        if not (path / "run.json").exists():
            return cls.create(path, config_yaml, command)
        run = cls(path)
        if (path / "config.yaml").read_text() != config_yaml:
            raise ConfigError(f"{path} was made with other settings: {remedy}")
        return run

    def stage_dir(self, stage: str) -> Path:
        folder = self.path / "stages" / stage
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def data_dir(self, name: str) -> Path:
        return self.path / "data" / name

    def video_path(self, name: str) -> Path:
        folder = self.path / "videos"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.mp4"

    # ---- what is done

    def done(self, stage: str) -> dict[str, Any] | None:
        """The result of a finished stage, or None."""
        file = self.path / "stages" / stage / "done.json"
        return json.loads(file.read_text()) if file.exists() else None

    def mark_done(self, stage: str, result: Mapping[str, Any], fitted: Iterable[str] = ()) -> None:
        """Record a stage's result, then drop its training state and that of all else that it `fitted`."""
        atomic_write(self.stage_dir(stage) / "done.json", json.dumps(result, indent=2).encode())
        for name in {stage, *fitted}:
            (self.path / "stages" / name / "state.pt").unlink(missing_ok=True)

    # ---- training state

    def save_state(self, stage: str, state: dict[str, Any]) -> None:
        """Replace the stage's training state atomically."""
        target = self.stage_dir(stage) / "state.pt"
        temporary = target.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                torch.save({"format": STATE_FORMAT, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise DataError(
                f"cannot write {target}: {error}. Free space, then go on with resume={self.path}"
            ) from error

    def load_state(self, stage: str) -> dict[str, Any] | None:
        """The stage's training state, or None where it has none yet."""
        file = self.path / "stages" / stage / "state.pt"
        if not file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
        except Exception as error:  # torch raises anything from EOFError to UnpicklingError
            raise DataError(f"{file} is damaged ({error}): delete it to train {stage} anew") from error
        if state.get("format") != STATE_FORMAT:
            raise DataError(f"{file} has format {state.get('format')}; expected {STATE_FORMAT}")
        return state

    # ---- logging

    def mirror_to_wandb(self, project: str, config: Mapping[str, Any]) -> None:
        """From now on log to Weights & Biases as well; a resumed run goes on with its own there.

        Raises:
            MissingExtraError: wandb is not installed.
        """
        if self._wandb is not None:
            return
        try:
            wandb = importlib.import_module("wandb")
        except ModuleNotFoundError as error:
            raise MissingExtraError("wandb", "wandb") from error
        self._wandb = wandb.init(
            project=project,
            id=self.path.name,
            name=self.path.name,
            dir=str(self.path),
            config=dict(config),
            resume="allow",
        )

    def log(self, stage: str, update: int, metrics: Mapping[str, float], time_s: float) -> None:
        """Append metrics to metrics.jsonl and to TensorBoard."""
        line = {"stage": stage, "update": update, "time_s": round(time_s, 3)} | {
            key: float(f"{value:.6g}") for key, value in metrics.items()
        }
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._tensorboard is None:
            self._tensorboard = SummaryWriter(str(self.path / "tensorboard"))
        for key, value in metrics.items():
            self._tensorboard.add_scalar(f"{stage}/{key}", value, update)
        if self._wandb is not None:
            self._wandb.log({f"{stage}/{key}": value for key, value in metrics.items()})

    def forget_after(self, stage: str, update: int) -> None:
        """Drop logged lines of `stage` past `update`: a resumed stage writes them again."""
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return
        kept = []
        for text in file.read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # the line that a kill cut short
                continue
            if line["stage"] != stage or line["update"] <= update:
                kept.append(text)
        atomic_write(file, "".join(text + "\n" for text in kept).encode())

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None
        if self._wandb is not None:
            self._wandb.finish()
            self._wandb = None


def command_line() -> list[str]:
    """The command that a reader types to get the same run."""
    return ["robot-rl", *sys.argv[1:]]
