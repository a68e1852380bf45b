"""Every registered task: Gymnasium's own check, and random episodes that stay physical.

The short form runs here; `make check-tasks` sets CHECK_EPISODES to 1,000 episodes a task.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import sim
from robot_rl.data import schema
from sim.registry import gymnasium_id
from sim.tasks import TASKS

EPISODES = int(os.environ.get("CHECK_EPISODES", "2"))
CHUNKS = 8 if EPISODES >= 80 else 1
"""A task's episodes are dealt to so many tests, for as many processes."""
STEPS = 20
PENETRATION_M = 0.005
JOINT_SLACK_RAD = 0.02
"""MuJoCo's joint limits are springs; a servo at full effort leans into one by less than this."""


@pytest.mark.parametrize("name", sorted(TASKS))
def test_gymnasium_accepts_it(name: str) -> None:
    env = gymnasium.make(gymnasium_id(name), image_size=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the render mode was not given, and the like
        check_env(env.unwrapped, skip_render_check=True)
    env.close()


def unphysical(env: Any) -> list[str]:
    """What is wrong with the present state, in words."""
    model, data, arm = env.scene.model, env.scene.data, env.scene.arm
    faults = []
    for quantity in ("qpos", "qvel", "ctrl", "qfrc_constraint"):
        if not np.isfinite(getattr(data, quantity)).all():
            faults.append(f"{quantity} holds a non-finite number")
    if data.warning[mujoco.mjtWarning.mjWARN_BADQACC].number:
        faults.append("MuJoCo met a bad acceleration and reset itself")
    joints, kinematics = arm.measured[:6], arm.kinematics
    beyond = np.maximum(kinematics.lower - joints, joints - kinematics.upper).max()
    if beyond > JOINT_SLACK_RAD:
        faults.append(f"a joint is {beyond:.3f} rad beyond its limit")
    low, high = model.actuator_forcerange.T
    force, limited = data.actuator_force, model.actuator_forcelimited.astype(bool)
    if (limited & ((force < low - 1e-9) | (force > high + 1e-9))).any():
        faults.append("an actuator exceeds its effort")
    return faults


def penetration(env: Any) -> tuple[float, str]:
    """Depth [m] of the deepest contact, and between what."""
    model, contact = env.scene.model, env.scene.data.contact
    if not len(contact.dist):
        return 0.0, ""
    deepest = int(np.argmin(contact.dist))
    geoms = [int(g) for g in contact.geom[deepest]]
    names = [model.geom(g).name or model.body(model.geom_bodyid[g]).name if g >= 0 else "flex" for g in geoms]
    return -float(contact.dist[deepest]), " and ".join(names)


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("name", sorted(TASKS))
def test_random_episodes_stay_physical(name: str, chunk: int) -> None:
    env: Any = sim.make(f"widowx/{name}", cameras=(), max_steps=STEPS).unwrapped
    for episode in range(chunk, EPISODES, CHUNKS):
        rng = np.random.default_rng([episode, 3])
        observation, _ = env.reset(seed=schema.SEED_VALIDATION + episode)
        direction, ended = rng.uniform(-1, 1, env.action_space.shape), False
        while not ended:
            if rng.random() < 0.3:  # keeps a direction for a while, so as to get somewhere
                direction = rng.uniform(-1, 1, env.action_space.shape)
            observation, reward, terminated, truncated, _ = env.step(direction.astype(np.float32))
            ended = terminated or truncated
            where = f"widowx/{name}, episode {episode}, {env.scene.data.time:.1f} s"
            assert not (faults := unphysical(env)), f"{where}: {faults}"
            assert np.isfinite(observation[schema.STATE]).all(), where
            assert np.isfinite(reward), where
            assert env.observation_space[schema.STATE].contains(observation[schema.STATE]), (
                f"{where}: {observation[schema.STATE]} outside the declared space"
            )
        # At rest: the arm lets go, moves up where it may, and holds still for a second and a half. (What a
        # servo at full effort presses onto the table does sink in: a candy of a few grams by 8 mm.)
        up = np.zeros(env.action_space.shape, np.float32)
        up[2], up[6:7] = 1.0, 1.0
        for _ in range(4):
            env.step(up)
        env.scene.arm.drive(env.scene.arm.setpoint, round(1.5 / schema.PHYSICS_STEP_S))
        depth, between = penetration(env)
        assert depth < PENETRATION_M, f"{where}: {1e3 * depth:.1f} mm between {between} at rest"
    env.close()
