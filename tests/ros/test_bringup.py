"""The graph across processes, and the package's files."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robot_rl_ros import bringup as module
from robot_rl_ros.bringup import EpisodeOutcome, bringup

from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError, DataError, RobotRLError
from sim.tasks import TASKS
from tests.ros.conftest import ROOT

PACKAGE = ROOT / "ros_nodes"


def listening_addresses(pid: int) -> set[str]:
    """IPv4 addresses of a process's UDP sockets and listening TCP sockets."""
    links = [str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:")}
    found = set()
    for table in ("udp", "tcp"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] in inodes and (table == "udp" or words[3] == "0A"):
                number = words[1].split(":")[0]
                found.add(".".join(str(int(number[i : i + 2], 16)) for i in (6, 4, 2, 0)))
    return found


@pytest.mark.ros
def test_episodes_from_pip_alone_on_loopback(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []
    addresses: set[str] = set()
    original = subprocess.Popen

    def remember(*arguments: Any, **options: Any) -> Any:
        started.append(original(*arguments, **options))
        return started[-1]

    def look(outcome: EpisodeOutcome) -> None:
        for process in started:
            if process.poll() is None:
                addresses.update(listening_addresses(process.pid))

    monkeypatch.setattr(module.subprocess, "Popen", remember)
    monkeypatch.setattr(TASKS["push"], "max_steps", 10)
    outcomes = bringup(
        bundle,
        task="widowx/push",
        episodes=2,
        seed=9_000_007,
        lockstep=True,
        record=tmp_path / "store",
        on_episode=look,
    )
    assert [outcome.seed for outcome in outcomes] == [9_000_007, 9_000_008]
    for outcome in outcomes:
        assert outcome.success or outcome.stopped or outcome.duration_s == pytest.approx(2.0)
        assert outcome.recorded.startswith("committed episode")
    assert len(EpisodeStore(tmp_path / "store")) == 2
    assert len(started) == 5
    assert all(process.poll() is not None for process in started)
    # 239.255.0.1 is DDS discovery by multicast, joined on the loopback interface alone.
    assert addresses <= {"127.0.0.1", "239.255.0.1"}
    assert "127.0.0.1" in addresses


@pytest.mark.ros
def test_a_node_that_dies_ends_everything_and_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: dict[str, subprocess.Popen[str]] = {}
    original = subprocess.Popen

    def remember(command: list[str], **options: Any) -> Any:
        name = command[2].rsplit(".", 1)[1]
        if name == "policy":
            command = [command[0], "-c", "raise SystemExit('no policy today')"]
        started[name] = original(command, **options)
        return started[name]

    monkeypatch.setattr(module.subprocess, "Popen", remember)
    with pytest.raises(RobotRLError, match="the ROS node policy ended with status 1: no policy today"):
        bringup(bundle)
    assert all(process.poll() is not None for process in started.values())


def test_without_rclpy_the_remedy_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RobotRLError, match=r"rclpy is not installed: run `pip .* requirements-ros\.txt"):
        bringup(bundle)


@pytest.mark.ros
def test_an_unfit_bundle_is_refused_before_anything_starts(bundle: Path, tmp_path: Path) -> None:
    from robot_rl.agents.policy import ActorPolicy, PolicyConfig
    from robot_rl.trainers.bundle import export_bundle

    with pytest.raises(DataError, match="task 'widowx/push'; expected 'widowx/reach'"):
        bringup(bundle, task="widowx/reach")
    ActorPolicy(PolicyConfig(7, 7, hidden=(4,))).save(tmp_path / "policy", {})
    export_bundle(
        tmp_path / "policy", tmp_path / "bare", task="widowx/push", robot="widowx_250s", instruction="push"
    )
    with pytest.raises(ConfigError, match="has no joint limits"):
        bringup(tmp_path / "bare")


def test_the_package_is_what_colcon_and_pip_expect() -> None:
    manifest = ElementTree.parse(PACKAGE / "package.xml").getroot()
    assert manifest.findtext("name") == "robot_rl_ros"
    assert manifest.findtext("export/build_type") == "ament_python"
    maintainer = manifest.find("maintainer")
    assert maintainer is not None
    assert re.fullmatch(r"\S+@\S+\.\S+", maintainer.get("email", ""))
    assert (PACKAGE / "resource/robot_rl_ros").is_file()
    setup = (PACKAGE / "setup.py").read_text()
    assert manifest.findtext("version") in setup


def test_every_wheel_of_ros_is_pinned_by_hash() -> None:
    text = (ROOT / "requirements-ros.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) > 60
    for line in lines:
        assert re.fullmatch(r"[\w.-]+==[\w.]+(\s+--hash=sha256:[0-9a-f]{64})+", line), line
    assert np.any([line.startswith("ros-rclpy==7.1.6") for line in lines])
