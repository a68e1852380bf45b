"""Any robosuite task (Zhu et al., "robosuite", 2020; package `robosuite` 1.5) on a Panda arm by default."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from robot_rl.errors import ConfigError, MissingExtraError, unknown
from sim.adapters.base import AdapterConfig, AdapterEnv, parse_options
from sim.spec import SimulationError, TaskSpec

INSTRUCTIONS = {
    "Door": "open the door",
    "Lift": "lift the red cube",
    "NutAssembly": "put each nut on its peg",
    "NutAssemblyRound": "put the round nut on the round peg",
    "NutAssemblySingle": "put the nut on its peg",
    "NutAssemblySquare": "put the square nut on the square peg",
    "PickPlace": "put each object into its bin",
    "PickPlaceBread": "put the bread into its bin",
    "PickPlaceCan": "put the can into its bin",
    "PickPlaceCereal": "put the cereal box into its bin",
    "PickPlaceMilk": "put the milk carton into its bin",
    "PickPlaceSingle": "put the object into its bin",
    "Stack": "stack the red cube on the green cube",
    "ToolHang": "hang the tool on the stand",
    "Wipe": "wipe the table",
}


@dataclass(frozen=True)
class RobosuiteConfig(AdapterConfig):
    """How a robosuite task is run.

    Attributes:
        robot: a robosuite robot, or `WidowX250S`.
        control_hz: decisions a second. At 5 Hz an action moves the hand by up to 5 cm, as on the WidowX.
        camera: a camera of the task's.
    """

    robot: str = "Panda"
    control_hz: float = 5.0
    camera: str = "agentview"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1.0 <= self.control_hz <= 50.0:
            raise ConfigError(f"control_hz={self.control_hz} must lie in 1..50")


def make(env_name: str, **kwargs: Any) -> RobosuiteEnv:
    """The robosuite task `env_name`, for example `Lift`; `kwargs` as in `RobosuiteConfig`.

    Raises:
        MissingExtraError: robosuite is not installed.
        ConfigError: the task or an option is unknown.
    """
    return RobosuiteEnv(env_name, parse_options(RobosuiteConfig, f"robosuite/{env_name}", kwargs))


class RobosuiteEnv(AdapterEnv):
    """A robosuite task with one arm, driven by robosuite's operational-space controller.

    State (8,): hand x, y, z [m], its quaternion x, y, z, w, and gripper opening [m]. Action (7,): delta
    position (1 = 5 cm), delta rotation (1 = .5 rad, axis-angle) and gripper (1 = close), in the robot's
    base frame. The reward is robosuite's shaped one for a decision.
    """

    def __init__(self, env_name: str, config: RobosuiteConfig | None = None) -> None:
        config = config or RobosuiteConfig()
        logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)
        try:
            import robosuite
        except ImportError as error:
            raise MissingExtraError("robosuite", "robosuite") from error
        from sim.adapters import robosuite_widowx  # registers the WidowX with robosuite

        experts = {
            ("Lift", "Panda"): lift_expert,
            ("Lift", robosuite_widowx.ROBOT): robosuite_widowx.lift_expert,
        }
        if env_name not in INSTRUCTIONS:
            raise unknown("robosuite task", env_name, INSTRUCTIONS)
        robots = robosuite.ALL_ROBOTS
        if config.robot not in robots:
            raise unknown("robosuite robot", config.robot, robots)
        # A fixed seed for what is drawn when the model is built (the cube's size); a hard reset would
        # build it again for every episode (1 s), and each episode's seed draws its poses anyway.
        self._env: Any = robosuite.make(
            env_name,
            robots=config.robot,
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            reward_shaping=True,
            control_freq=config.control_hz,
            ignore_done=True,
            hard_reset=False,
            seed=0,
        )
        spec = TaskSpec(
            name=f"robosuite/{env_name}",
            robot=config.robot.lower(),
            control_hz=config.control_hz,
            instruction=INSTRUCTIONS[env_name],
            max_steps=config.max_steps,
        )
        super().__init__(spec, config, state_size=8, action_size=self._env.action_dim)
        self._expert = experts.get((env_name, config.robot))
        self._robot = config.robot
        self._experts = [f"robosuite/{name} with {robot}" for name, robot in experts]
        self._camera = config.camera
        cameras = list(self._env.sim.model.camera_names)
        if config.camera not in cameras:
            raise unknown("robosuite camera", config.camera, cameras)
        self._scene_option = mujoco.MjvOption()
        self._scene_option.geomgroup[0] = 0  # collision shapes

    def _physics(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        return self._env.sim.model._model, self._env.sim.data._data

    def _start(self, seed: int) -> None:
        # robosuite shares one generator between robot and samplers: set it in place.
        self._env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        self._robosuite_observation = self._env.reset()

    def _advance(self, action: npt.NDArray[np.float32]) -> dict[str, float]:
        self._robosuite_observation, reward, _, _ = self._env.step(action)
        return {"robosuite": float(reward)}

    def _state(self) -> npt.NDArray[np.float32]:
        observed = self._robosuite_observation
        fingers = observed["robot0_gripper_qpos"]
        opening = np.abs(fingers[:1] - fingers[-1:])
        parts = [observed["robot0_eef_pos"], observed["robot0_eef_quat"], opening]
        return np.concatenate(parts).astype(np.float32)

    def _succeeded(self) -> bool:
        return bool(self._env._check_success())

    def expert_action(self) -> npt.NDArray[np.float32]:
        if self._expert is None:
            raise SimulationError(
                f"{self.task_spec.name} with {self._robot} has no scripted expert; "
                f"robosuite tasks with one: {', '.join(self._experts)}"
            )
        squeeze = -float(self._env.robots[0].gripper["right"].current_action[0])
        action = self._expert(self._robosuite_observation, squeeze)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def close(self) -> None:
        super().close()
        self._env.close()


_REACH_M = 0.05  # what an action of 1 moves the hand by
_ABOVE = np.array([0.0, 0.0, 0.08])


def lift_expert(observed: dict[str, npt.NDArray[Any]], squeeze: float) -> npt.NDArray[np.float64]:
    """Above the cube, down, close, up; the phase is read off the present state alone.

    Args:
        observed: robosuite's own observation, with the cube's position.
        squeeze: setpoint of the fingers, -1 (open) to 1 (closed).
    """
    offset = observed["cube_pos"] - observed["robot0_eef_pos"]
    aside = float(np.hypot(offset[0], offset[1]))
    around = aside < 0.015 and abs(offset[2]) < 0.02
    action = np.zeros(7)
    action[6] = 1.0 if around else -1.0
    if around:
        # robosuite moves the fingers' setpoint by .2 of its range a decision: lift once it is closed.
        action[2] = 1.0 if squeeze > 0.5 else 0.0
    elif aside < 0.02:
        action[:3] = offset / _REACH_M
    else:
        action[:3] = (offset + _ABOVE) / _REACH_M
    return action
