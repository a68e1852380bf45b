"""What the simulator is asked wrongly is refused in one line that names it and the valid choices."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import sim
from robot_rl.errors import RobotRLError
from sim.arm import Workspace
from sim.arm_model import WIDOWX_250S
from sim.scene import Scene


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("widowx/pusch", {}, "unknown task 'widowx/pusch': did you mean widowx/push"),
        ("widdowx/push", {}, "unknown task 'widdowx/push': did you mean widowx/push"),
        ("widowx/push", {"camera": "front"}, "did you mean cameras"),
        ("widowx/push", {"cameras": ["frnt"]}, "unknown camera 'frnt': did you mean front? Valid: front"),
        ("widowx/push", {"robot": "widowx_25s"}, "did you mean widowx_250s"),
        ("widowx/push", {"control_mode": "joint_positions"}, "did you mean joint_position"),
        ("widowx/push", {"image_size": 4096}, "image_size=4096; expected 8 .. 512 pixels"),
    ],
)
def test_unknown_names(task: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RobotRLError) as raised:
        sim.make(task, **options)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (np.zeros(6), r"action has shape \(6,\); expected \(7,\)"),
        (np.zeros((1, 7)), r"action has shape \(1, 7\); expected \(7,\)"),
        (np.array([0, np.nan, 0, 0, 0, 0, 0]), "non-finite number; expected numbers in"),
        (np.array([0, 0, 0, np.inf, 0, 0, 0]), "non-finite number; expected numbers in"),
    ],
)
def test_bad_actions_leave_the_scene_alone(action: np.ndarray, said: str) -> None:
    env: Any = sim.make("widowx/reach", cameras=()).unwrapped
    env.reset(seed=0)
    with pytest.raises(sim.SimulationError, match=said):
        env.step(action)
    assert env.scene.data.time == 0


def test_assets_that_do_not_parse() -> None:
    with pytest.raises(sim.SimulationError, match=r"wx250s\.xml .* does not parse as MJCF: .*'bx'") as raised:
        Scene("<body><geom type='bx'/></body>", Workspace())
    assert "\n" not in str(raised.value)
    with pytest.raises(sim.SimulationError, match=r"nothing\.xml does not parse"):
        dataclasses.replace(WIDOWX_250S, file="nothing.xml").compile()
