"""The figures of a passivity filter, in SI units, refused where they cannot be feasible."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from robot_rl.errors import ConfigError, unknown

Mode = Literal["passive", "energy_bounded"]
MODES = ("passive", "energy_bounded")
ROBOTS = ("widowx_250s", "widowx_ai")
"""Arms whose figures are known."""
PerJoint = float | tuple[float | None, ...] | None
PER_JOINT = ("leash", "torque_limit", "max_speed", "max_stiffness", "max_damping", "inertia")


@dataclass(frozen=True)
class PassivityConfig:
    """Budget and servo of a `PassivityFilter`. Per joint: a number, or (J,) of them; None for no limit.

    Units are those of a hinge; of a slide read m for rad and N for Nm.

    Attributes:
        mode: what is guaranteed. `passive`: no energy but what the tank held at the start.
            `energy_bounded`: at most `power_w` more in the long run; never to be called passive.
        tank_max_j, tank_min_j: brim and floor of the tank [J].
        tank_start_j: what a reset puts in [J]; None: up to the brim.
        power_w: inflow from outside [W]; 0 in `passive` mode.
        max_power_w: most that may be drawn per second [W].
        refill: share of the surely dissipated energy that comes back to the tank, in [0, 1]; 1 leaves nothing
            to cover what is not modelled.
        period_s: time between two steps of the filter [s].
        servo_period_s: time over which the servo holds one sampled spring torque [s].
        leash: largest |setpoint - position| [rad]; where `torque_limit` is given also
            `torque_limit` / stiffness, so that the spring alone never saturates the servo.
        torque_limit: torque that the servo surely has for spring and damper [Nm], gravity taken off.
        max_speed: speed that the joint surely never exceeds [rad/s]: a reading that moved faster refills
            nothing, and the torque port reserves for it.
        max_stiffness, max_damping: most that the servo can be set to [Nm/rad], [Nm s/rad].
        contact_energy_j: cap on kinetic + spring + available energy [J].
        inertia: diagonal of a matrix that bounds the joint-space inertia from above [kg m^2]; for the cap.

    Raises:
        ConfigError: a figure is out of range, or two of them cannot hold together.
    """

    mode: Mode = "passive"
    tank_max_j: float = 4.0
    tank_min_j: float = 0.1
    tank_start_j: float | None = None
    power_w: float = 0.0
    max_power_w: float | None = None
    refill: float = 0.8
    period_s: float = 0.02
    servo_period_s: float = 0.002
    leash: PerJoint = None
    torque_limit: PerJoint = None
    max_speed: PerJoint = None
    max_stiffness: PerJoint = None
    max_damping: PerJoint = None
    contact_energy_j: float | None = None
    inertia: PerJoint = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown("passivity mode", str(self.mode), MODES)
        for name in PER_JOINT:
            value = getattr(self, name)
            if value is not None and not isinstance(value, int | float):
                numbers = tuple(None if number is None else float(number) for number in value)
                object.__setattr__(self, name, numbers)
            if any(not 0.0 < number < math.inf for number in _numbers(getattr(self, name))):
                raise _refused(name, value, "finite numbers above 0, or None for no limit")
        self._check_tank()
        self._check_servo()

    def _check_tank(self) -> None:
        low, high, start = self.tank_min_j, self.tank_max_j, self.tank_start_j
        if not 0.0 <= low < high < math.inf:
            raise _refused("tank_min_j, tank_max_j", (low, high), "0 <= tank_min_j < tank_max_j [J]")
        if start is not None and not low <= start <= high:
            raise _refused("tank_start_j", start, f"{low} .. {high} J, or None for a full tank")
        if not 0.0 <= self.refill <= 1.0:
            raise _refused("refill", self.refill, "a share in [0, 1]: more would create energy")
        if self.mode == "passive" and self.power_w != 0.0:
            raise _refused("power_w", self.power_w, "0 in passive mode: an inflow is not passive")
        if self.mode == "energy_bounded" and not 0.0 < self.power_w < math.inf:
            raise _refused("power_w", self.power_w, "watts above 0 in energy_bounded mode")
        if self.max_power_w is not None and not self.max_power_w > 0.0:
            raise _refused("max_power_w", self.max_power_w, "watts above 0, or None")
        cap = self.contact_energy_j
        if cap is not None:
            if not 0.0 < cap < math.inf:
                raise _refused("contact_energy_j", cap, "joules above 0, or None for no cap")
            if high - low > cap:
                raise _refused(
                    "contact_energy_j", cap, f"at least tank_max_j - tank_min_j = {high - low:.4g} J"
                )
            if self.inertia is None:
                raise _refused("inertia", None, "kg m^2 of each joint: contact_energy_j needs it")

    def _check_servo(self) -> None:
        if not 0.0 < self.servo_period_s <= self.period_s < math.inf:
            raise _refused(
                "servo_period_s, period_s",
                (self.servo_period_s, self.period_s),
                "0 < servo_period_s <= period_s [s]",
            )
        lengths = {
            len(value) for name in PER_JOINT if isinstance(value := getattr(self, name), tuple)
        }  # fmt: skip
        if len(lengths) > 1:
            raise _refused("per-joint figures", sorted(lengths), "the same number of joints in each")
        joints = lengths.pop() if lengths else 1
        columns = [self.per_joint(name, joints) for name in PER_JOINT[:5]]
        for joint, (leash, torque, _, stiffness, damping) in enumerate(zip(*columns, strict=True)):
            if torque * (1 + 1e-9) < leash * stiffness < math.inf:
                raise ConfigError(
                    f"passivity joint {joint}: leash {leash} x max_stiffness {stiffness} = "
                    f"{leash * stiffness:.4g} Nm; expected at most torque_limit {torque} Nm"
                )
            needed = stiffness * self.leak_time(joint, joints)
            if stiffness < math.inf and needed > damping:
                raise ConfigError(
                    f"passivity joint {joint}: max_stiffness {stiffness} held for {self.servo_period_s} s "
                    f"needs damping of {needed:.4g}; expected at most max_damping {damping} Nm s/rad"
                )

    @classmethod
    def widowx_250s(cls, **changes: Any) -> PassivityConfig:
        """The WidowX 250 S as simulated: six hinges and one finger, servos at 2 ms. `changes` replace fields.

        By default energy-bounded with a budget that leaves the tasks their success (docs/safety.md).
        """
        values: dict[str, Any] = {
            "mode": "energy_bounded",
            "tank_max_j": 4.0,
            "power_w": 2.0,
            "refill": 0.9,
            # Efforts less the most that gravity takes of them. The finger has a leash instead: a grasp is
            # a setpoint inside the object, and its servo may saturate on it.
            "torque_limit": (10.0, 16.0, 13.5, 1.8, 4.8, 0.98, None),
            "leash": (None, None, None, None, None, None, 0.03),
            "max_stiffness": (200.0, 300.0, 200.0, 40.0, 50.0, 20.0, 1500.0),
            "max_damping": (12.0, 18.0, 10.0, 1.6, 2.0, 0.8, 40.0),
        }
        return cls(**(values | changes))

    @classmethod
    def widowx_ai(cls, **changes: Any) -> PassivityConfig:
        """The WidowX AI as simulated, with the budget of the 250 S. `changes` replace fields."""
        values: dict[str, Any] = {
            "mode": "energy_bounded",
            "tank_max_j": 4.0,
            "power_w": 2.0,
            "refill": 0.9,
            "torque_limit": (27.0, 12.5, 19.5, 5.1, 6.2, 6.9, None),  # efforts less gravity's most, as above
            "leash": (None, None, None, None, None, None, 0.03),
            "max_stiffness": (300.0, 600.0, 400.0, 120.0, 60.0, 40.0, 1500.0),
            "max_damping": (20.0, 40.0, 24.0, 6.0, 2.5, 1.6, 40.0),
        }
        return cls(**(values | changes))

    @classmethod
    def of_robot(cls, robot: str, **changes: Any) -> PassivityConfig:
        """The budget and servos of the arm of that name. `changes` replace fields.

        Raises:
            ConfigError: there is none.
        """
        if robot not in ROBOTS:
            raise unknown("robot", robot, ROBOTS)
        config: PassivityConfig = getattr(cls, robot)(**changes)
        return config

    def leak_time(self, joint: int, joints: int) -> float:
        """Least damping / stiffness at which a sampled spring does not leak [s].

        h/2 as long as the servo never saturates, h if it may (see docs/safety.md).
        """
        limited = self.per_joint("torque_limit", joints)[joint] < math.inf
        return self.servo_period_s if limited else 0.5 * self.servo_period_s

    def per_joint(self, name: str, joints: int) -> list[float]:
        """A per-joint figure as `joints` numbers; inf for None.

        Raises:
            ConfigError: it was given for another number of joints.
        """
        value: PerJoint = getattr(self, name)
        if not isinstance(value, tuple):
            return [math.inf if value is None else float(value)] * joints
        if len(value) != joints:
            raise _refused(name, value, f"{joints} numbers, one a joint")
        return [math.inf if number is None else number for number in value]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable fields; `PassivityConfig(**fields)` gives the config back."""
        return dataclasses.asdict(self)


def _numbers(value: PerJoint) -> tuple[float, ...]:
    values = value if isinstance(value, tuple) else (value,)
    return tuple(float(number) for number in values if number is not None)


def _refused(name: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(f"passivity {name} is {value}; expected {expected}")
