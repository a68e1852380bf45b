"""The policy node: a bundle's policy at up to 5 Hz, its joint setpoints at 50 Hz, to the guard.

As in training an action follows from what is seen after the one before has been carried out; what that
takes beyond the action's .2 s (the camera's period, transport, inference) lowers the rate.

It publishes only while it is enabled and sees: without a fresh picture and joint state it falls silent,
and the guard stops the arm.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool

from robot_rl.agents.policy import PolicyRunner
from robot_rl.data import schema
from robot_rl.errors import ConfigError
from robot_rl.safety import ActionGuard, GuardConfig
from robot_rl.safety import JointState as Measured
from robot_rl.trainers.bundle import load_bundle
from robot_rl_ros import messages
from robot_rl_ros.spin import run
from sim.arm import ArmController
from sim.tasks import TASKS

Setpoints = npt.NDArray[np.float64]
PATIENCE_S = 0.01
"""A tick waits this long for the policy, half of its period; a slower answer is used a tick later."""


class PolicyNode(Node):
    """Parameters: `bundle` (directory, required), `seed` (of a stochastic policy's noise), `stochastic`,
    `max_image_age_s`, `max_skew_s` (between picture and joint state), `settle_s` (from an action's last
    setpoint to the picture that the next is based on: its way through guard and driver, and one period
    of motion, as in the simulator) [s]."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("policy", **kwargs)
        bundle = load_bundle(str(self.declare_parameter("bundle", "").value))
        family, _, task = bundle.task.partition("/")
        if family != "widowx" or task not in TASKS or bundle.control_hz != schema.CONTROL_HZ:
            raise ConfigError(
                f"bundle is for {bundle.task!r} at {bundle.control_hz} Hz; this node drives the WidowX tasks "
                f"{', '.join(sorted(TASKS))} at {schema.CONTROL_HZ} Hz"
            )
        self.seed = int(self.declare_parameter("seed", 0).value or 0)
        stochastic = bool(self.declare_parameter("stochastic", False).value)
        self.max_image_age_s = float(self.declare_parameter("max_image_age_s", 0.3).value or 0.3)
        self.max_skew_s = float(self.declare_parameter("max_skew_s", 0.05).value or 0.05)
        self.settle_s = float(self.declare_parameter("settle_s", 0.03).value or 0.0)
        self.names = (bundle.guard or GuardConfig.widowx_250s()).names
        self.image_shape = bundle.policy.config.image_shape
        self.controller = ArmController(TASKS[task].workspace)
        self.runner = PolicyRunner(bundle.policy, deterministic=not stochastic, seed=self.seed)
        self.action_guard = ActionGuard(1, bundle.policy.config.action_dim, bundle.action_guard)
        torch.set_num_threads(1)

        self._thinker = ThreadPoolExecutor(max_workers=1)
        self._thought: Future[Setpoints] | None = None
        self._enabled = False
        self._episodes = self._sequence = 0
        self._setpoint: Setpoints = np.zeros(len(self.names))
        self._ahead: deque[Setpoints] = deque()
        self._moved = 0.0
        self._states: deque[Measured] = deque(maxlen=100)
        self._image: Image | None = None
        self._requests = self.create_publisher(JointState, messages.REQUESTED, messages.COMMAND_QOS)
        self.create_subscription(JointState, messages.JOINT_STATES, self._on_state, messages.SENSOR_QOS)
        self.create_subscription(Image, messages.CAMERA, self._on_image, messages.SENSOR_QOS)
        self.create_service(SetBool, messages.ENABLE_SERVICE, self._on_enable)
        self.create_timer(1 / schema.SETPOINT_HZ, self._tick)

    def destroy_node(self) -> None:
        self._thinker.shutdown(cancel_futures=True)
        super().destroy_node()

    def _on_state(self, message: JointState) -> None:
        measured = messages.measured_from(message, self.names)
        if len(measured.position) == len(self.names) and np.isfinite(measured.position).all():
            self._states.append(measured)

    def _on_image(self, message: Image) -> None:
        self._image = message

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._enabled = False
        self._ahead.clear()
        self._thought = None
        response.success, response.message = True, "stopped"
        if request.data:
            observation = self._observation()
            if isinstance(observation, str):
                response.success, response.message = False, observation
                return response
            self.runner.reset(np.ones(1, bool), np.array([self.seed + self._episodes]))
            self.action_guard.reset()
            self._setpoint = np.array(self._states[-1].position)
            self._episodes += 1
            self._enabled = True
            response.message = f"episode {self._episodes}"
        return response

    def _now(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def _seen(self) -> float:
        """When what there is to see was taken [s]."""
        if self.image_shape is None:
            return self._states[-1].stamp if self._states else 0.0
        return messages.seconds(self._image.header.stamp) if self._image else 0.0

    def _observation(self) -> tuple[Setpoints, npt.NDArray[np.uint8] | None] | str:
        """Joints (7,) measured when the newest picture was taken, and the picture; or why there is none."""
        now = self._now()
        if not self._states:
            return "no joint state yet"
        if (age := now - self._states[-1].stamp) > self.max_image_age_s:
            return f"the newest joint state is {age:.2f} s old"
        if self.image_shape is None:
            return np.array(self._states[-1].position), None
        if self._image is None:
            return "no picture yet"
        taken = self._seen()
        if (age := now - taken) > self.max_image_age_s:
            return f"the newest picture is {age:.2f} s old"
        nearest = min(self._states, key=lambda state: abs(state.stamp - taken))
        if (skew := abs(nearest.stamp - taken)) > self.max_skew_s:
            return f"the nearest joint state is {skew:.2f} s from the picture"
        picture = messages.picture_from(self._image)
        if picture is None or picture.shape[:2] != tuple(self.image_shape):
            found = f"{self._image.height} x {self._image.width} {self._image.encoding}"
            return f"the picture is {found}; expected {self.image_shape[0]} x {self.image_shape[1]} rgb8"
        return np.array(nearest.position), picture

    def _think(self, joints: Setpoints, picture: npt.NDArray[np.uint8] | None, now: Setpoints) -> Setpoints:
        """Setpoints (10, 7) of one action: what the simulator does, on what was observed."""
        observation: dict[str, npt.NDArray[Any]] = {schema.STATE: self.controller.state(joints)[None]}
        if picture is not None:
            observation[schema.IMAGE] = np.ascontiguousarray(picture)[None]
        executed, _ = self.action_guard.step(self.runner.act(observation))
        return self.controller.ramp(executed[0], self._setpoint, now)

    def _tick(self) -> None:
        if not self._enabled:
            return
        if not self._ahead:
            if self._thought is None:
                observation = self._observation()
                if isinstance(observation, str):
                    self.get_logger().warning(f"silent: {observation}", throttle_duration_sec=1.0)
                    return
                if self._seen() >= self._moved + self.settle_s:
                    now = np.array(self._states[-1].position)
                    self._thought = self._thinker.submit(self._think, *observation, now)
            if self._thought is not None:
                wait([self._thought], timeout=PATIENCE_S)
                if self._thought.done():
                    self._ahead.extend(self._thought.result())
                    self._thought = None
        if self._ahead:
            self._setpoint = self._ahead.popleft()
            self._moved = self._now()
        stamp = self.get_clock().now().to_msg()
        self._requests.publish(messages.request_message(self.names, self._setpoint, stamp, self._sequence))
        self._sequence += 1


def main() -> None:
    run(PolicyNode)


if __name__ == "__main__":
    main()
