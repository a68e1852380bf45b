"""The figures of the command path, in SI units."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robot_rl.data.schema import SETPOINT_HZ
from robot_rl.errors import ConfigError, unknown
from robot_rl.safety.passivity_config import ROBOTS, PassivityConfig

PER_JOINT = ("lower", "upper", "margin", "max_velocity", "max_acceleration", "leash")


@dataclass(frozen=True)
class GuardConfig:
    """Limits of an arm of J joints. Units are rad for a hinge and m for a slide.

    Attributes:
        names: joint names (J,), unique.
        lower, upper: position limits (J,) [rad or m].
        margin: distance (J,) kept from both limits [rad or m].
        max_velocity: (J,) [rad/s or m/s]. max_acceleration: (J,) [rad/s^2 or m/s^2].
        leash: largest distance (J,) between setpoint and measured position [rad or m].
        max_command_age_s, max_state_age_s: older than this is stale [s]. Together with one period they
            bound the time to a stop.
        frozen_travel: a measured state that repeats to the last bit for `max_state_age_s` after a setpoint
            moved by more than this [rad or m] is not being measured.
        period_s: time between two steps [s].
        stiffness, damping: of the servos (J,) [Nm/rad or N/m], [Nm s/rad or N s/m]; needed for `passivity`.
        passivity: the energy budget; None: no passivity filter.

    Raises:
        ConfigError: a length differs, a number is not finite or not positive, or no motion would be feasible.
    """

    names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    margin: tuple[float, ...]
    max_velocity: tuple[float, ...]
    max_acceleration: tuple[float, ...]
    leash: tuple[float, ...]
    max_command_age_s: float = 0.08
    max_state_age_s: float = 0.08
    frozen_travel: float = 0.02
    period_s: float = 1.0 / SETPOINT_HZ
    stiffness: tuple[float, ...] = ()
    damping: tuple[float, ...] = ()
    passivity: PassivityConfig | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        if not self.names or len(set(self.names)) != len(self.names):
            raise ConfigError(f"guard names {self.names}: expected at least one joint, each named once")
        for field in PER_JOINT:
            values = tuple(float(value) for value in getattr(self, field))
            object.__setattr__(self, field, values)
            if len(values) != len(self.names) or not all(map(math.isfinite, values)):
                raise ConfigError(f"guard {field} is {values}: expected {len(self.names)} finite numbers")
        for field in ("max_velocity", "max_acceleration", "leash"):
            if min(getattr(self, field)) <= 0:
                raise ConfigError(f"guard {field} is {getattr(self, field)}: expected numbers above 0")
        for field in ("max_command_age_s", "max_state_age_s", "frozen_travel", "period_s"):
            if not 0 < getattr(self, field) < math.inf:
                raise ConfigError(f"guard {field} is {getattr(self, field)}: expected a number above 0")
        for name, low, high, margin in zip(self.names, self.lower, self.upper, self.margin, strict=True):
            if margin < 0 or high - low - 2 * margin <= 0:
                raise ConfigError(
                    f"guard joint {name}: limits {low} .. {high} with margin {margin} leave a range of "
                    f"{high - low - 2 * margin:.4g}; expected more than 0"
                )
        for field in ("max_command_age_s", "max_state_age_s"):
            if getattr(self, field) < self.period_s:
                raise ConfigError(
                    f"guard {field} is {getattr(self, field)}: shorter than one period of {self.period_s} s, "
                    "so everything would be stale"
                )

        self._check_passivity()

    def _check_passivity(self) -> None:
        if isinstance(self.passivity, Mapping):  # as read from a bundle
            object.__setattr__(self, "passivity", PassivityConfig(**self.passivity))
        for field in ("stiffness", "damping"):
            values = tuple(float(value) for value in getattr(self, field))
            object.__setattr__(self, field, values)
            if (values or self.passivity is not None) and (
                len(values) != len(self.names) or not all(0 < value < math.inf for value in values)
            ):
                raise ConfigError(f"guard {field} is {values}: expected {len(self.names)} numbers above 0")
        if self.passivity is None:
            return
        if abs(self.passivity.period_s - self.period_s) > 1e-9:
            raise ConfigError(
                f"guard period_s is {self.period_s}, passivity period_s {self.passivity.period_s}: "
                "expected the same"
            )
        most = self.passivity.per_joint("max_stiffness", len(self.names))
        for name, stiffness, limit in zip(self.names, self.stiffness, most, strict=True):
            if stiffness > limit:
                raise ConfigError(
                    f"guard joint {name}: stiffness {stiffness}; expected at most max_stiffness {limit}"
                )
        for i, (name, stiffness, damping) in enumerate(
            zip(self.names, self.stiffness, self.damping, strict=True)
        ):
            needed = stiffness * self.passivity.leak_time(i, len(self.names))
            if damping < needed:
                raise ConfigError(
                    f"guard joint {name}: stiffness {stiffness} held for {self.passivity.servo_period_s} s "
                    f"needs damping of {needed:.4g}; the servo has {damping}"
                )

    @classmethod
    def widowx_250s(cls, **changes: Any) -> GuardConfig:
        """The WidowX 250 S: six hinges and the travel of one finger. `changes` replace fields.

        Position and velocity limits are the URDF's; the other figures are ours, and say why.
        """
        values: dict[str, Any] = {
            "names": (
                "waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "left_finger",
            ),
            "lower": (-3.14158, -1.88496, -2.14675, -3.14158, -1.74533, -3.14158, 0.015),
            "upper": (3.14158, 1.98968, 1.6057, 3.14158, 2.14675, 3.14158, 0.037),
            "margin": (*(0.05,) * 6, 0.0),
            # The finger: its whole travel in .15 s, a little faster than an action asks for it.
            "max_velocity": (*(math.pi,) * 6, 0.15),
            # A setpoint ramp that turns every .2 s steps in speed: the scripted push with noise .3 asks
            # for up to 116 rad/s^2, and 100 cuts .4 % of its steps (60: 11 %, 20: 75 %). MoveIt, whose
            # trajectories are smooth, plans with 5: take that on an arm without a profile of its own.
            "max_acceleration": (*(100.0,) * 6, 10.0),
            # The finger's leash is longer than its travel: a grasp is a setpoint inside the object.
            "leash": (*(0.3,) * 6, 0.03),
            # The servos as simulated (`sim/assets/wx250s.xml`); identify those of an arm before use.
            "stiffness": (200.0, 300.0, 200.0, 40.0, 50.0, 20.0, 1500.0),
            "damping": (12.0, 18.0, 10.0, 1.6, 2.0, 0.8, 40.0),
        }  # fmt: skip
        return cls(**(values | changes))

    @classmethod
    def widowx_ai(cls, **changes: Any) -> GuardConfig:
        """The WidowX AI: six hinges and the travel of one finger. `changes` replace fields.

        Position limits are the manufacturer's, velocity limits the smaller of two published sets; the other
        figures are ours, for the reasons that `widowx_250s` gives.
        """
        values: dict[str, Any] = {
            "names": ("joint_0", "joint_1", "joint_2", "joint_3", "joint_4", "joint_5", "left_finger"),
            "lower": (-3.05433, 0.0, 0.0, -1.5708, -1.5708, -3.14159, 0.015),
            "upper": (3.05433, 3.14159, 2.35619, 1.5708, 1.5708, 3.14159, 0.059),
            "margin": (*(0.05,) * 6, 0.0),
            "max_velocity": (*(3.375,) * 3, *(7.0,) * 3, 0.15),
            "max_acceleration": (*(100.0,) * 6, 10.0),
            "leash": (*(0.3,) * 6, 0.03),
            # The servos as simulated (`sim/assets/widowx_ai.xml`); identify those of an arm before use.
            "stiffness": (300.0, 600.0, 400.0, 120.0, 60.0, 40.0, 1500.0),
            "damping": (20.0, 40.0, 24.0, 6.0, 2.5, 1.6, 40.0),
        }
        return cls(**(values | changes))

    @classmethod
    def of_robot(cls, robot: str, **changes: Any) -> GuardConfig:
        """The limits of the arm of that name. `changes` replace fields.

        Raises:
            ConfigError: there is none.
        """
        if robot not in ROBOTS:
            raise unknown("robot", robot, ROBOTS)
        config: GuardConfig = getattr(cls, robot)(**changes)
        return config

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable fields; `GuardConfig(**fields)` gives the config back."""
        return dataclasses.asdict(self)
