"""The guard node: `CommandGuard` between the policy and the driver, and the only writer to the driver.

It sends nothing until `guard/reset` is called, then one setpoint every period: the requested one where
it is safe, else the nearest that is, else the pose measured when something went wrong, until the next
reset. `guard/estop` stops at the next tick. Topics: see `messages`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from robot_rl.data.artifact import load_artifact
from robot_rl.errors import ConfigError, DataError
from robot_rl.safety import Command, CommandGuard, GuardConfig
from robot_rl.safety import JointState as Measured
from robot_rl_ros import messages
from robot_rl_ros.backends import make_backend
from robot_rl_ros.spin import run


class GuardNode(Node):
    """Parameters: `bundle` (directory whose limits are used; empty: the WidowX 250 S defaults), `backend`
    (`joint_trajectory` or `interbotix`), `max_command_age_s`, `max_state_age_s` (0: the bundle's)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("guard", **kwargs)
        self.config = self._config(str(self.declare_parameter("bundle", "").value))
        self.guard = CommandGuard(self.config)
        self._requested: Command | None = None
        self._measured: Measured | None = None
        self._reason: str | None = None
        backend = str(self.declare_parameter("backend", "joint_trajectory").value)
        self._send = make_backend(backend, self, self.config.names, self.config.period_s)
        self._reasons = self.create_publisher(String, messages.REASON, messages.LATCHED_QOS)
        self.create_subscription(JointState, messages.JOINT_STATES, self._on_state, messages.SENSOR_QOS)
        self.create_subscription(JointState, messages.REQUESTED, self._on_request, messages.COMMAND_QOS)
        self.create_service(Trigger, messages.ESTOP_SERVICE, self._on_estop)
        self.create_service(Trigger, messages.RESET_GUARD_SERVICE, self._on_reset)
        # A clock that is set must not stop the ticks.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(self.config.period_s, self._tick, clock=steady)

    def _config(self, bundle: str) -> GuardConfig:
        config = GuardConfig.widowx_250s()
        if bundle:
            limits = load_artifact(bundle, "policy_bundle").json("safety.json")["guard"]
            if limits is None:
                raise ConfigError(f"bundle {bundle} has no joint limits: export it for a robot that has them")
            config = GuardConfig(**limits)
        ages: dict[str, Any] = {
            name: float(self.declare_parameter(name, 0.0).value or 0.0)
            for name in ("max_command_age_s", "max_state_age_s")
        }
        return dataclasses.replace(config, **{name: age for name, age in ages.items() if age})

    def _now(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def _on_state(self, message: JointState) -> None:
        self._measured = messages.measured_from(message, self.config.names)

    def _on_request(self, message: JointState) -> None:
        self._requested = messages.command_from(message, self.config.names)

    def _on_estop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.guard.estop()
        response.success, response.message = True, "stopped until guard/reset"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        now = self._now()
        measured = self._measured
        if measured is None or not now - measured.stamp <= self.config.max_state_age_s:
            response.message = "no fresh joint state: is the driver running?"
            return response
        try:
            self.guard.reset(measured.position, now)
        except DataError as error:
            response.message = str(error)
            return response
        self._requested = None
        response.success, response.message = True, "active"
        return response

    def _tick(self) -> None:
        decision = self.guard.step(self._requested, self._measured, self._now())
        if decision.executed is not None:
            self._send(decision.executed)
        if decision.reason != self._reason:
            self._reason = decision.reason
            self._reasons.publish(String(data=decision.reason))
            if decision.latched and decision.executed is not None:
                words = decision.reason.replace("_", " ")
                self.get_logger().warning(f"stopped: {words}; holding until {messages.RESET_GUARD_SERVICE}")


def main() -> None:
    run(GuardNode)


if __name__ == "__main__":
    main()
