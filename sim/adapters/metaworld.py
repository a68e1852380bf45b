"""Any Meta-World v3 task (Yu et al., "Meta-World", 2020; package `metaworld` 3), with its scripted policy."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from robot_rl.errors import ConfigError, MissingExtraError, unknown
from sim.adapters.base import AdapterConfig, AdapterEnv, parse_options
from sim.spec import TaskSpec

SIMULATION_HZ = 80
"""Meta-World's own control rate: 5 physics steps of 2.5 ms."""

INSTRUCTIONS = {
    "assembly-v3": "put the ring on the peg",
    "basketball-v3": "put the ball in the basket",
    "bin-picking-v3": "move the block to the other bin",
    "box-close-v3": "close the box with the lid",
    "button-press-topdown-v3": "press the button from above",
    "button-press-topdown-wall-v3": "press the button behind the wall from above",
    "button-press-v3": "press the button",
    "button-press-wall-v3": "press the button behind the wall",
    "coffee-button-v3": "press the button of the coffee machine",
    "coffee-pull-v3": "pull the mug away from the coffee machine",
    "coffee-push-v3": "push the mug under the coffee machine",
    "dial-turn-v3": "turn the dial",
    "disassemble-v3": "take the ring off the peg",
    "door-close-v3": "close the door",
    "door-lock-v3": "lock the door",
    "door-open-v3": "open the door",
    "door-unlock-v3": "unlock the door",
    "drawer-close-v3": "close the drawer",
    "drawer-open-v3": "open the drawer",
    "faucet-close-v3": "close the faucet",
    "faucet-open-v3": "open the faucet",
    "hammer-v3": "hammer the nail into the wall",
    "hand-insert-v3": "put the hand into the hole",
    "handle-press-side-v3": "press the handle down from the side",
    "handle-press-v3": "press the handle down",
    "handle-pull-side-v3": "pull the handle up from the side",
    "handle-pull-v3": "pull the handle up",
    "lever-pull-v3": "pull the lever up",
    "peg-insert-side-v3": "insert the peg into the hole in the side",
    "peg-unplug-side-v3": "pull the peg out of the hole in the side",
    "pick-out-of-hole-v3": "take the puck out of the hole",
    "pick-place-v3": "put the puck at the goal",
    "pick-place-wall-v3": "put the puck at the goal behind the wall",
    "plate-slide-back-side-v3": "slide the plate out of the cabinet sideways",
    "plate-slide-back-v3": "slide the plate out of the cabinet",
    "plate-slide-side-v3": "slide the plate into the cabinet sideways",
    "plate-slide-v3": "slide the plate into the cabinet",
    "push-back-v3": "pull the puck back to the goal",
    "push-v3": "push the puck to the goal",
    "push-wall-v3": "push the puck around the wall to the goal",
    "reach-v3": "reach the goal",
    "reach-wall-v3": "reach the goal behind the wall",
    "shelf-place-v3": "put the block on the shelf",
    "soccer-v3": "push the ball into the goal",
    "stick-pull-v3": "pull the thermos with the stick",
    "stick-push-v3": "push the thermos with the stick",
    "sweep-into-v3": "sweep the block into the hole",
    "sweep-v3": "sweep the block off the table",
    "window-close-v3": "close the window",
    "window-open-v3": "open the window",
}


@dataclass(frozen=True)
class MetaWorldConfig(AdapterConfig):
    """How a Meta-World task is run.

    Attributes:
        frame_skip: Meta-World steps per decision (the action is repeated); 5 makes it 16 Hz, and an
            action moves the hand by up to 5 cm, as on the WidowX. The expert opens the drawer in 19
            decisions then and presses the button in 16.
        camera: a camera of Meta-World's, or empty for a closer, upright view from the side.
    """

    frame_skip: int = 5
    camera: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.frame_skip <= 20:
            raise ConfigError(f"frame_skip={self.frame_skip} must lie in 1..20")


def make(env_name: str, **kwargs: Any) -> MetaWorldEnv:
    """The Meta-World task `env_name`, for example `drawer-open-v3`; `kwargs` as in `MetaWorldConfig`.

    Raises:
        MissingExtraError: Meta-World is not installed.
        ConfigError: the task or an option is unknown.
    """
    return MetaWorldEnv(env_name, parse_options(MetaWorldConfig, f"metaworld/{env_name}", kwargs))


class MetaWorldEnv(AdapterEnv):
    """A Meta-World v3 task.

    State (4,): hand x, y, z [m] and gripper opening [0, 1]. Action (4,): delta x, y, z and gripper
    effort (1 = close). The seed draws the positions of object and goal anew from the task's own range.
    The reward is Meta-World's shaped one, divided by 10 so that it lies in [0, 1].
    """

    def __init__(self, env_name: str, config: MetaWorldConfig | None = None) -> None:
        config = config or MetaWorldConfig()
        try:
            from metaworld.env_dict import ALL_V3_ENVIRONMENTS
            from metaworld.policies import ENV_POLICY_MAP
        except ImportError as error:
            raise MissingExtraError("metaworld", "metaworld") from error
        if env_name not in ALL_V3_ENVIRONMENTS:
            raise unknown("Meta-World task", env_name, ALL_V3_ENVIRONMENTS)
        spec = TaskSpec(
            name=f"metaworld/{env_name}",
            robot="sawyer",
            control_hz=SIMULATION_HZ / config.frame_skip,
            instruction=INSTRUCTIONS.get(env_name, env_name.removesuffix("-v3").replace("-", " ")),
            max_steps=config.max_steps,
        )
        super().__init__(spec, config, state_size=4, action_size=4)
        self._frame_skip = config.frame_skip
        self._policy_class: Any = ENV_POLICY_MAP[env_name]
        self._env: Any = ALL_V3_ENVIRONMENTS[env_name]()
        # A task is a fixed draw of Meta-World's `_random_reset_space`; here every seed draws its own, and
        # the scripted policy sees the goal.
        self._env._set_task_called = True
        self._env._freeze_rand_vec = False
        self._env.seeded_rand_vec = True
        self._env._partially_observable = False
        self._env.max_path_length = 10**9  # the clock is `max_steps`
        self._camera = self._chosen_camera(config.camera)

    def _chosen_camera(self, name: str) -> mujoco.MjvCamera | str:
        if name:
            names = [self._env.model.camera(i).name for i in range(self._env.model.ncam)]
            if name not in names:
                raise unknown("Meta-World camera", name, names)
            return name
        camera = mujoco.MjvCamera()
        camera.lookat[:] = (0.0, 0.7, 0.12)
        camera.distance, camera.azimuth, camera.elevation = 1.0, 150.0, -35.0
        return camera

    def _physics(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        return self._env.model, self._env.data

    def _start(self, seed: int) -> None:
        self._env.seed(seed)
        self._expert_observation, _ = self._env.reset()
        self._policy = self._policy_class()
        self._success = False

    def _advance(self, action: npt.NDArray[np.float32]) -> dict[str, float]:
        for _ in range(self._frame_skip):
            self._expert_observation, reward, _, _, info = self._env.step(action)
        self._success = bool(info["success"])
        return {"metaworld": float(reward) / 10.0}

    def _state(self) -> npt.NDArray[np.float32]:
        return self._expert_observation[:4].astype(np.float32)

    def _succeeded(self) -> bool:
        return self._success

    def expert_action(self) -> npt.NDArray[np.float32]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Constant(s) may be too high": clipped here, as there
            action = self._policy.get_action(self._expert_observation)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def close(self) -> None:
        super().close()
        self._env.close()
