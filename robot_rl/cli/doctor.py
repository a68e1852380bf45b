"""`robot-rl doctor`: can this machine run the main job, and how to mend what cannot."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.text import Text

from robot_rl.errors import RobotRLError

OK, WARN, FAIL = "ok", "warn", "FAIL"
_STYLE = {OK: "green", WARN: "yellow", FAIL: "bold red"}
_PYTHON_NEEDED = (3, 11)
_DISK_NEEDED_GB = 2.0
_DISK_WANTED_GB = 10.0
_SLOW_PICTURES_PER_S = 50.0
_PICTURES = 50

_SCENE = """
<mujoco>
  <visual><quality shadowsize="0" offsamples="0"/></visual>
  <worldbody>
    <light pos="0 0 2"/>
    <geom type="plane" size="1 1 .1" rgba=".2 .3 .4 1"/>
    <geom type="box" size=".1 .1 .1" pos="0 0 .1" rgba="1 0 0 1"/>
    <camera name="above" pos="0 0 1"/>
  </worldbody>
</mujoco>
"""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's answer. `FAIL` means that the main job cannot run."""

    status: str
    name: str
    fact: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.status:4} {self.name}: {self.fact}" + (f" — {self.remedy}" if self.remedy else "")


def check_python() -> Finding:
    fact = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < _PYTHON_NEEDED:
        return Finding(FAIL, "Python", fact, "install Python 3.11 or newer, then `make clean setup`")
    return Finding(OK, "Python", fact)


