"""What a robot has and a simulator has not: late and noisy signals, play in the gears, another light.

`RandomisationConfig` says how much of each; `Imperfections` and `Looks` are one episode's draw of it. All is
drawn from the episode's generator, so the same seed gives the same episode; the objects of a seed stand where
they stand without randomisation.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import mujoco
import numpy as np

from robot_rl.data import schema
from robot_rl.errors import ConfigError
from sim.spec import FloatArray

PHYSICS_STEPS_PER_SETPOINT = round(1 / (schema.SETPOINT_HZ * schema.PHYSICS_STEP_S))


@dataclass(frozen=True)
class RandomisationConfig:
    """Off by default: every term is zero, and then nothing is drawn and nothing changes.

    Attributes:
        latency_s: least and largest time from a setpoint to the servo [s], drawn once an episode.
        observation_delay_s: least and largest age of joint angles and pictures [s], once an episode.
        joint_noise_rad: largest standard deviation of the joint angles' noise [rad], once an episode.
        finger_noise_m: the same of the fingers' travel [m].
        backlash_rad: largest play between a joint and its setpoint [rad], once an episode and joint.
        camera_position_m: largest shift of each camera along each axis [m].
        camera_rotation_rad: largest turn of each camera about each axis [rad].
        light: largest relative change of the lights' brightness, 0 .. 1.
        colour: largest change of each shape's red, green and blue, 0 .. 1.
    """

    latency_s: tuple[float, float] = (0.0, 0.0)
    observation_delay_s: tuple[float, float] = (0.0, 0.0)
    joint_noise_rad: float = 0.0
    finger_noise_m: float = 0.0
    backlash_rad: float = 0.0
    camera_position_m: float = 0.0
    camera_rotation_rad: float = 0.0
    light: float = 0.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        for name in ("latency_s", "observation_delay_s"):
            value = tuple(float(bound) for bound in getattr(self, name))
            object.__setattr__(self, name, value)
            if len(value) != 2 or not 0 <= value[0] <= value[1] <= 1:
                raise ConfigError(f"{name}={value}; expected least and largest, 0 <= least <= largest <= 1 s")
        for name, most in (
            ("joint_noise_rad", 0.1), ("finger_noise_m", 0.01), ("backlash_rad", 0.1), ("light", 1.0),
            ("camera_position_m", 0.2), ("camera_rotation_rad", 0.5), ("colour", 1.0),
        ):  # fmt: skip
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name}={getattr(self, name)}; expected 0 .. {most:g}")

    @property
    def signals(self) -> bool:
        """Whether commands or measurements change."""
        return any(
            (*self.latency_s, *self.observation_delay_s, self.joint_noise_rad, self.finger_noise_m)
        ) or bool(self.backlash_rad)

    @property
    def looks(self) -> bool:
        """Whether pictures change."""
        return any((self.camera_position_m, self.camera_rotation_rad, self.light, self.colour))


class Imperfections:
    """Commands and measurements of one episode.

    Latency has the resolution of a physics step; measurements are kept at `schema.SETPOINT_HZ` and
    interpolated in between. Backlash is a play operator: a joint follows its setpoint only once that has
    left the play.

    Args:
        config: how much of everything.
        rng: the episode's; drawn from here, and at every measurement.
        base_delay_s: latency that the arm has anyway [s].
    """

    def __init__(
        self, config: RandomisationConfig, rng: np.random.Generator, base_delay_s: float = 0.0
    ) -> None:
        self._rng = rng
        self.latency_s = base_delay_s + float(rng.uniform(*config.latency_s))
        self.observation_delay_s = float(rng.uniform(*config.observation_delay_s))
        self.noise: FloatArray = np.full(7, rng.uniform(0, config.joint_noise_rad))
        self.noise[6] = rng.uniform(0, config.finger_noise_m)
        self.backlash: FloatArray = np.append(rng.uniform(0, config.backlash_rad, 6), 0.0)
        steps = round(self.latency_s / schema.PHYSICS_STEP_S)
        self._late_ticks, self._late_steps = divmod(steps, PHYSICS_STEPS_PER_SETPOINT)
        self._age = self.observation_delay_s * schema.SETPOINT_HZ

    def start(self, setpoint: FloatArray, measured: FloatArray, data: mujoco.MjData) -> None:
        """From here on; before, `setpoint` (7,) was commanded, and `measured` (7,), `data` held, for long."""
        self._commands = deque([setpoint] * (self._late_ticks + 2), maxlen=self._late_ticks + 2)
        kept = math.ceil(self._age) + 1
        self._measured = deque([measured] * kept, maxlen=kept)
        self._past = deque([_positions(data)] * kept, maxlen=kept)
        self._engaged = setpoint.copy()
        self._reading: FloatArray | None = None

    def commands(self, setpoint: FloatArray) -> Iterator[tuple[FloatArray, int]]:
        """What reaches the servos while `setpoint` (7,) is the newest command.

        Yields:
            Setpoints (7,), and for how many physics steps each holds.
        """
        self._commands.append(setpoint)
        for late, steps in ((0, self._late_steps), (1, PHYSICS_STEPS_PER_SETPOINT - self._late_steps)):
            if steps:
                play = self.backlash / 2
                arrived = self._commands[late]
                self._engaged = np.minimum(np.maximum(self._engaged, arrived - play), arrived + play)
                yield self._engaged, steps

    def record(self, measured: FloatArray, data: mujoco.MjData) -> None:
        """`measured` (7,) and `data` are so now; called once a tick of `schema.SETPOINT_HZ`."""
        self._measured.append(measured)
        if self._age:
            self._past.append(_positions(data))
        self._reading = None

    def reading(self) -> FloatArray:
        """What the sensors say (7,): late and noisy, the same until the next `record`."""
        if self._reading is None:
            whole, share = divmod(self._age, 1)
            newest = len(self._measured) - 1 - int(whole)
            value = self._measured[newest]
            if share:
                value = (1 - share) * value + share * self._measured[newest - 1]
            self._reading = value + self.noise * self._rng.standard_normal(7)
        return self._reading.copy()

    def past_positions(self) -> tuple[FloatArray, FloatArray, FloatArray] | None:
        """qpos, mocap_pos and mocap_quat that a picture shows now, to the nearest tick; None: the present."""
        return self._past[len(self._past) - 1 - round(self._age)] if self._age else None


def _positions(data: mujoco.MjData) -> tuple[FloatArray, FloatArray, FloatArray]:
    return data.qpos.copy(), data.mocap_pos.copy(), data.mocap_quat.copy()


class Looks:
    """Cameras, lights and colours of a compiled model, and their random changes."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._cam_pos, self._cam_quat = model.cam_pos.copy(), model.cam_quat.copy()
        self._colours = [
            (array, array.copy()) for array in (model.geom_rgba, model.mat_rgba, model.flex_rgba)
        ]
        head = model.vis.headlight
        self._lights = [
            (array, array.copy())
            for array in (head.ambient, head.diffuse, model.light_ambient, model.light_diffuse)
        ]

    def restore(self) -> None:
        """As compiled."""
        self._model.cam_pos[:], self._model.cam_quat[:] = self._cam_pos, self._cam_quat
        for array, original in (*self._colours, *self._lights):
            array[:] = original

    def randomise(self, config: RandomisationConfig, rng: np.random.Generator) -> None:
        """Draw new ones around those of the compiled model."""
        shift = rng.uniform(-1, 1, self._cam_pos.shape) * config.camera_position_m
        self._model.cam_pos[:] = self._cam_pos + shift
        for camera, quaternion in enumerate(self._cam_quat):
            turn, turned = np.empty(4), np.empty(4)
            vector = rng.uniform(-1, 1, 3) * config.camera_rotation_rad
            angle = float(np.linalg.norm(vector))
            mujoco.mju_axisAngle2Quat(turn, vector / angle if angle else np.array([1.0, 0, 0]), angle)
            mujoco.mju_mulQuat(turned, quaternion, turn)
            self._model.cam_quat[camera] = turned
        brightness = 1 + rng.uniform(-1, 1) * config.light
        for array, original in self._lights:
            array[:] = original * brightness
        for array, original in self._colours:
            change = rng.uniform(-1, 1, (len(original), 3)) * config.colour
            array[:, :3] = np.clip(original[:, :3] + change, 0, 1)
