"""System identification: servo gains, friction, damping, armature, offsets and delay from a joint log.

The log's commands are replayed in MuJoCo; nonlinear least squares move the parameters until the simulated
joint angles are the measured ones:

    minimise over x   sum_t,j ((q_sim(x) - q_log) / noise)^2  +  sum_i (x_i / spread_i)^2

x holds logarithms of ratios to the nominal values, and offsets, delay and gravity share as differences
from them. The second term, a Gaussian prior around the nominal arm, settles what a log cannot tell: of `kv`
and `damping` only the sum acts while the servo stays within its effort, slow motions hide the armature.
`Identified.informed` says how much of each parameter's value comes from the log.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import numpy.typing as npt
from mujoco import rollout
from scipy.optimize import least_squares

from robot_rl.data import schema
from robot_rl.errors import ConfigError, DataError
from sim.arm_model import ArmModel, ArmParameters, JointParameters, arm_model
from sim.spec import FloatArray

_SPREAD = {"kp": 1.0, "kv": 1.0, "damping": 1.0, "friction": 1.5, "armature": 1.0, "offset": 0.05}
"""Standard deviations of the prior: of logarithms, and of the offset [rad]."""
_DELAY_SPREAD, _GRAVITY_SPREAD = 0.05, 1.0
_FINITE_DIFFERENCE = 1e-3
"""Step of the Jacobian, in standard deviations of the prior."""


@dataclass(frozen=True)
class JointLog:
    """Commanded and measured joint angles, evenly sampled.

    Attributes:
        command, measured: (T, 6) [rad]. Sample t is measured when the command's way has led to command t.
        segment: (T,) numbers of the uninterrupted motions; each begins at rest.
        period_s: time between samples [s].
    """

    command: FloatArray
    measured: FloatArray
    segment: npt.NDArray[np.int64]
    period_s: float

    def __post_init__(self) -> None:
        if self.command.shape != self.measured.shape or self.command.shape != (len(self.segment), 6):
            raise DataError(
                f"command {self.command.shape}, measured {self.measured.shape}, "
                f"segment {self.segment.shape}; expected (T, 6), (T, 6), (T,)"
            )
        if not (np.isfinite(self.command).all() and np.isfinite(self.measured).all()):
            raise DataError("a joint log holds a non-finite angle")
        if not schema.PHYSICS_STEP_S <= self.period_s <= 1:
            raise ConfigError(f"period_s={self.period_s}; expected {schema.PHYSICS_STEP_S} .. 1 s")

    @classmethod
    def load(cls, path: str | Path, arm: ArmModel, period_s: float = 0.0) -> JointLog:
        """Read a CSV file with columns `command_<joint>` and `measured_<joint>` [rad], and optionally
        `segment` (a number) and `time` [s]; without `time`, samples are `period_s` [s] apart.

        Raises:
            DataError: it cannot be read, or a column is missing. ConfigError: no `time` and no `period_s`.
        """
        try:
            with open(path, newline="") as file:
                rows = list(csv.DictReader(file))
        except OSError as error:
            raise DataError(f"joint log {path}: {error.strerror}") from error
        wanted = [f"{kind}_{joint}" for kind in ("command", "measured") for joint in arm.joints]
        missing = [column for column in wanted if not rows or column not in rows[0]]
        if missing:
            raise DataError(f"joint log {path} has no column {missing[0]}; expected {', '.join(wanted)}")
        try:
            table = np.array([[float(row[column]) for column in wanted] for row in rows])
            segment = np.array([int(row.get("segment", 0)) for row in rows], np.int64)
            times = np.array([float(row["time"]) for row in rows]) if "time" in rows[0] else None
        except (ValueError, TypeError) as error:
            raise DataError(f"joint log {path} holds something that is no number ({error})") from error
        if times is not None:
            period_s = float(np.median(np.diff(times)))
        elif not period_s:
            raise ConfigError(f"joint log {path} has no column time; expected period=SECONDS between samples")
        return cls(table[:, :6], table[:, 6:], segment, period_s)

    def split(self) -> tuple[JointLog, JointLog]:
        """What to fit and what to hold out: the last segment, or the last third of the only one."""
        last = self.segment == self.segment[-1]
        if last.all():
            last = np.arange(len(last)) >= len(last) * 2 // 3
        return self._where(~last), self._where(last)

    def parts(self) -> Iterator[JointLog]:
        """Each segment on its own."""
        for number in dict.fromkeys(self.segment.tolist()):
            yield self._where(self.segment == number)

    def _where(self, mask: npt.NDArray[np.bool_]) -> JointLog:
        return JointLog(self.command[mask], self.measured[mask], self.segment[mask], self.period_s)


@dataclass(frozen=True)
class SysIdConfig:
    """How to fit.

    Attributes:
        noise_rad: standard deviation of what the model leaves unexplained [rad].
        spread: factor on the prior's standard deviations; larger trusts the log more, the nominal arm less.
        max_iterations: of the least squares.
        threads: that roll out at the same time.
    """

    noise_rad: float = 0.002
    spread: float = 1.0
    max_iterations: int = 30
    threads: int = 1

    def __post_init__(self) -> None:
        if not (self.noise_rad > 0 and self.spread > 0 and self.max_iterations > 0 and self.threads > 0):
            raise ConfigError(f"expected numbers above 0, got {self}")


@dataclass(frozen=True)
class Identified:
    """What came out.

    Attributes:
        parameters: to be laid over the arm's model.
        informed: name -> share of the parameter's prior variance that the log has removed, 0 .. 1;
            `<joint>.<parameter>`, `delay_s`, `gravity_compensation`.
    """

    parameters: ArmParameters
    informed: dict[str, float]


class Replay:
    """Simulates a log's commands with any parameters, many sets of them at once."""

    def __init__(self, log: JointLog, arm: ArmModel, threads: int = 1) -> None:
        self.arm, self._threads = arm, threads
        self._parts = list(log.parts())
        self._models: list[mujoco.MjModel] = []

    def __call__(self, candidates: list[ArmParameters]) -> list[FloatArray]:
        """Simulated joint angles (T, 6) [rad] for each set of parameters, segments one after the other."""
        while len(self._models) < len(candidates):
            model = self.arm.compile()
            model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
            self._models.append(model)
        models = self._models[: len(candidates)]
        for model, parameters in zip(models, candidates, strict=True):
            parameters.apply(model)
        parts = [self._part(part, models, candidates) for part in self._parts]
        return [np.concatenate([part[index] for part in parts]) for index in range(len(candidates))]

    def _part(
        self, log: JointLog, models: list[mujoco.MjModel], candidates: list[ArmParameters]
    ) -> FloatArray:
        """(candidates, T, 6) [rad] of one segment, from rest at the first measured angles."""
        model, step = models[0], schema.PHYSICS_STEP_S
        steps = round(log.period_s * (len(log.command) - 1) / step)
        times, samples = step * np.arange(steps), log.period_s * np.arange(len(log.command))
        data = mujoco.MjData(model)
        joints = np.array([model.joint(name).qposadr[0] for name in self.arm.joints])
        motors = np.array([model.actuator(name).id for name in self.arm.joints])
        data.qpos[joints] = log.measured[0]
        fingers = model.joint("left_finger")
        data.joint("left_finger").qpos[0] = fingers.range[0]
        data.joint("right_finger").qpos[0] = -fingers.range[0]
        state = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS))
        mujoco.mj_getState(model, data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        control = np.full((len(models), steps, model.nu), fingers.range[0])
        for index, candidate in enumerate(candidates):
            for column, motor in enumerate(motors):
                control[index, :, motor] = np.interp(
                    times - candidate.delay_s, samples, log.command[:, column]
                )
        states, _ = rollout.rollout(
            models,
            [mujoco.MjData(model) for _ in range(self._threads)],
            np.tile(state, (len(models), 1)),
            control,
        )
        path = np.concatenate([np.tile(state, (len(models), 1, 1)), states], axis=1)
        nearest = np.minimum(np.round(samples / step).astype(int), steps)
        angles: FloatArray = path[:, nearest][:, :, 1 + joints]  # the state begins with the time
        return angles


def joint_error(parameters: ArmParameters, log: JointLog) -> FloatArray:
    """Root mean square of simulated minus measured angle of each joint (6,) [rad]."""
    simulated = Replay(log, arm_model(parameters.robot))([parameters])[0]
    measured = np.concatenate([part.measured for part in log.parts()])
    return np.sqrt(np.mean((simulated - measured) ** 2, axis=0))


def identify(log: JointLog, arm: ArmModel, config: SysIdConfig | None = None) -> Identified:
    """The parameters with which the simulated arm does what the log says, starting from the nominal ones."""
    config = config or SysIdConfig()
    space = _Space(ArmParameters.nominal(arm))
    replay = Replay(log, arm, config.threads)
    measured = np.concatenate([part.measured for part in log.parts()])

    def errors(points: list[FloatArray]) -> list[FloatArray]:
        """(T, 6) for each point, in units of the noise."""
        return [
            (angles - measured) / config.noise_rad for angles in replay([space.parameters(x) for x in points])
        ]

    def residuals(x: FloatArray) -> FloatArray:
        return np.append(errors([x])[0].ravel(), x / config.spread)

    def jacobian(x: FloatArray) -> FloatArray:
        # Behind its gears a joint hardly feels the others' friction and gains: the same parameter of all six
        # is moved at once, and each joint's error is ascribed to its own. Inwards from the upper bounds.
        steps = np.where(x + _FINITE_DIFFERENCE > space.upper, -_FINITE_DIFFERENCE, _FINITE_DIFFERENCE)
        here, *moved = errors([x, *(x + steps * group for group in space.groups)])
        columns = np.zeros((len(x), *here.shape))
        for group, there in zip(space.groups, moved, strict=True):
            for index in np.flatnonzero(group):
                joints = slice(None) if index >= 6 * space.fields else index // space.fields
                columns[index, :, joints] = (there - here)[:, joints] / steps[index]
        return np.concatenate([columns.reshape(len(x), -1).T, np.eye(len(x)) / config.spread])

    fit = least_squares(
        residuals,
        space.start,
        jacobian,
        (space.lower, space.upper),
        max_nfev=config.max_iterations,
    )
    posterior = np.linalg.inv(fit.jac.T @ fit.jac).diagonal() / config.spread**2
    informed = {name: float(1 - variance) for name, variance in zip(space.names, posterior, strict=True)}
    return Identified(space.parameters(fit.x), informed)


class _Space:
    """Vectors x, in the prior's standard deviations from the nominal values, and what they mean."""

    def __init__(self, nominal: ArmParameters) -> None:
        self._nominal, self._table = nominal, nominal.table()
        fields = [field.name for field in dataclasses.fields(JointParameters)]
        self.fields = len(fields)
        self._spread = np.array([_SPREAD[field] for field in fields])
        self.names = [f"{joint}.{field}" for joint in nominal.joints for field in fields]
        self.names += ["delay_s", "gravity_compensation"]
        size = len(self.names)
        self.start = np.zeros(size)
        each = np.tile(np.eye(self.fields), 6)
        self.groups = np.zeros((self.fields + 2, size))
        """Masks of what is moved together: one parameter of all joints, the delay, the gravity share."""
        self.groups[: self.fields, :-2], self.groups[-2, -2], self.groups[-1, -1] = each, 1, 1
        self.lower, self.upper = np.full(size, -5.0), np.full(size, 5.0)
        # Inside the bounds, so that least squares can start moving.
        self.lower[-2:] = (
            -nominal.delay_s / _DELAY_SPREAD - 1e-6,
            -nominal.gravity_compensation / _GRAVITY_SPREAD,
        )
        self.upper[-1] = (1 - nominal.gravity_compensation) / _GRAVITY_SPREAD + 1e-6

    def parameters(self, x: FloatArray) -> ArmParameters:
        """What x (38,) stands for."""
        changes = x[:-2].reshape(6, -1) * self._spread
        values = self._table * np.exp(changes)
        values[:, -1] = self._table[:, -1] + changes[:, -1]
        return ArmParameters(
            self._nominal.robot,
            {
                name: JointParameters(*map(float, row))
                for name, row in zip(self._nominal.joints, values, strict=True)
            },
            float(np.clip(self._nominal.delay_s + x[-2] * _DELAY_SPREAD, 0, 1)),
            float(np.clip(self._nominal.gravity_compensation + x[-1] * _GRAVITY_SPREAD, 0, 1)),
        )