def check_torch() -> Finding:
    """Torch, and the device that it computes on."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding(FAIL, "torch", f"does not import ({error})", "make setup")
    if torch.cuda.is_available():
        return Finding(
            OK, "torch", f"{torch.__version__} on {torch.cuda.get_device_name(0)} (preset=gpu fits)"
        )
    if Path("/dev/nvidia0").exists():
        remedy = (
            "a GPU is there but torch cannot use it: install the CUDA build of torch, or update the driver"
        )
        return Finding(WARN, "torch", f"{torch.__version__} on the CPU", remedy)
    return Finding(OK, "torch", f"{torch.__version__} on {os.cpu_count()} CPU cores")


def check_opengl() -> Finding:
    """Renders a test picture of a red box and looks whether it is one."""
    remedy = "sudo apt-get install -y libegl1 libosmesa6, then unset MUJOCO_GL"
    try:
        import sim.rendering  # before mujoco: chooses the backend

        mujoco = importlib.import_module("mujoco")
        model = mujoco.MjModel.from_xml_string(_SCENE)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        renderer = sim.rendering.Renderer(model, 64, 64)
        picture = renderer.picture(data, "above")
        start = time.perf_counter()
        for _ in range(_PICTURES):
            renderer.picture(data, "above")
        rate = _PICTURES / (time.perf_counter() - start)
        renderer.close()
    except (RobotRLError, ImportError, AttributeError, RuntimeError, OSError) as error:
        cause = str(error.__cause__ or error) or type(error).__name__
        return Finding(FAIL, "OpenGL", f"no picture off screen ({cause.splitlines()[0]})", remedy)
    backend = os.environ.get("MUJOCO_GL", "default")
    red, green, blue = (int(channel) for channel in picture[32, 32])
    if not (red > 2 * green and red > 2 * blue):
        fact = f"{backend} draws ({red}, {green}, {blue}) where a red box stands"
        return Finding(FAIL, "OpenGL", fact, remedy)
    fact = f"{backend}, {rate:,.0f} pictures/s at 64x64"
    if rate < _SLOW_PICTURES_PER_S:
        return Finding(WARN, "OpenGL", fact, "slow: try MUJOCO_GL=osmesa or MUJOCO_GL=egl")
    return Finding(OK, "OpenGL", fact)


def check_core() -> Finding:
    """The packages that the main job imports."""
    missing = []
    for name in (
        "mujoco",
        "gymnasium",
        "diffusers",
        "open_clip",
        "hydra",
        "safetensors",
        "imageio",
        "jinja2",
    ):
        try:
            if name in ("diffusers", "open_clip"):
                importlib.import_module("robot_rl.torchvision_compat")
            importlib.import_module(name)
        except (ImportError, RuntimeError, OSError) as error:
            missing.append(f"{name} ({str(error).splitlines()[0] if str(error) else type(error).__name__})")
    if missing:
        return Finding(FAIL, "packages", "cannot import " + ", ".join(missing), "make setup")
    return Finding(
        OK, "packages", f"mujoco {version('mujoco')}, diffusers {version('diffusers')}, the rest too"
    )


def check_extra(package: str, purpose: str, remedy: str) -> Finding:
    """An optional package: its absence is worth a warning and no more."""
    try:
        return Finding(OK, package, f"{version(package)} ({purpose})")
    except PackageNotFoundError:
        return Finding(WARN, package, f"not installed ({purpose})", remedy)


def check_ros() -> Finding:
    try:
        rclpy = importlib.import_module("rclpy")
        importlib.import_module("sensor_msgs.msg")
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        remedy = (
            "pip install --no-deps --require-hashes -r requirements-ros.txt, or source a ROS 2 installation"
        )
        return Finding(WARN, "ROS 2", f"rclpy does not import ({reason}); only bringup needs it", remedy)
    distribution = os.environ.get("ROS_DISTRO", "from pip wheels")
    return Finding(OK, "ROS 2", f"rclpy {distribution} at {Path(str(rclpy.__file__)).parent}")


def check_disk(folder: Path | None = None) -> Finding:
    folder = folder or Path.cwd()
    free = shutil.disk_usage(folder).free / 1e9
    fact = f"{free:,.1f} GB free at {folder}"
    if not os.access(folder, os.W_OK):
        return Finding(FAIL, "disk", f"{folder} is not writable", "change to a folder of yours")
    if free < _DISK_NEEDED_GB:
        return Finding(
            FAIL, "disk", fact, f"free at least {_DISK_NEEDED_GB:.0f} GB, or run from another disk"
        )
    if free < _DISK_WANTED_GB:
        return Finding(WARN, "disk", fact, "enough for one run; old runs lie in runs/")
    return Finding(OK, "disk", fact)


def check_allocator() -> Finding:
    """glibc's habit of giving large blocks back costs up to 40 % of the updates a second on a CPU."""
    from robot_rl.cli.main import ALLOCATOR

    if platform.system() != "Linux" or "malloc" in os.environ.get("LD_PRELOAD", ""):
        return Finding(OK, "allocator", os.environ.get("LD_PRELOAD") or "the system's own")
    unset = [name for name in ALLOCATOR if name not in os.environ]
    if unset:
        remedy = "start through `robot-rl`, which sets it, or export " + " ".join(
            f"{name}={ALLOCATOR[name]}" for name in unset
        )
        return Finding(WARN, "allocator", "large blocks go back to the kernel at each step (slower)", remedy)
    return Finding(OK, "allocator", "keeps large blocks")


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_torch,
    check_opengl,
    check_core,
    lambda: check_extra("metaworld", "Meta-World tasks", "pip install 'robot-rl[metaworld]'"),
    lambda: check_extra(
        "robosuite",
        "robosuite tasks",
        "pip install 'robot-rl[robosuite]' and pip install --no-deps robosuite==1.5.2",
    ),
    lambda: check_extra("wandb", "logging to Weights & Biases", "pip install 'robot-rl[wandb]'"),
    lambda: check_extra("ray", "preset=cluster", "pip install ray"),
    check_ros,
    check_disk,
    check_allocator,
)


def run_doctor(checks: Sequence[Callable[[], Finding]] = CHECKS) -> int:
    """Print one line a check; 0 if the main job can run, else 1."""
    console = Console(highlight=False, soft_wrap=True)
    failed = 0
    for check in checks:
        finding = check()
        failed += finding.status == FAIL
        console.print(Text(finding.status.ljust(4), _STYLE[finding.status]) + Text(str(finding)[4:]))
    if failed:
        console.print(f"{failed} thing(s) to mend before the main job can run", style=_STYLE[FAIL])
        return 1
    console.print("the main job can run: robot-rl pipeline", style=_STYLE[OK])
    return 0


def doctor(arguments: dict[str, str], overrides: list[str]) -> int:
    """The verb: takes no arguments."""
    return run_doctor()
