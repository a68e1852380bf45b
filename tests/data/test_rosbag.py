"""Bags written here with `rosbags`, read as episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robot_rl.data import schema
from robot_rl.data.formats import convert, open_dataset
from robot_rl.data.formats.rosbag import BagConfig, camera_name, read
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import DataError
from tests.data.make import same

rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="needs pip install robot-rl[rosbag]")
typesys = pytest.importorskip("rosbags.typesys")
JOINTS = ["waist", "shoulder", "gripper"]
SECONDS = 2.0


def write_bag(path: Path, storage: str, *, commands: bool = True) -> None:
    """Joint states at 100 Hz (position t + joint), a picture at 10 Hz (brightness 100 t), setpoints at 50 Hz
    (requested 10 t, executed 5 t), the reason `leash` from 1 s on, success from 1.6 s on."""
    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    kinds = store.types
    stamp = kinds["builtin_interfaces/msg/Time"](0, 0)
    header = kinds["std_msgs/msg/Header"](stamp, "")
    with rosbag2.Writer(path, version=9, storage_plugin=getattr(rosbag2.StoragePlugin, storage)) as bag:

        def topic(name: str, kind: str) -> Any:
            return bag.add_connection(name, kind, typestore=store), kind

        states = topic("/wx250s/joint_states", "sensor_msgs/msg/JointState")
        camera = topic("/wx250s/camera/front", "sensor_msgs/msg/Image")
        requested = topic("/wx250s/requested/joint_setpoints", "sensor_msgs/msg/JointState")
        executed = topic("/wx250s/commands/joint_trajectory", "trajectory_msgs/msg/JointTrajectory")
        reason = topic("/wx250s/guard/reason", "std_msgs/msg/String")
        success = topic("/wx250s/sim/success", "std_msgs/msg/Bool")
        other = topic("/rosout_like", "std_msgs/msg/Float32")

        def say(where: Any, time_s: float, *fields: Any) -> None:
            connection, kind = where
            message = kinds[kind](*fields)
            bag.write(connection, round(time_s * 1e9) + 10**18, store.serialize_cdr(message, kind))

        def joints(where: Any, time_s: float, names: list[str], values: list[float]) -> None:
            none = np.zeros(0)
            say(where, time_s, header, names, np.array(values), none, none)

        for tick in range(int(100 * SECONDS) + 1):
            t = tick / 100
            order = [0, 1, 2] if tick % 2 else [2, 0, 1]  # found by name, never by place
            joints(states, t, [JOINTS[i] for i in order], [t + i for i in order])
            if tick % 10 == 0:
                data = np.full(4 * 6 * 3, round(100 * t), np.uint8)
                say(camera, t, header, 4, 6, "bgr8", 0, 18, data)
            if tick % 2 == 0 and commands:
                joints(requested, t, JOINTS, [10 * t, 0.0, 1.0])
                duration = kinds["builtin_interfaces/msg/Duration"](0, 0)
                none = np.zeros(0)
                point = kinds["trajectory_msgs/msg/JointTrajectoryPoint"](
                    np.array([5 * t, 0.0, 1.0]), none, none, none, duration
                )
                say(executed, t, header, JOINTS, [point])
            if tick % 20 == 0:
                say(success, t, t > 1.55)
                say(other, t, 0.0)
            if tick == 100:
                say(reason, t + 1e-3, "leash")


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_a_bag_is_an_episode(tmp_path: Path, storage: str) -> None:
    write_bag(tmp_path / "bag", storage)
    (found,) = open_dataset(str(tmp_path / "bag"))
    assert len(found) == 10
    assert found.metadata.extra["joints"] == ["gripper", "waist", "shoulder"]
    assert found.observations[schema.STATE][:, 1] == pytest.approx(np.arange(11) * 0.2, abs=1e-5)
    assert found.observations[schema.STATE][0].tolist() == [2, 0, 1]
    pictures = found.observations[schema.image_key("wx250s_front")]
    assert pictures.shape == (11, 4, 6, 3)
    assert pictures[:, 0, 0, 0].tolist() == [20 * k for k in range(11)]
    assert found.action[:, 0] == pytest.approx(5 * 0.2 * np.arange(1, 11), abs=1e-5)
    assert found.action_requested[:, 0] == pytest.approx(10 * 0.2 * np.arange(1, 11), abs=1e-5)
    leash = schema.FILTER_REASONS.index("leash")
    assert found.filter_reason.tolist() == [0] * 5 + [leash] * 5
    assert found.success.tolist() == [False] * 7 + [True] * 3
    assert found.truncated.tolist() == [False] * 9 + [True]
    assert found.metadata.extra["left_out"] == ["/rosout_like"]


def test_a_directory_of_bags_becomes_a_store(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_bag(tmp_path / "bags" / name, "MCAP")
    written = convert(f"rosbag:{tmp_path / 'bags'}", tmp_path / "store", "store")
    assert written.episodes == 2
    assert written.lost == ("/rosout_like (no place in an Episode)",)
    assert all(
        same(*pair) for pair in zip(EpisodeStore(tmp_path / "store"), read(tmp_path / "bags"), strict=True)
    )


def test_another_rate_and_what_the_bag_does_not_say(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", "MCAP")
    (found,) = read(tmp_path / "bag", BagConfig(control_hz=10, instruction="push it", robot="wx250s"))
    assert len(found) == 20
    assert (found.metadata.instruction, found.metadata.robot) == ("push it", "wx250s")


def test_bags_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rosbag2 recording at"):
        open_dataset(f"rosbag:{tmp_path}")
    write_bag(tmp_path / "bag", "MCAP", commands=False)
    with pytest.raises(DataError, match=r"bag cannot be used: it has .*joint_states.*expected joint states"):
        open_dataset(str(tmp_path / "bag"))
    (file,) = (tmp_path / "bag").glob("*.mcap")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"bag cannot be used: damaged or unfinished") as caught:
        open_dataset(str(tmp_path / "bag"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("topic", "name"),
    [
        ("/camera/front", "front"),
        ("/cam_wrist/color/image_raw/compressed", "cam_wrist"),
        ("/image_raw", "front"),
    ],
)
def test_camera_names(topic: str, name: str) -> None:
    assert camera_name(topic) == name
