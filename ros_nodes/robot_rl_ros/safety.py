"""The safety node: `CommandGuard` between who acts and the driver, and the only writer to the driver.

It sends nothing until `safety/reset` is called, then one setpoint every period: the requested one where
it is safe, else the nearest that is, else the pose measured when something went wrong, until the next
reset. `safety/estop` stops at once. It steps when a request arrives, and by its own steady clock when none
does (`pacing`). Topics: see docs/robot_bringup.md.
"""

from __future__ import annotations

import math
import time
from typing import Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Header, String
from std_srvs.srv import Trigger

from robot_rl.errors import DataError
from robot_rl.safety import Command, CommandGuard, Decision
from robot_rl.safety import JointState as Measured
from robot_rl_ros import messages
from robot_rl_ros.backends import make_backend
from robot_rl_ros.bundle import guard_config
from robot_rl_ros.diagnostics import Diagnostics
from robot_rl_ros.managed import ManagedNode, run
from robot_rl_ros.pacing import Pacer

HEARTBEAT_HZ = 10
GRACE = 0.1
"""Of a period: how late the clock may call before it counts as stalled, and how long messages go first."""


class SafetyNode(ManagedNode):
    """Parameters: `bundle` (directory whose limits are used; empty: the WidowX 250 S figures), `rate_hz`
    (50 .. 200; 0: the bundle's), `backend`, `arm_controller`, `gripper_controller` (see `backends`),
    `max_command_age_s`, `max_state_age_s` (0: the bundle's), `deadman_timeout_s` (above 0: the arm moves only
    while `safety/deadman` says true at least this often), `lockstep` (see `sim_arm`).

    While deactivated, and after its shutdown, it holds the arm.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("safety", **kwargs)
        ages = {name: self.number(name, 0.0) for name in ("max_command_age_s", "max_state_age_s")}
        self.config = guard_config(self.text("bundle"), self.number("rate_hz", 0.0), **ages)
        self.guard = CommandGuard(self.config)
        self.deadman_timeout_s = self.number("deadman_timeout_s", 0.0)
        self.lockstep = bool(self.declare_parameter("lockstep", False).value)
        self._requested: Command | None = None
        self._measured: Measured | None = None
        self._earlier: Measured | None = None
        self._reason: str | None = None
        self._deadman_at = -float("inf")
        self._answer: tuple[Decision, float] | None = None
        self._stepped_at = -float("inf")
        self.pacer = Pacer(self.config.period_s)
        self._backend = make_backend(
            self.text("backend", "joint_trajectory_controller"),
            self,
            self.config.names,
            self.config.period_s,
            self.text("arm_controller", "arm_controller"),
            self.text("gripper_controller"),
        )
        self._reasons = self.create_publisher(String, messages.REASON, messages.LATCHED_QOS)
        self._executed = self.create_publisher(JointState, messages.EXECUTED, messages.EVENT_QOS)
        self._heartbeat = self.create_publisher(Header, messages.HEARTBEAT, messages.SENSOR_QOS)
        self._diagnostics = Diagnostics(self)
        self.create_subscription(JointState, messages.JOINT_STATES, self._on_state, messages.SENSOR_QOS)
        self.create_subscription(JointState, messages.REQUESTED, self._on_request, messages.COMMAND_QOS)
        self.create_subscription(Bool, messages.DEADMAN, self._on_deadman, messages.SENSOR_QOS)
        self.create_service(Trigger, "~/estop", self._on_estop)
        self.create_service(Trigger, "~/reset", self._on_reset)
        # A clock that is set must not stop the steps.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._call_at = math.inf  # when the timer should call
        self._let_pass = False  # whether messages that came during a stall were let past it
        self._timer = self.create_timer(self.config.period_s, self._on_timer, clock=steady)
        self.create_timer(1 / HEARTBEAT_HZ, self._beat, clock=steady)
        self.create_timer(1.0, self._report, clock=steady)
        if self.lockstep:
            self._timer.cancel()
        self.autostart()

    def _now(self) -> float:
        if self.lockstep:
            return self._measured.stamp if self._measured is not None else 0.0
        return self.get_clock().now().nanoseconds * 1e-9

    def _on_state(self, message: JointState) -> None:
        self._earlier, self._measured = self._measured, messages.measured_from(message, self.config.names)
        if self.lockstep:
            self._step_locked()

    def _on_request(self, message: JointState) -> None:
        self._requested = messages.command_from(message, self.config.names)
        if self.lockstep:
            self._step_locked()
            return
        wait_s = self.pacer.wait(time.monotonic())
        if wait_s <= 0:
            self._step()
        else:
            self._call_in(wait_s)

    def _on_deadman(self, message: Bool) -> None:
        self._deadman_at = time.monotonic() if message.data else -float("inf")

    def _on_estop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.guard.estop()
        if not self.lockstep:
            self._step(silent=True)
        response.success, response.message = True, f"stopped until {messages.RESET_SERVICE}"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        now, measured = self._now(), self._measured
        if measured is None or not now - measured.stamp <= self.config.max_state_age_s:
            response.message = "no fresh joint state: is the driver running?"
            return response
        if refusal := self._crowd():
            response.message = refusal
            return response
        try:
            # In lock-step the simulator may just have put the arm elsewhere.
            self.guard.reset(measured.position, now, None if self.lockstep else self._earlier)
        except DataError as error:
            response.message = str(error)
            return response
        self._requested = self._answer = None
        response.success, response.message = True, "active"
        return response

    def _crowd(self) -> str:
        """Who is there that should not be: a second one that acts, or that writes to the driver; or ""."""
        expected = {messages.REQUESTED: 1}
        expected |= dict.fromkeys(self._backend.topics, 1) | dict.fromkeys(self._backend.others, 0)
        for topic, most in expected.items():
            found = self.get_publishers_info_by_topic(self.resolve_topic_name(topic))
            if len(found) > most:
                names = ", ".join(sorted(each.node_name for each in found))
                return (
                    f"{len(found)} publishers on {topic} ({names}); expected at most {most}: end the others"
                )
        return ""

    def _may_move(self) -> bool:
        pressed = time.monotonic() - self._deadman_at <= self.deadman_timeout_s
        return self.active and (pressed or not self.deadman_timeout_s)

    def _on_timer(self) -> None:
        now = time.monotonic()
        wait_s = self.pacer.wait(now)
        if wait_s > 0:
            self._call_in(wait_s)
        elif now - self._call_at > GRACE * self.config.period_s and not self._let_pass:
            # We were stalled, and timers are called before the messages that came meanwhile. To step without
            # a request that is there would put its sender's pace behind ours, for a hundred periods.
            self._let_pass = True
            self._call_in(GRACE * self.config.period_s)
        else:
            self._step(silent=True)

    def _call_in(self, delay_s: float) -> None:
        self._call_at = time.monotonic() + delay_s
        self._timer.timer_period_ns = max(1, round(delay_s * 1e9))
        self._timer.reset()

    def _step(self, silent: bool = False) -> None:
        moment = time.monotonic()
        self._let_pass = False
        self._diagnostics.stepped(moment)
        self.pacer.step(moment)
        # One and a half periods, for the next request to come first; once it did not, every period.
        self._call_in(self.config.period_s * (1.0 if silent else 1.5))
        now = self._now()
        self.guard.set_active(self._may_move())
        # Whoever was stalled for this long must not go on as if nothing had happened.
        stalled = moment - self._stepped_at > self.config.max_command_age_s
        self._stepped_at = moment
        requested = None if stalled else self._requested
        self._send(self.guard.step(requested, self._measured, now), now)

    def _step_locked(self) -> None:
        """Once for each joint state, when its request is there; the same answer again if asked again."""
        requested, measured = self._requested, self._measured
        if requested is None or measured is None:
            return
        if self._answer is None or self._answer[1] < measured.stamp:
            if requested.stamp != measured.stamp:
                return
            self.guard.set_active(self._may_move())
            self._answer = self.guard.step(requested, measured, measured.stamp), measured.stamp
        self._send(*self._answer)

    def _send(self, decision: Decision, now: float) -> None:
        stamp = messages.stamp_of(now)
        if decision.executed is not None:
            self._backend.send(decision.executed, stamp)
            sequence = getattr(self._requested, "sequence", None)
            self._executed.publish(
                messages.executed_message(
                    self.config.names,
                    decision.executed,
                    stamp,
                    -1 if sequence is None else sequence,
                    decision.reason,
                )
            )
        if decision.reason != self._reason:
            self._reason = decision.reason
            self._reasons.publish(String(data=decision.reason))
            self._beat()
            if decision.latched and decision.executed is not None:
                words = decision.reason.replace("_", " ")
                self.get_logger().warning(f"stopped: {words}; holding until {messages.RESET_SERVICE}")

    def _beat(self) -> None:
        self._heartbeat.publish(Header(stamp=messages.stamp_of(self._now()), frame_id=self._reason or ""))

    def _report(self) -> None:
        crowd = self._crowd()
        if crowd and self.guard.fault == "" and self._reason is not None:
            self.get_logger().error(f"stopping: {crowd}")
            self.guard.estop()
        self._diagnostics.publish(self._reason or "", self.guard.fault, crowd)


def main() -> None:
    run(SafetyNode)


if __name__ == "__main__":
    main()
