"""The arm with a peg in its gripper, held by a spring in the plane: variable-stiffness Cartesian impedance.

The tool's height and direction are held by stiff springs that never change. What an action changes are the
setpoint and the stiffness of two springs along x and y: a port of two dimensions through which energy can
enter. A `SpringFilter` may stand at that port, at `schema.SETPOINT_HZ`; an `EnergyLedger` keeps account of
what crosses it, with or without a filter.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Protocol

import mujoco
import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.errors import ConfigError
from sim.arm import PHYSICS_STEPS_PER_SETPOINT, SETPOINTS_PER_STEP, Executed, WidowXArm, Workspace
from sim.kinematics import JOINTS, TOOL_SITE, Pose
from sim.randomisation import Imperfections
from sim.spec import FloatArray

PEG_RADIUS, PEG_LENGTH = 0.005, 0.055
"""The peg reaches `PEG_LENGTH` below the tool [m]; its lower end is a half sphere."""
# In the frame of the gripper, whose x points down when the tool does. The peg cannot slip.
PEG_XML = (
    '<body name="peg" pos="0.0935 0 0"><site name="grip"/><geom name="peg" type="capsule" '
    f'fromto="0.01 0 0 {PEG_LENGTH - PEG_RADIUS} 0 0" size="{PEG_RADIUS}" mass="0.02" '
    'rgba="0.85 0.1 0.1 1" friction="0.3 0.005 0.0001" solref="0.005 1" priority="2" condim="3" contype="2" '
    'conaffinity="1"/></body>'
)

REACH = 0.03
"""How far from the measured position an action can put the setpoint [m]."""
STIFFNESS = (50.0, 800.0)
"""Range of the stiffness along x and y [N/m]; an action's logarithm is linear in it."""
REST_STIFFNESS = 300.0
MASS = 2.0
"""Effective mass along x and y [kg] that the damping D = 2 z sqrt(K m) counts with."""
DAMPING_RATIO = 1.0
FORCE_CUTOFF_HZ = 10.0
FULL_TANK = 1.0
"""Brim of the tank that `state` tells of when no filter has one [J]: nothing is limited by it."""
_UPRIGHT = (("z", 1500.0, 90.0), ("roll", 30.0, 2.7), ("pitch", 30.0, 2.7), ("yaw", 15.0, 0.8))
"""Springs that never change: direction, stiffness [N/m or N m/rad], damping [N s/m or N m s/rad]."""
_SUBSTEPS = 2
"""Looks at contact force and velocity in a period of the setpoint."""


class SpringDecision(Protocol):
    """What a `SpringFilter` lets through: arrays (2,) in SI units, and why."""

    setpoint: FloatArray
    stiffness: FloatArray
    damping: FloatArray
    scale: float
    """Share of the requested change that was executed, in [0, 1]."""
    tank: float
    """Energy left to give [J]."""
    reason: str
    """One of `schema.FILTER_REASONS`."""


class SpringFilter(Protocol):
    """Judges setpoint, stiffness and damping of the springs; `robot_rl.safety.PassivityFilter` is one."""

    @property
    def tank(self) -> Any:
        """With its `level` [J]."""

    def reset(self, q: Any, setpoint: Any, stiffness: Any, damping: Any) -> Any:
        """Start with springs (2,) as they are, at the measured position `q` (2,) [m]."""

    def step(self, *, q: Any, setpoint: Any, stiffness: Any, damping: Any) -> Any:
        """The `SpringDecision` on one request; called at `schema.SETPOINT_HZ`."""


