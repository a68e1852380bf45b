"""Safety: nothing reaches an arm or an environment unchecked."""

from robot_rl.safety.action_guard import ActionGuard, ActionGuardConfig, GuardedVectorEnv
from robot_rl.safety.command import Command, Decision, EnergyFilter, JointState
from robot_rl.safety.config import GuardConfig
from robot_rl.safety.guard import CommandGuard, GuardFilter, widowx_guard_factory
from robot_rl.safety.passivity import Filtered, PassivityFilter
from robot_rl.safety.passivity_config import PassivityConfig
from robot_rl.safety.tank import EnergyTank

__all__ = [
    "ActionGuard",
    "ActionGuardConfig",
    "Command",
    "CommandGuard",
    "Decision",
    "EnergyFilter",
    "EnergyTank",
    "Filtered",
    "GuardConfig",
    "GuardFilter",
    "GuardedVectorEnv",
    "JointState",
    "PassivityConfig",
    "PassivityFilter",
    "widowx_guard_factory",
]
