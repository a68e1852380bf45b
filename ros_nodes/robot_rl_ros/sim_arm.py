"""A MuJoCo WidowX behind the interface of the real driver, with a camera and the simulator's truth.

Like the driver it checks neither limits nor time-outs: that is the guard's work. It only refuses what
would break the simulation itself, numbers that are none.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float32
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

import sim
from robot_rl.data import schema
from robot_rl.errors import ConfigError
from robot_rl.safety import GuardConfig
from robot_rl_ros import messages
from robot_rl_ros.spin import run
from sim.widowx import WidowXEnv

STATE_HZ = 100
MOST_AT_ONCE_S = 0.05
"""A late tick catches up with this much simulated time at most; beyond it the simulation runs slow."""
COMMANDED = GuardConfig.widowx_250s().names
REPORTED = (*COMMANDED[:6], "gripper", "left_finger", "right_finger")
# The driver reports current, not torque: N m per A of XM540-W270 (three large joints) and XM430-W350.
TORQUE_PER_CURRENT = np.array([2.4, 2.4, 2.4, 1.8, 1.8, 1.8])


class SimArmNode(Node):
    """Parameters: `task` (`widowx/...`), `seed` (of the next `sim/reset`), `image_size` [pixels],
    `camera_hz` [Hz], `speed` (simulated seconds per second)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("sim_arm", **kwargs)
        task = str(self.declare_parameter("task", "widowx/push").value)
        self.declare_parameter("seed", schema.SEED_HELD_OUT)
        size = int(self.declare_parameter("image_size", 64).value or 64)
        camera_hz = float(self.declare_parameter("camera_hz", 50.0).value or 50.0)
        self.speed = float(self.declare_parameter("speed", 1.0).value or 1.0)
        env = sim.make(task, image_size=size).unwrapped
        if not isinstance(env, WidowXEnv):
            raise ConfigError(f"task {task!r} is not a WidowX task; expected one of {', '.join(sim.tasks())}")
        self.env, self.image_size = env, size
        self._states = self.create_publisher(JointState, messages.JOINT_STATES, messages.SENSOR_QOS)
        self._pictures = self.create_publisher(Image, messages.CAMERA, messages.SENSOR_QOS)
        self._success = self.create_publisher(Bool, messages.SUCCESS, messages.SENSOR_QOS)
        self._factor = self.create_publisher(Float32, messages.REAL_TIME_FACTOR, messages.SENSOR_QOS)
        self.create_subscription(
            JointTrajectory, messages.DRIVER_TRAJECTORY, self._on_command, messages.COMMAND_QOS
        )
        self.create_service(Trigger, messages.RESET_SIM_SERVICE, self._on_reset)
        self._reset()
        self.create_timer(1 / STATE_HZ, self._advance)
        self.create_timer(1 / camera_hz, self._show)
        self.create_timer(1 / schema.CONTROL_HZ, self._judge)
        self.create_timer(1.0, self._report)

    def destroy_node(self) -> None:
        self.env.close()
        super().destroy_node()

    def _reset(self) -> None:
        self.env.reset(seed=int(self.get_parameter("seed").value or 0))
        self.setpoint = self.env.scene.arm.setpoint
        self._reported = self._stepped = time.monotonic()
        self._simulated = 0.0

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._reset()
        response.success, response.message = True, f"seed {self.get_parameter('seed').value}"
        return response

    def _on_command(self, message: JointTrajectory) -> None:
        positions = message.points[0].positions if message.points else []
        setpoint = np.array(messages.by_name(message.joint_names, positions, COMMANDED))
        if setpoint.shape == (len(COMMANDED),) and np.isfinite(setpoint).all():
            self.setpoint = setpoint
        else:
            self.get_logger().error("ignored a command without a finite position for each joint")

    def _advance(self) -> None:
        now = time.monotonic()
        due = min((now - self._stepped) * self.speed, MOST_AT_ONCE_S)
        steps = round(due / schema.PHYSICS_STEP_S)
        if steps:
            # What was rounded away is due at the next tick, what was cut off is lost.
            self._stepped = now - (due - steps * schema.PHYSICS_STEP_S) / self.speed
            self._simulated += steps * schema.PHYSICS_STEP_S
            self.env.scene.arm.drive(self.setpoint, steps)
        self._states.publish(self._joint_state())

    def _joint_state(self) -> JointState:
        data = self.env.scene.data
        measured = self.env.scene.arm.measured
        velocity = [float(data.joint(name).qvel[0]) for name in COMMANDED]
        torque = np.array([data.joint(name).qfrc_actuator[0] for name in COMMANDED[:6]])
        current = (torque / TORQUE_PER_CURRENT * 1e3).tolist()
        message = JointState(name=list(REPORTED))
        message.header.stamp = self.get_clock().now().to_msg()
        # The gripper's motor angle is not simulated; its two fingers are.
        message.position = [*measured[:6].tolist(), 0.0, float(measured[6]), -float(measured[6])]
        message.velocity = [*velocity[:6], 0.0, velocity[6], -velocity[6]]
        message.effort = [*current, 0.0, 0.0, 0.0]
        return message

    def _show(self) -> None:
        self.env.scene.forward()
        picture = self.env.scene.render(schema.DEFAULT_CAMERA, self.image_size)
        self._pictures.publish(messages.image_message(picture, self.get_clock().now().to_msg()))

    def _judge(self) -> None:
        self.env.scene.forward()
        self._success.publish(Bool(data=bool(self.env.task.success(self.env.scene))))

    def _report(self) -> None:
        now = time.monotonic()
        self._factor.publish(Float32(data=self._simulated / max(now - self._reported, 1e-9)))
        self._reported, self._simulated = now, 0.0


def main() -> None:
    run(SimArmNode)


if __name__ == "__main__":
    main()