class EnergyLedger:
    """What crossed the port since the episode began [J], counted from the physics, not by any filter.

    Attributes:
        injected: sum of the changes of spring energy, e' K e / 2 after minus before, at the instants at
            which setpoint or stiffness changed: the energy that the controller put in (or took out).
        dissipated: integral of v' D v: what the controller's own dampers took out again.
        peak: largest `injected - dissipated` so far. A passive controller never exceeds its initial budget.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.injected = self.dissipated = self.peak = 0.0

    def inject(self, energy: float) -> None:
        self.injected += energy
        self.peak = max(self.peak, self.net)

    @property
    def net(self) -> float:
        return self.injected - self.dissipated


class PegArm(WidowXArm):
    """Actions (4,) in [-1, 1] at `schema.CONTROL_HZ`: setpoint of the springs relative to the measured tool
    along x and y in units of `REACH`, and the stiffness along x and y.

    Relative to the measured position, an action is a force as much as a motion, and the spring is never
    longer than `REACH` plus what the tool moves within a step.

    Args:
        reference: x, y (2,) [m] from which `state` counts the tool's position.
    """

    action_names: ClassVar[tuple[str, ...]] = ("dx", "dy", "kx", "ky")
    action_size = len(action_names)
    state_names: ClassVar[tuple[str, ...]] = (
        "x", "y", "vx", "vy", "fx", "fy", "fz", "ex", "ey", "kx", "ky", "hint", "tank", "scale",
    )  # fmt: skip
    state_bounds = (
        (-1, -1, -5, -5, -500, -500, -500, -1, -1, -1, -1, -1, 0, 0),
        (1, 1, 5, 5, 500, 500, 500, 1, 1, 1, 1, 1, 100, 1),
    )

    def __init__(
        self, model: mujoco.MjModel, data: mujoco.MjData, workspace: Workspace, reference: FloatArray
    ) -> None:
        super().__init__(model, data, workspace)
        for joint in JOINTS:  # the servos rest; their efforts still limit the joints
            servo = model.actuator(joint).id
            model.actuator_gainprm[servo] = model.actuator_biasprm[servo] = 0.0
        self.reference = reference
        self.hint = 0.0
        """What the task tells of its goal; part of the state."""
        self.command_filter: Any = None
        """A `SpringFilter`, or None."""
        self.ledger = EnergyLedger()
        self.full_tank = FULL_TANK
        self._low, self._high = np.array(workspace.low), np.array(workspace.high)
        self._springs = np.array([model.actuator(f"spring_{axis}").id for axis in "xyz"])
        self._dofs = np.array([model.joint(joint).dofadr[0] for joint in JOINTS])
        self._jacobian = np.zeros((3, model.nv))
        self._site = model.site(TOOL_SITE).id
        self._peg = model.body("peg").id
        self._physics_steps = PHYSICS_STEPS_PER_SETPOINT // _SUBSTEPS
        self._look_s = self._physics_steps * schema.PHYSICS_STEP_S
        self._smoothing = 1 - math.exp(-2 * math.pi * FORCE_CUTOFF_HZ * self._look_s)
        self._target = np.zeros(3)
        self._calm()

    def _calm(self) -> None:
        """The springs at rest at `_target`."""
        self.stiffness: FloatArray = np.full(2, REST_STIFFNESS)
        self.damping: FloatArray = damping_of(self.stiffness)
        self.force: FloatArray = np.zeros(3)
        self._power = 0.0
        self._tune()
        self.begin()

    def begin(self) -> None:
        """An episode begins, with the springs as they are: a full tank, and new accounts."""
        self.peak_force = self.step_energy = self.excess_energy = 0.0
        self.ledger.reset()
        self.scale, self.tank = 1.0, self.full_tank
        if self.command_filter is not None:
            self._refresh()
            self.command_filter.reset(self.position, self._target[:2], self.stiffness, self.damping)
            self.tank = float(self.command_filter.tank.level)

    def imperfect(self, imperfections: Imperfections | None) -> None:
        """Refused, but for None: what the springs feel and do is neither late nor noisy."""
        if imperfections is not None:
            raise ConfigError("the peg's springs take no latency, noise, delay or backlash; only looks vary")

    # ---- what is measured

    @property
    def position(self) -> FloatArray:
        """The tool's x, y (2,) [m]."""
        return self.data.site_xpos[self._site][:2].copy()

    @property
    def tip(self) -> FloatArray:
        """The centre of the peg's lower end (3,) [m]."""
        down = -self.data.site_xmat[self._site].reshape(3, 3)[:, 2]
        return self.data.site_xpos[self._site] + (PEG_LENGTH - PEG_RADIUS) * down

    @property
    def velocity(self) -> FloatArray:
        """The tool's velocity along x, y (2,) [m/s]."""
        mujoco.mj_jacSite(self.model, self.data, self._jacobian, None, self._site)
        return self._jacobian[:2] @ self.data.qvel

    @property
    def spring(self) -> FloatArray:
        """Setpoint minus measured position (2,) [m]."""
        return self._target[:2] - self.position

    def state(self) -> npt.NDArray[np.float32]:
        """(14,) `state_names`: position from `reference` [m], velocity [m/s], filtered contact force on the
        peg [N], spring [m], its stiffness as in an action, the task's hint, and of the spring filter the
        tank [J] and the least scale of the last step; without one, what a tank that limits nothing would
        hold, and 1."""
        values = [
            *(self.position - self.reference), *self.velocity, *self.force, *self.spring,
            *action_of(self.stiffness), self.hint, self.tank, self.scale,
        ]  # fmt: skip
        return np.clip(values, *self.state_bounds).astype(np.float32)

    def observation(self) -> npt.NDArray[np.float32]:
        return self.state()

    # ---- what is commanded

    def place(self, pose: Pose, gripper: float) -> None:
        """Put the arm at rest at `pose`, the springs slack."""
        super().place(pose, gripper)
        self.data.qvel[:] = 0.0
        self._target = np.array(pose.position, np.float64)
        self.data.ctrl[self._springs] = self._target
        self._calm()

    def apply(self, action: npt.NDArray[np.float32]) -> Executed:
        """Execute one action (4,) in [-1, 1] for 1 / `schema.CONTROL_HZ` seconds of physics."""
        self._refresh()
        start, origin = self._target[:2].copy(), self.position
        goal = np.clip(origin + REACH * action[:2], self._low[:2], self._high[:2])
        stiffness = stiffness_of(action[2:])
        self.peak_force, self.excess_energy, reason = 0.0, 0.0, ""
        injected, scale = self.ledger.injected, 1.0
        for tick in range(1, SETPOINTS_PER_STEP + 1):
            why = self._command(start + (goal - start) * (tick / SETPOINTS_PER_STEP), stiffness)
            reason, scale = reason or why, min(scale, self.scale)
            for _ in range(_SUBSTEPS):
                self._advance()
        self.scale, self.step_energy = scale, self.ledger.injected - injected
        if not reason:
            return Executed(action, 0)
        executed = [*(self._target[:2] - origin) / REACH, *action_of(self.stiffness)]
        index = schema.FILTER_REASONS.index(reason if reason in schema.FILTER_REASONS else "energy")
        return Executed(np.clip(executed, -1, 1).astype(np.float32), index)

    def _command(self, setpoint: FloatArray, stiffness: FloatArray) -> str:
        """Put new springs in through the filter; returns its reason."""
        position, damping, reason = self.position, damping_of(stiffness), ""
        before = _energy(self._target[:2] - position, self.stiffness)
        requested = _energy(setpoint - position, stiffness) - before
        if self.command_filter is not None:
            decision = self.command_filter.step(
                q=position, setpoint=setpoint, stiffness=stiffness, damping=damping
            )
            setpoint, stiffness, damping = decision.setpoint, decision.stiffness, decision.damping
            self.scale, self.tank, reason = float(decision.scale), float(decision.tank), decision.reason
        self._target[:2] = setpoint
        self.stiffness, self.damping = np.array(stiffness), np.array(damping)
        self.data.ctrl[self._springs[:2]] = self._target[:2]
        self._tune()
        injected = _energy(self._target[:2] - position, self.stiffness) - before
        self.ledger.inject(injected)
        if self.command_filter is None:
            self.tank = max(0.0, min(self.full_tank, self.tank - injected))
        self.excess_energy += max(0.0, requested - injected)
        return reason

    def _refresh(self) -> None:
        """Make the tool's pose that of the present joints: the physics leaves that of the step before."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)

    def _tune(self) -> None:
        """Give the model the springs along x and y."""
        springs = self._springs[:2]
        self.model.actuator_gainprm[springs, 0] = self.stiffness
        self.model.actuator_biasprm[springs, 1] = -self.stiffness
        self.model.actuator_biasprm[springs, 2] = -self.damping

    def _advance(self) -> None:
        """Let physics pass until the next look at force and velocity; dissipation by the trapezium rule."""
        before = self._power
        mujoco.mj_step(self.model, self.data, nstep=self._physics_steps)
        self._refresh()
        velocity = self.velocity
        self._power = float(velocity @ (self.damping * velocity))
        dissipated = (before + self._power) / 2 * self._look_s
        self.ledger.dissipated += dissipated
        if self.command_filter is None:
            self.tank = min(self.full_tank, self.tank + dissipated)
        force: Any = 0.0
        if self.data.ncon:
            mujoco.mj_rnePostConstraint(self.model, self.data)
            force = self.data.cfrc_ext[self._peg, 3:]
        self.force = self.force + self._smoothing * (force - self.force)
        self.peak_force = max(self.peak_force, math.hypot(*self.force))


def springs_xml() -> str:
    """The springs as MuJoCo actuators between the tool and a site of the world: inside `mujoco`."""
    gears = ("x", "y", "z", "yaw", "pitch", "roll")
    # Angles are those of the gripper's own frame, whose x points down: MuJoCo takes them wrongly between
    # sites that are turned against their bodies.
    sites = (f'site="{TOOL_SITE}" refsite="world"', 'site="grip" refsite="downwards"')
    plane = tuple((axis, REST_STIFFNESS, float(damping_of(REST_STIFFNESS))) for axis in "xy")
    lines = [
        f'<position name="spring_{axis}" {sites[len(axis) > 1]} kp="{stiffness}" kv="{damping}" '
        f'gear="{" ".join("1" if axis == each else "0" for each in gears)}"/>'
        for axis, stiffness, damping in (*plane, *_UPRIGHT)
    ]
    world = '<site name="world"/><site name="downwards" quat="0.70710678118654752 0 0.70710678118654752 0"/>'
    return f"<worldbody>{world}</worldbody><actuator>{''.join(lines)}</actuator>"


def _energy(spring: FloatArray, stiffness: FloatArray) -> float:
    return 0.5 * float(spring @ (stiffness * spring))


def stiffness_of(action: npt.ArrayLike) -> FloatArray:
    """Stiffness [N/m] for numbers in [-1, 1]."""
    low, high = STIFFNESS
    return low * (high / low) ** ((np.asarray(action, np.float64) + 1) / 2)


def action_of(stiffness: FloatArray) -> FloatArray:
    """The inverse of `stiffness_of`."""
    low, high = STIFFNESS
    return 2 * np.log(stiffness / low) / math.log(high / low) - 1


def damping_of(stiffness: npt.ArrayLike) -> FloatArray:
    """D = 2 z sqrt(K m) [N s/m]."""
    return 2 * DAMPING_RATIO * np.sqrt(np.asarray(stiffness) * MASS)
