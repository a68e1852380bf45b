"""Joints by name and never by index; pictures whole or not at all."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed (requirements-ros.txt)")

from builtin_interfaces.msg import Time
from robot_rl_ros import messages
from sensor_msgs.msg import Image

from robot_rl.data import schema

pytestmark = pytest.mark.ros
NAMES = ("waist", "shoulder", "elbow")


def test_joints_are_found_by_name() -> None:
    assert messages.by_name(["elbow", "gripper", "waist", "shoulder"], [3, 9, 1, 2], NAMES) == [1, 2, 3]
    assert messages.by_name(["elbow", "waist"], [3, 1], NAMES) == []
    assert messages.by_name(["waist", "waist", "shoulder", "elbow"], [1, 1, 2, 3], NAMES) == []
    assert messages.by_name(list(NAMES), [1, 2], NAMES) == []


def test_a_request_survives_the_way() -> None:
    setpoint = np.array([0.1, -0.2, 0.3])
    message = messages.request_message(NAMES, setpoint, Time(sec=12, nanosec=500_000_000), 41)
    values, stamp, sequence = messages.command_from(message, NAMES)
    np.testing.assert_array_equal(values, setpoint)
    assert (stamp, sequence) == (12.5, 41)


@pytest.mark.parametrize("sequence", ["", "base_link", "-3", "1e9", "9" * 40, "²"])
def test_what_is_no_sequence_number_is_left_to_the_guard_to_refuse(sequence: str) -> None:
    message = messages.request_message(NAMES, np.zeros(3), Time(), 0)
    message.header.frame_id = sequence
    assert messages.command_from(message, NAMES).sequence is None


def test_pictures() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    message = messages.image_message(picture, Time())
    np.testing.assert_array_equal(messages.picture_from(message), picture)
    message.encoding = "bgr8"
    np.testing.assert_array_equal(messages.picture_from(message), picture[:, :, ::-1])
    padded = np.concatenate([picture.reshape(5, 21), np.zeros((5, 3), np.uint8)], axis=1)
    message = Image(height=5, width=7, encoding="rgb8", step=24, data=padded.tobytes())
    np.testing.assert_array_equal(messages.picture_from(message), picture)
    assert messages.picture_from(Image(height=5, width=7, encoding="mono8", step=7, data=bytes(35))) is None
    assert messages.picture_from(Image(height=5, width=7, encoding="rgb8", step=21, data=bytes(9))) is None


def test_what_the_guard_made_of_a_request_survives_the_way() -> None:
    setpoint = np.array([0.1, -0.2, 0.3])
    message = messages.executed_message(NAMES, setpoint, messages.stamp_of(7.25), 41, "leash")
    assert messages.executed_from(message, NAMES) == ([0.1, -0.2, 0.3], 7.25, 41, "leash")
    message.header.frame_id = "-1 "
    assert messages.executed_from(message, NAMES)[2:] == (-1, "")


def test_named_numbers_survive_the_way() -> None:
    numbers = dict.fromkeys(schema.ACTION_NAMES, 0.25) | {"intervention": 1.0}
    found = messages.numbers_from(messages.numbers_message(numbers, messages.stamp_of(3.5)))
    assert found == numbers
    np.testing.assert_array_equal(messages.action_from(found), np.full(7, 0.25, np.float32))


@pytest.mark.parametrize("time_s", [0.0, 1.0, 12.34, 99_999.98])
def test_a_stamp_comes_back_to_the_nanosecond(time_s: float) -> None:
    stamp = messages.stamp_of(time_s)
    assert messages.stamp_of(messages.seconds(stamp)) == stamp
    assert abs(messages.nanoseconds(stamp) - time_s * 1e9) <= 1
