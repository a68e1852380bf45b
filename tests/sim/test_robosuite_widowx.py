"""robosuite drives our WidowX: the same arm, under their controllers, lifts their cube."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import sim
from sim.arm_model import WIDOWX_250S
from sim.kinematics import ArmKinematics

pytestmark = pytest.mark.adapters
robosuite = pytest.importorskip("robosuite")


@pytest.fixture(scope="module")
def lift() -> Iterator[Any]:
    from sim.adapters import robosuite_widowx

    env = robosuite.make(
        "Lift",
        robots=robosuite_widowx.ROBOT,
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        hard_reset=False,
        seed=0,
    )
    yield env
    env.close()


def test_it_is_the_same_arm(lift: Any) -> None:
    ours, theirs = WIDOWX_250S.compile(), lift.sim.model._model
    data = lift.sim.data._data
    rng = np.random.default_rng(0)
    kinematics = ArmKinematics()
    base = theirs.body("robot0_base").pos
    joints = [f"robot0_{name}" for name in WIDOWX_250S.joints]
    for _ in range(5):
        angles = rng.uniform(kinematics.lower, kinematics.upper)
        for name, angle in zip(joints, angles, strict=True):
            data.qpos[theirs.joint(name).qposadr[0]] = angle
        lift.sim.forward()
        tool = data.site("gripper0_right_grip_site").xpos - base
        np.testing.assert_allclose(tool, kinematics.forward(angles).position, atol=1e-6)
    for name, own in zip(joints, WIDOWX_250S.joints, strict=True):
        np.testing.assert_allclose(theirs.joint(name).range, ours.joint(own).range, atol=1e-6)
        effort = ours.jnt_actfrcrange[ours.joint(own).id]
        np.testing.assert_allclose(theirs.actuator(f"robot0_torq_{own}").ctrlrange, effort)
    mass = sum(theirs.body_mass[i] for i in range(theirs.nbody) if "robot0" in theirs.body(i).name)
    mass += sum(theirs.body_mass[i] for i in range(theirs.nbody) if "gripper0" in theirs.body(i).name)
    np.testing.assert_allclose(mass, ours.body_mass.sum(), atol=1e-4)


def test_the_scripted_policy_lifts_the_cube_under_their_controller(lift: Any) -> None:
    from sim.adapters import robosuite_widowx

    for _ in range(2):
        observed = lift.reset()
        for _ in range(80):
            squeeze = -float(lift.robots[0].gripper["right"].current_action[0])
            action = robosuite_widowx.lift_expert(observed, squeeze)
            observed, *_ = lift.step(np.clip(action, -1, 1))
            if lift._check_success():
                break
        assert lift._check_success()


def test_it_lifts_through_our_interface_too() -> None:
    env = sim.make("robosuite/Lift", robot="WidowX250S")
    assert env.unwrapped.task_spec.robot == "widowx250s"
    env.reset(seed=3)
    ended = False
    while not ended:
        *_, terminated, truncated, info = env.step(env.unwrapped.expert_action())
        ended = terminated or truncated
    assert info["success"]
    env.close()
    other = sim.make("robosuite/Stack", robot="WidowX250S")
    with pytest.raises(sim.SimulationError, match="Lift with WidowX250S"):
        other.unwrapped.expert_action()
    other.close()
