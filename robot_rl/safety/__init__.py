"""Safety: nothing reaches an arm or an environment unchecked."""

from robot_rl.safety.config import GuardConfig
from robot_rl.safety.guard import Command, CommandGuard, Decision, EnergyFilter, JointState
from robot_rl.safety.guard_filter import GuardFilter, widowx_guard_factory

__all__ = [
    "Command",
    "CommandGuard",
    "Decision",
    "EnergyFilter",
    "GuardConfig",
    "GuardFilter",
    "JointState",
    "widowx_guard_factory",
]
