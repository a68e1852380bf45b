"""The vocabulary: names, dtypes, units and seeds. This module is its only home.

Observations are flat dictionaries keyed by the names below, the same in the environments, in
episodes and on disk. A single observation has no leading dimension; batches put N or T+1 in front.
"""

from __future__ import annotations

from typing import Final

STATE: Final = "observation.state"
"""Proprioception, float32 (S,). WidowX: x, y, z [m], roll, pitch, yaw [rad], gripper [0, 1 = open]."""

IMAGE_PREFIX: Final = "observation.images."
DEFAULT_CAMERA: Final = "front"


def image_key(camera: str = DEFAULT_CAMERA) -> str:
    """The observation key of a camera's picture, uint8 (H, W, 3)."""
    return IMAGE_PREFIX + camera


IMAGE: Final = image_key()

LANGUAGE: Final = "observation.language"
"""The instruction as a vector, float32 (L,): `robot_rl.data.language`, or any text encoder's."""

# Actions of the WidowX family (BridgeData V2): delta xyz and delta roll pitch yaw in [-1, 1], and the opening
# of the gripper, absolute, 1 = open. An arm takes 0 and all below for closed.
ACTION_NAMES: Final = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")
DELTA_POSITION_M: Final = 0.05
DELTA_ROTATION_RAD: Final = 0.25
CONTROL_HZ: Final = 5
SETPOINT_HZ: Final = 50
PHYSICS_STEP_S: Final = 0.002

FILTER_REASONS: Final = (
    "",  # the request was executed unchanged
    "non_finite",
    "wrong_shape",
    "action_limit",
    "stale_command",
    "out_of_order",
    "stale_state",
    "inactive",
    "estop",
    "position_limit",
    "workspace_limit",
    "velocity_limit",
    "acceleration_limit",
    "leash",
    "energy",
    "implausible_state",
)
"""Why the executed command differs from the requested one. Stored as the index (uint8)."""

# First seeds of disjoint ranges: nothing that is trained or tuned on ever sees the held-out range.
SEED_DEMOS: Final = 0
SEED_ROLLOUTS: Final = 1_000_000
SEED_ONLINE: Final = 2_000_000
SEED_VALIDATION: Final = 3_000_000
SEED_HELD_OUT: Final = 9_000_000
RUN_SEEDS: Final = 10_000
"""Of each range, how many a run has to itself: those from its own `seed` times this on."""
RUNS: Final = 1_000_000 // RUN_SEEDS
"""A run's `seed` is less than this, or its episodes would be those of the next range."""
