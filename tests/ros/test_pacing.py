"""When the guard may step, how observations are paired, and how steps of an episode are put together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from robot_rl_ros.observing import Observer
from robot_rl_ros.pacing import EASE, SLACK, Pacer

from robot_rl.safety import JointState

H = 0.02


@given(st.lists(st.floats(0.0, 0.05), min_size=1, max_size=300))
def test_steps_never_come_faster_than_the_period_on_average(gaps: list[float]) -> None:
    """In any time d at most 1 + (d + slack) / h steps, h eased by 1 %."""
    pacer, steps = Pacer(H), []
    for now in np.cumsum(gaps):
        if pacer.wait(now) <= 0:
            pacer.step(now)
            steps.append(now)
    for i, first in enumerate(steps):
        for j in range(i, len(steps)):
            assert j - i + 1 <= 1 + (steps[j] - first + SLACK * H) / (EASE * H) + 1e-6


def test_who_keeps_the_pace_does_not_wait() -> None:
    rng, pacer = np.random.default_rng(0), Pacer(H)
    for tick in range(1000):
        now = tick * H + rng.uniform(-0.15, 0.15) * H
        assert pacer.wait(now) <= 0
        pacer.step(now)


def observer(**options: object) -> Observer:
    made = Observer(2, ("front",), (4, 4), **options)  # type: ignore[arg-type]
    for index in range(10):
        made.add_state(JointState([float(index), 0.0], 0.01 * index))
    return made


PICTURE = np.zeros((4, 4, 3), np.uint8)


def test_a_picture_gets_the_state_of_its_own_time() -> None:
    made = observer()
    made.add_picture("front", 0.042, PICTURE)
    seen = made.newest(0.1)
    assert not isinstance(seen, str)
    assert seen.joints[0] == 4.0
    assert made.exactly_at(0.042) is None
    made.add_picture("front", 0.05, PICTURE)
    exact = made.exactly_at(0.05)
    assert exact is not None
    assert exact.joints[0] == 5.0


@pytest.mark.parametrize(
    ("stamp", "picture", "now", "why"),
    [
        (0.05, PICTURE, 5.0, "joint state is 4.91 s old"),
        (-4.0, PICTURE, 0.1, "picture is 4.10 s old"),
        (0.2, PICTURE, 0.21, "joint state is 0.11 s from the picture"),
        (0.05, None, 0.1, "no rgb8 or bgr8 picture"),
        (0.05, PICTURE[:3], 0.1, "is 3x4; expected 4x4"),
    ],
)
def test_what_cannot_be_seen_is_said(stamp: float, picture: np.ndarray | None, now: float, why: str) -> None:
    made = observer()
    made.add_picture("front", stamp, picture)
    assert why in str(made.newest(now))


def test_broken_states_are_no_states() -> None:
    made = Observer(2, ())
    assert made.newest(0.0) == "no joint state yet"
    assert not made.add_state(JointState([np.nan, 0.0], 0.0))
    assert not made.add_state(JointState([0.0], 0.0))
    assert made.add_state(JointState([0.0, 1.0], 0.0))
    assert not isinstance(made.newest(0.0), str)
