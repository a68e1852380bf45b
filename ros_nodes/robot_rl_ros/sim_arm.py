"""A MuJoCo WidowX behind the interfaces of real drivers, with cameras and the simulator's truth.

Like a driver it checks neither limits nor time-outs: that is the guard's work. It only refuses what
would break the simulation itself, numbers that are none.

Usually simulated time follows the clock on the wall. In lock-step it does not: each .02 s pass once the
setpoint stamped with the present moment has come, so that what happens does not depend on how busy the
machine is, and equals the simulator's own loop. The whole graph has to be in lock-step then. Time stands
still while nobody acts, and at the end of an episode.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from rclpy.clock import Clock as RosClock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32, Float64MultiArray, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

import sim
from robot_rl.data import schema
from robot_rl.errors import ConfigError
from robot_rl.safety import GuardConfig
from robot_rl_ros import interbotix, messages
from robot_rl_ros.bundle import robot_of
from robot_rl_ros.managed import run
from sim.arm import PHYSICS_STEPS_PER_SETPOINT, SETPOINTS_PER_STEP
from sim.tasks import TASKS
from sim.widowx import WidowXEnv

STATE_HZ = 100
MOST_AT_ONCE_S = 0.05
"""A late tick catches up with this much simulated time at most; beyond it the simulation runs slow."""
REPEAT_S = 1.0
"""In lock-step what was published is published again if no answer comes for this long."""
FIRST_NS = 10**9
"""A simulated clock must not begin at 0, which ROS takes for no clock."""
# The driver reports current, not torque: N m per A of XM540-W270 (three large joints) and XM430-W350.
TORQUE_PER_CURRENT = np.array([2.4, 2.4, 2.4, 1.8, 1.8, 1.8])


class SimArmNode(Node):
    """Parameters: `task` (`widowx/...`), `bundle` (directory of a bundle for the arm that is simulated;
    empty: the WidowX 250 S), `seed` (of the next `sim/reset`), `cameras`, `image_size` [pixels], `camera_hz`
    [Hz] (0: none), `speed` (simulated seconds per second), `lockstep`, `episode_s` (in lock-step time stops
    this long after a reset, and on success; 0: never) [s].

    It takes setpoints as ros2_control's joint_trajectory_controller and forward_command_controller do, both
    of the name `arm_controller`, and as the Interbotix driver does (`commands/joint_trajectory`; with its
    messages installed, `commands/joint_group`, `commands/joint_single` and its services).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("sim_arm", **kwargs)
        task = str(self.declare_parameter("task", "widowx/push").value)
        robot = robot_of(str(self.declare_parameter("bundle", "").value))
        self.commanded = GuardConfig.of_robot(robot).names
        self.reported = (*self.commanded[:6], "gripper", "left_finger", "right_finger")
        self.declare_parameter("seed", schema.SEED_HELD_OUT)
        self.image_size = int(self.declare_parameter("image_size", 64).value or 64)
        self.cameras = tuple(self.declare_parameter("cameras", [schema.DEFAULT_CAMERA]).value or ())
        camera_hz = float(self.declare_parameter("camera_hz", 50.0).value or 0.0) or 1.0
        self.speed = float(self.declare_parameter("speed", 1.0).value or 1.0)
        self.lockstep = bool(self.declare_parameter("lockstep", False).value)
        self.episode_s = float(self.declare_parameter("episode_s", 0.0).value or 0.0)
        env = sim.make(task, robot=robot, image_size=self.image_size, cameras=self.cameras).unwrapped
        if not isinstance(env, WidowXEnv):
            raise ConfigError(f"task {task!r} is not a WidowX task; expected one of {', '.join(sim.tasks())}")
        self.env = env
        self._now_ns = FIRST_NS
        self._shown: dict[str, Image] = {}
        self._states = self.create_publisher(JointState, messages.JOINT_STATES, messages.EVENT_QOS)
        self._pictures = {
            camera: self.create_publisher(Image, messages.camera_topic(camera), messages.EVENT_QOS)
            for camera in self.cameras
        }
        self._truth = self.create_publisher(JointState, messages.TRUTH, messages.EVENT_QOS)
        self._factor = self.create_publisher(Float32, messages.REAL_TIME_FACTOR, messages.SENSOR_QOS)
        self._time = self.create_publisher(Clock, messages.CLOCK, messages.SENSOR_QOS)
        for topic in ("arm_controller/joint_trajectory", "commands/joint_trajectory"):
            self.create_subscription(JointTrajectory, topic, self._on_trajectory, messages.COMMAND_QOS)
        self.create_subscription(
            Float64MultiArray, "arm_controller/commands", self._on_positions, messages.COMMAND_QOS
        )
        interbotix.serve(self, self._take)
        self.create_subscription(String, messages.INSTRUCTION, self._on_instruction, messages.LATCHED_QOS)
        self.create_service(Trigger, messages.RESET_SIM_SERVICE, self._on_reset)
        self._reset()
        steady = RosClock(clock_type=ClockType.STEADY_TIME)
        if self.lockstep:
            self._repeat = self.create_timer(REPEAT_S, self._publish_all, clock=steady)
        else:
            self.create_timer(1 / STATE_HZ, self._advance, clock=steady)
            self.create_timer(1 / camera_hz, self._show, clock=steady)
            self.create_timer(1 / schema.CONTROL_HZ, self._judge, clock=steady)
        self.create_timer(1.0, self._report, clock=steady)

    def destroy_node(self) -> None:
        self.env.close()
        super().destroy_node()

    def _stamp(self) -> Any:
        if self.lockstep:
            return messages.stamp_of(self._now_ns * 1e-9)
        return self.get_clock().now().to_msg()

    def _reset(self) -> None:
        self.seed = int(self.get_parameter("seed").value or 0)
        self.env.reset(seed=self.seed)
        self.setpoint = self.env.scene.arm.setpoint
        self._reported = self._stepped = time.monotonic()
        self._simulated = self._since_reset = 0.0
        self._ticks = 0
        self._over = False
        self._now_ns += 10**9  # what is on its way from before is of another moment

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._reset()
        if self.lockstep:
            self._publish_all()
        response.success, response.message = True, f"seed {self.seed}"
        return response

    def _on_instruction(self, message: String) -> None:
        """Judge by another task of this scene from now on, if that is its instruction."""
        if message.data == self.env.task_spec.instruction:
            return
        names = [name for name, task in TASKS.items() if message.data in task.instructions]
        if names:
            self.env.reset(options={"task": f"widowx/{names[0]}", "keep_scene": True})

    def _on_trajectory(self, message: JointTrajectory) -> None:
        positions = message.points[0].positions if message.points else []
        if not self.lockstep:
            self._take(message.joint_names, positions)
        elif messages.nanoseconds(message.header.stamp) == self._now_ns and not self._over:
            self._take(message.joint_names, positions)
            self._step_locked()

    def _on_positions(self, message: Float64MultiArray) -> None:
        self._take(self.commanded[: len(message.data)], message.data)

    def _take(self, names: Any, positions: Any) -> None:
        """Joints that are named get a setpoint [rad or m], the others keep theirs."""
        setpoint = dict(zip(self.commanded, self.setpoint.tolist(), strict=True))
        given = messages.by_name(names, positions, names)
        if not given or not set(names) <= set(self.commanded) or not np.isfinite(given).all():
            self.get_logger().error("ignored a command without finite positions of known joints")
            return
        setpoint |= dict(zip(names, given, strict=True))
        self.setpoint = np.array(list(setpoint.values()))

    def _advance(self) -> None:
        now = time.monotonic()
        due = min((now - self._stepped) * self.speed, MOST_AT_ONCE_S)
        steps = round(due / schema.PHYSICS_STEP_S)
        if steps:
            # What was rounded away is due at the next tick, what was cut off is lost.
            self._stepped = now - (due - steps * schema.PHYSICS_STEP_S) / self.speed
            self._drive(steps)
        self._states.publish(self._joint_state())

    def _drive(self, steps: int) -> None:
        self.env.scene.arm.drive(self.setpoint, steps)
        self._simulated += steps * schema.PHYSICS_STEP_S
        self._since_reset += steps * schema.PHYSICS_STEP_S

    def _step_locked(self) -> None:
        self._repeat.reset()
        self._drive(PHYSICS_STEPS_PER_SETPOINT)
        self._ticks += 1
        self._now_ns += 10**9 // schema.SETPOINT_HZ
        if self._ticks % SETPOINTS_PER_STEP == 0:
            self._publish_all()
        else:
            self._publish_state()

    def _publish_state(self) -> None:
        self._time.publish(Clock(clock=self._stamp()))
        self._states.publish(self._joint_state())

    def _publish_all(self) -> None:
        """Of one moment: the truth, then pictures, and last the state, which is what others wait for."""
        # Between actions success does not count, as in the simulator's own loop.
        succeeded = self._ticks % SETPOINTS_PER_STEP == 0 and self._judge()
        ended = 0 < self.episode_s <= self._since_reset + 1e-6
        self._over = self._over or (self.episode_s > 0 and (succeeded or ended))
        self._show()
        self._publish_state()

    def _joint_state(self) -> JointState:
        data = self.env.scene.data
        measured = self.env.scene.arm.measured
        velocity = [float(data.joint(name).qvel[0]) for name in self.commanded]
        torque = np.array([data.joint(name).qfrc_actuator[0] for name in self.commanded[:6]])
        current = (torque / TORQUE_PER_CURRENT * 1e3).tolist()
        message = JointState(name=list(self.reported))
        message.header.stamp = self._stamp()
        # The gripper's motor angle is not simulated; its two fingers are.
        message.position = [*measured[:6].tolist(), 0.0, float(measured[6]), -float(measured[6])]
        message.velocity = [*velocity[:6], 0.0, velocity[6], -velocity[6]]
        message.effort = [*current, 0.0, 0.0, 0.0]
        return message

    def _show(self) -> None:
        if not self.get_parameter("camera_hz").value:
            return
        self.env.scene.forward()
        stamp = self._stamp()
        for camera, publisher in self._pictures.items():
            shown = self._shown.get(camera)
            if shown is None or shown.header.stamp != stamp:  # else it is asked for once more
                picture = self.env.scene.render(camera, self.image_size)
                shown = self._shown[camera] = messages.image_message(picture, stamp)
            publisher.publish(shown)

    def _judge(self) -> bool:
        """Publish whether the task is done, at which time of the episode."""
        self.env.scene.forward()
        success = bool(self.env.task.success(self.env.scene))
        numbers = {"success": success, "time_s": self._since_reset, "seed": self.seed}
        self._truth.publish(messages.numbers_message(numbers, self._stamp()))
        return success

    def _report(self) -> None:
        now = time.monotonic()
        self._factor.publish(Float32(data=self._simulated / max(now - self._reported, 1e-9)))
        self._reported, self._simulated = now, 0.0


def main() -> None:
    run(SimArmNode)


if __name__ == "__main__":
    main()
