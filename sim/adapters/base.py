"""What an adapter shares: the environment contract around a foreign simulator."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import gymnasium as gym
import mujoco
import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.errors import ConfigError, unknown
from sim.rendering import Renderer, without_shadows
from sim.spec import Observation, TaskSpec, parse_action


@dataclass(frozen=True)
class AdapterConfig:
    """What every adapter can be asked.

    Attributes:
        max_steps: decisions until truncation.
        hold_steps: decisions in a row that success must last before the episode terminates.
        image_size: height and width of the picture [pixels].
    """

    max_steps: int = 50
    hold_steps: int = 1
    image_size: int = 64

    def __post_init__(self) -> None:
        for name in ("max_steps", "hold_steps", "image_size"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")


ConfigT = TypeVar("ConfigT", bound=AdapterConfig)


def parse_options(config_class: type[ConfigT], task: str, options: dict[str, Any]) -> ConfigT:
    """`config_class(**options)`, an unknown option named with the nearest valid ones.

    Raises:
        ConfigError: an option is unknown or its value unusable.
    """
    names = [field.name for field in fields(config_class)]
    for option in options:
        if option not in names:
            raise unknown(f"option of {task}", option, names)
    return config_class(**options)


class AdapterEnv(gym.Env[Observation, npt.NDArray[np.float32]]):
    """The contract of docs/architecture.md around a foreign MuJoCo simulator.

    A subclass supplies the simulator's own reset, step, state, truth and expert. Pictures are rendered
    here, without shadows and multisampling, whatever the simulator's defaults.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"
    _camera: mujoco.MjvCamera | str
    _scene_option: mujoco.MjvOption | None = None

    def __init__(self, task_spec: TaskSpec, config: AdapterConfig, state_size: int, action_size: int) -> None:
        self.task_spec = task_spec
        self._config = config
        self._renderers: dict[int, Renderer] = {}
        self._steps = self._held = 0
        picture = (config.image_size, config.image_size, 3)
        self.observation_space: Any = gym.spaces.Dict(
            {
                schema.STATE: gym.spaces.Box(-np.inf, np.inf, (state_size,), np.float32),
                schema.IMAGE: gym.spaces.Box(0, 255, picture, np.uint8),
            }
        )
        self.action_space: Any = gym.spaces.Box(-1.0, 1.0, (action_size,), np.float32)

    @abstractmethod
    def _physics(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """The simulator's model and data, the same objects for the whole life of the environment."""

    @abstractmethod
    def _start(self, seed: int) -> None:
        """Begin the episode that `seed` alone determines."""

    @abstractmethod
    def _advance(self, action: npt.NDArray[np.float32]) -> dict[str, float]:
        """Execute one decision (A,) in [-1, 1]; returns the named reward terms."""

    @abstractmethod
    def _state(self) -> npt.NDArray[np.float32]:
        """Proprioception (S,)."""

    @abstractmethod
    def _succeeded(self) -> bool:
        """The simulator's own ground truth, now."""

    @abstractmethod
    def expert_action(self) -> npt.NDArray[np.float32]:
        """The scripted expert's action (A,) in [-1, 1] in the present state."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self._start(int(self.np_random.integers(2**31)))
        self._steps = self._held = 0
        info = {"instruction": self.task_spec.instruction, "success": self._succeeded()}
        return self._observation(), info

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        executed = parse_action(action, size=self.action_space.shape[0])
        terms = self._advance(executed)
        success = self._succeeded()
        self._steps += 1
        self._held = self._held + 1 if success else 0
        terminated = self._held >= self._config.hold_steps
        truncated = self._steps >= self._config.max_steps
        info = {
            "success": success,
            "action": executed,
            "filter_reason": 0,
            "cost": 0.0,
            "reward_terms": terms,
            "instruction": self.task_spec.instruction,
        }
        return self._observation(), sum(terms.values()), terminated, truncated, info

    def _observation(self) -> Observation:
        return {schema.STATE: self._state(), schema.IMAGE: self.render(self._config.image_size)}

    def render(self, size: int = 256) -> npt.NDArray[np.uint8]:  # type: ignore[override]
        """Picture (size, size, 3), for people unless it is of the size that the observation holds."""
        model, data = self._physics()
        if size not in self._renderers:
            self._renderers[size] = Renderer(without_shadows(model), size, size)
        return self._renderers[size].picture(data, self._camera, self._scene_option)

    def close(self) -> None:
        while self._renderers:
            self._renderers.popitem()[1].close()
