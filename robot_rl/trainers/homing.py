"""Between two trials in one scene: the arm lets go, rises and goes back to where demonstrations begin.

What bridge_data_robot and SERL do between episodes; objects stay where they are. A proportional controller of
WidowX actions on the measured pose, N members.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv
from scipy.spatial.transform import Rotation

from robot_rl.data import schema

RELEASE_STEPS = 2
"""Steps for the gripper to open before anything moves."""
PACE = 0.6
"""Largest motion, as a share of the largest action."""
ABOVE_M = 0.01
"""The arm moves sideways once it is no further than this below home [m]."""
AT_HOME_M, AT_HOME_RAD = 0.01, 0.05


def homing_action(
    state: npt.NDArray[np.float32], home: npt.NDArray[np.float32], step: int, size: int
) -> npt.NDArray[np.float32]:
    """Actions (N, A = `size`) from `state` towards `home`, both `schema.STATE` (N, 7), at the step-th step.

    First the gripper opens as far as it was at home; then straight up; then everything at once.
    """
    action = np.zeros((len(state), size), np.float32)
    away = home[:, :3] - state[:, :3]
    low = away[:, 2] > ABOVE_M
    move = np.where(low[:, None], away * [0.0, 0.0, 1.0], away) / schema.DELTA_POSITION_M
    turn = np.where(low[:, None], 0.0, turn_between(state, home)) / schema.DELTA_ROTATION_RAD
    if step >= RELEASE_STEPS:
        action[:, :6] = np.clip(np.concatenate([move, turn], 1), -PACE, PACE)
    action[:, 6] = home[:, 6]
    return action


def at_home(state: npt.NDArray[np.float32], home: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Which arms (N,) are there."""
    near = np.linalg.norm(home[:, :3] - state[:, :3], axis=1) < AT_HOME_M
    return near & (np.linalg.norm(turn_between(state, home), axis=1) < AT_HOME_RAD)


def turn_between(state: npt.NDArray[np.float32], home: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The rotation vectors (N, 3) [rad], in the base's frame, that turn the tools as at home."""
    now, then = (Rotation.from_euler("xyz", each[:, 3:6]) for each in (state, home))
    turn: npt.NDArray[np.float64] = (then * now.inv()).as_rotvec()
    return turn


def go_home(
    env: VectorEnv, home: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], seed: Any, steps: int
) -> int:
    """Bring the arms of `mask` (N,) home, in at most `steps` steps; how many those of all arms were.

    Args:
        env: guarded; it understands the reset option `keep_scene`. Members outside of `mask` must be
            between two episodes: they stay as they are.
        home: `schema.STATE` (N, 7) to go to.
        seed: for the reset that lets the arms move again.
    """
    size = int(np.prod(env.single_action_space.shape or ()))
    observations, _ = env.reset(seed=seed, options={"reset_mask": mask, "keep_scene": True})
    taken = 0
    for step in range(steps):
        state = np.asarray(observations[schema.STATE])
        if at_home(state, home)[mask].all():
            break
        observations = env.step(homing_action(state, home, step, size))[0]
        taken += int(mask.sum())
    return taken
