"""The WidowX environment: one task on one arm, as a Gymnasium environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.errors import ConfigError, unknown
from sim.arm import ArmConfig, Executed
from sim.impedance import ImpedanceConfig
from sim.randomisation import RandomisationConfig
from sim.scene import CAMERAS, MAX_PICTURE
from sim.spec import CommandFilter, Observation, TaskSpec, config_of, parse_action
from sim.tasks import TASKS
from sim.tasks.base import Task

ROBOT = "widowx_250s"
RESET_OPTIONS = ("task", "keep_scene", "near_miss")


@dataclass(frozen=True)
class WidowXConfig:
    """Options of every WidowX environment; zero or empty means the task's own value.

    Attributes:
        cameras: names of the pictures in the observation; none at all gives a state-only environment.
        image_size: edge of the pictures [pixels].
        max_steps: steps until `truncated`.
        hold_steps: consecutive successful steps until `terminated`.
        reward_weights: term -> weight, replaces the task's weights by name.
        robot: `widowx_250s` or `widowx_ai`.
        control_mode: how the motors follow, see `sim.control`.
        impedance: of the impedance modes; some of its fields, or all.
        arm_parameters: file written by `robot-rl sysid`; empty for the nominal parameters.
        randomisation: of signals and looks; some of its fields, or all.
    """

    cameras: tuple[str, ...] = (schema.DEFAULT_CAMERA,)
    image_size: int = 64
    max_steps: int = 0
    hold_steps: int = 1
    reward_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    robot: str = ROBOT
    control_mode: str = "joint_position"
    impedance: ImpedanceConfig | Mapping[str, Any] = dataclasses.field(default_factory=ImpedanceConfig)
    arm_parameters: str = ""
    randomisation: RandomisationConfig | Mapping[str, Any] = dataclasses.field(
        default_factory=RandomisationConfig
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "cameras", tuple(self.cameras))
        object.__setattr__(self, "impedance", config_of(ImpedanceConfig, self.impedance, "impedance option"))
        object.__setattr__(
            self, "randomisation", config_of(RandomisationConfig, self.randomisation, "randomisation term")
        )
        self.arm  # noqa: B018 - an unknown robot or control mode is refused here
        for camera in self.cameras:
            if camera not in CAMERAS:
                raise unknown("camera", camera, CAMERAS)
        if not 8 <= self.image_size <= MAX_PICTURE:
            raise ConfigError(f"image_size={self.image_size}; expected 8 .. {MAX_PICTURE} pixels")
        if self.max_steps < 0 or self.hold_steps < 1:
            raise ConfigError(
                f"max_steps={self.max_steps}, hold_steps={self.hold_steps}; "
                "expected max_steps >= 0, hold_steps >= 1"
            )

    @property
    def arm(self) -> ArmConfig:
        """The arm that these options ask for."""
        assert isinstance(self.impedance, ImpedanceConfig)
        return ArmConfig(self.robot, self.control_mode, self.impedance, self.arm_parameters)


class WidowXEnv(gymnasium.Env[Observation, npt.NDArray[np.float32]]):
    """Observation: `schema.STATE` (7,) and one picture a camera; action (7,), see `schema.ACTION_NAMES`.

    `info` of a step: `success`, `action` (executed), `filter_reason`, `cost`, `reward_terms` (weighted),
    `instruction`. `terminated` only by success, `truncated` only by the clock.

    `reset` understands these options:

    - `task`: go on with another task of the same scene, such as this one's `Task.pair`, until the next
      fresh reset, which goes back to the task the environment was made for;
    - `keep_scene`: leave arm and objects as they are, and restart only the clock and the count of
      successful steps;
    - `near_miss`: start from one of the task's `near_misses`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": schema.CONTROL_HZ}  # noqa: RUF012

    def __init__(
        self, task: Task, config: WidowXConfig | None = None, render_mode: str | None = None
    ) -> None:
        self.config, self.render_mode = config or WidowXConfig(), render_mode
        for term in self.config.reward_weights:
            if term not in task.reward_weights:
                raise unknown(f"reward term of {task.name}", term, task.reward_weights)
        self._made_for = task
        self._take_up(task)
        self.scene = task.make_scene(self.config.arm)
        low, high = (np.array(bound, np.float32) for bound in self.scene.arm.state_bounds)
        picture = (self.config.image_size, self.config.image_size, 3)
        self.observation_space: gymnasium.spaces.Dict = gymnasium.spaces.Dict(  # type: ignore[assignment]
            {schema.STATE: gymnasium.spaces.Box(low, high, dtype=np.float32)}
            | {
                schema.image_key(camera): gymnasium.spaces.Box(0, 255, picture, np.uint8)
                for camera in self.config.cameras
            }
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.scene.arm.action_size,), np.float32)
        self._steps = self._held = 0
        self._made_by: tuple[int | None, dict[str, Any]] = (None, {})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        options = options or {}
        for option in options:
            if option not in RESET_OPTIONS:
                raise unknown("reset option", option, RESET_OPTIONS)
        keep, near_miss = bool(options.get("keep_scene")), options.get("near_miss")
        if keep and near_miss:
            raise ConfigError(f"keep_scene and near_miss={near_miss!r}; expected one of them, or neither")
        if "task" in options:
            self._take_up(self._sibling(str(options["task"])))
        elif not keep:
            self._take_up(self._made_for)
        super().reset(seed=seed)
        self._steps = self._held = 0
        if not keep:
            self._made_by = (seed, options)
            self.scene.reset()
            self.task.reset(self.scene, self.np_random)
            self.scene.forward()
            assert isinstance(self.config.randomisation, RandomisationConfig)
            self.scene.randomise(self.config.randomisation, self.np_random)
        if near_miss:
            self.task.near_miss(self.scene, self.np_random, str(near_miss))
            self.scene.forward()
        self.scene.data.time = 0.0
        self.scene.arm.begin()
        info = {"instruction": self.task_spec.instruction, "success": self.task.success(self.scene)}
        return self._observe(), info

    def scene_state(self) -> dict[str, Any]:
        """Arm and objects as they are, in numbers, strings and lists: what `restore_scene` needs.

        Raises:
            ConfigError: the scene was made without a seed, and cannot be made again; or the task's arm hangs
                on springs, which remember more.
        """
        if self.task.port != "joints":
            raise ConfigError(f"the scene of {self.task.name} cannot be kept: its arm hangs on springs")
        seed, options = self._made_by
        if seed is None:
            raise ConfigError("the scene was reset without a seed; expected one, to make it again")
        return {"seed": seed, "options": dict(options), "task": self.task.name, **self.scene.state()}

    def restore_scene(self, state: Mapping[str, Any]) -> None:
        """Bring back what `scene_state` gave, bit for bit; `reset` with `keep_scene` goes on from there.

        Only the past of randomised signals (what is under way with latency, and noise) starts anew.
        """
        self.reset(seed=state["seed"], options=dict(state["options"]))
        self._take_up(self._sibling(state["task"]))
        self.scene.restore(state)

    def _take_up(self, task: Task) -> None:
        """From now on instruction, success, reward and expert are those of `task`."""
        self.task = task
        weights = self.config.reward_weights
        self.reward_weights = {term: weights.get(term, own) for term, own in task.reward_weights.items()}
        self.task_spec = TaskSpec(
            name=task.name,
            robot=self.config.robot,
            control_hz=schema.CONTROL_HZ,
            instruction=task.instruction,
            max_steps=self.config.max_steps or task.max_steps,
            port=task.port,
        )

    def _sibling(self, name: str) -> Task:
        """The task `name`, which must have this environment's objects and workspace."""
        siblings = {
            f"widowx/{short}": task
            for short, task in TASKS.items()
            if task.workspace == self.task.workspace and task().objects_xml() == self.task.objects_xml()
        }
        if name not in siblings:
            raise unknown(f"task in the scene of {self.task.name}", name, siblings)
        return siblings[name]()

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        executed = self.scene.arm.apply(parse_action(action, self.scene.arm.action_size))
        self.scene.forward()
        self._steps += 1
        success = self.task.success(self.scene)
        self._held = self._held + 1 if success else 0
        info = self._info(executed, success)
        terminated = self._held >= self.config.hold_steps
        truncated = self._steps >= self.task_spec.max_steps
        return self._observe(), sum(info["reward_terms"].values()), terminated, truncated, info

    def _info(self, executed: Executed, success: bool) -> dict[str, Any]:
        terms = self.task.reward_terms(self.scene)
        return {
            "success": success,
            "action": executed.action,
            "filter_reason": executed.filter_reason,
            "reward_terms": {name: weight * terms[name] for name, weight in self.reward_weights.items()},
            "instruction": self.task_spec.instruction,
            **self.task.measurements(self.scene),
        }

    def _observe(self) -> Observation:
        observation: Observation = {schema.STATE: self.scene.arm.observation()}
        for camera in self.config.cameras:
            observation[schema.image_key(camera)] = self.scene.observe(camera, self.config.image_size)
        return observation

    def expert_action(self) -> npt.NDArray[np.float32]:
        """The scripted expert's action (A,) in [-1, 1] for the present state."""
        action = np.append(self.task.expert(self.scene), self.scene.arm.servos.stiffness_action)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def set_command_filter(self, command_filter: CommandFilter | None) -> None:
        """Put `command_filter` between the controller and the servos; None takes it away."""
        self.scene.arm.command_filter = command_filter

    def render(self, camera: str = schema.DEFAULT_CAMERA, size: int = 256) -> npt.NDArray[np.uint8]:  # type: ignore[override]
        """Picture (size, size, 3) for people."""
        return self.scene.render(camera, size)

    def close(self) -> None:
        self.scene.close()


def make_env(task: str, render_mode: str | None = None, **options: Any) -> WidowXEnv:
    """The environment of a WidowX task such as `push`.

    Raises:
        ConfigError: unknown task or option.
    """
    if task not in TASKS:
        raise unknown("task", f"widowx/{task}", [f"widowx/{name}" for name in TASKS])
    fields = [field.name for field in dataclasses.fields(WidowXConfig)]
    for option in options:
        if option not in fields:
            raise unknown(f"option of widowx/{task}", option, fields)
    return WidowXEnv(TASKS[task](), WidowXConfig(**options), render_mode)
