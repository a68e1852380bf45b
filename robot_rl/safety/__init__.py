"""Safety: nothing reaches an arm or an environment unchecked."""

from robot_rl.safety.action_guard import ActionGuard, ActionGuardConfig, GuardedVectorEnv
from robot_rl.safety.command import Command, Decision, JointState
from robot_rl.safety.config import GuardConfig
from robot_rl.safety.guard import CommandGuard, GuardFilter, widowx_guard_factory
from robot_rl.safety.passivity import Filtered, PassivityFilter
from robot_rl.safety.passivity_config import PassivityConfig
from robot_rl.safety.ports import CartesianPassivityFilter, TorquePassivityFilter, impedance_torque
from robot_rl.safety.tank import EnergyTank

__all__ = [
    "ActionGuard",
    "ActionGuardConfig",
    "CartesianPassivityFilter",
    "Command",
    "CommandGuard",
    "Decision",
    "EnergyTank",
    "Filtered",
    "GuardConfig",
    "GuardFilter",
    "GuardedVectorEnv",
    "JointState",
    "PassivityConfig",
    "PassivityFilter",
    "TorquePassivityFilter",
    "impedance_torque",
    "widowx_guard_factory",
]
