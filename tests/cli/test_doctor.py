"""The doctor: one line a check, and an exit status that says whether the main job can run."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from robot_rl.cli import doctor
from robot_rl.cli.doctor import FAIL, OK, WARN, Finding, run_doctor


def test_a_machine_that_passes_these_tests_is_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(doctor.CHECKS) + 1  # one line each, and the verdict
    assert all(line.split()[0] in (OK, WARN) for line in lines[:-1])
    for name in (
        "Python",
        "torch",
        "OpenGL",
        "metaworld",
        "robosuite",
        "wandb",
        "ray",
        "ROS 2",
        "disk",
        "allocator",
    ):
        assert sum(f" {name}: " in line for line in lines) == 1, name


@pytest.mark.parametrize(("status", "code"), [(OK, 0), (WARN, 0), (FAIL, 1)])
def test_only_a_failure_fails(status: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor([lambda: Finding(status, "thing", "broken", "mend it")]) == code
    assert f"{status.ljust(4)} thing: broken — mend it" in capsys.readouterr().out


def test_opengl_is_judged_by_a_picture() -> None:
    finding = doctor.check_opengl()
    assert finding.status in (OK, WARN)
    assert "pictures/s" in finding.fact


def test_a_wrong_picture_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_SCENE", doctor._SCENE.replace("1 0 0 1", "0 0 1 1"))
    assert doctor.check_opengl().status == FAIL


def test_without_opengl_the_remedy_is_a_command() -> None:
    """In a process of its own: MuJoCo reads the backend once."""
    script = "from robot_rl.cli.doctor import check_opengl; print(check_opengl())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"MUJOCO_GL": "disable", "PATH": "", "PYTHONPATH": str(Path(doctor.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(FAIL)
    assert "apt-get install -y libegl1 libosmesa6" in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(("free_gb", "status"), [(1.0, FAIL), (5.0, WARN), (500.0, OK)])
def test_disk_space(free_gb: float, status: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")(1, 1, int(free_gb * 1e9))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    assert doctor.check_disk(tmp_path).status == status


def test_an_absent_extra_is_a_warning_with_a_command() -> None:
    finding = doctor.check_extra("no-such-package", "nothing", "pip install it")
    assert (finding.status, finding.remedy) == (WARN, "pip install it")
