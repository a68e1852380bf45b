"""What every node that acts has in common, be it a policy, a recording or a person.

It sees, decides on an action (7,) at up to 5 Hz, and asks the guard for the action's joint setpoints at
50 Hz. As in training an action follows from what is seen after the one before has been carried out; what
that takes beyond the action's .2 s (the camera's period, transport, inference) lowers the rate.

It publishes only while it is active, enabled and sees: without a fresh picture and joint state it falls
silent, and the guard stops the arm. Once the guard has stopped the arm, or answers no more, it is no longer
enabled: a reset of the guard, or a new one, moves nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool

from robot_rl.data import schema
from robot_rl.errors import ConfigError
from robot_rl.safety import ActionGuard, ActionGuardConfig
from robot_rl_ros import messages
from robot_rl_ros.managed import ManagedNode
from robot_rl_ros.observing import Observation, Observer
from sim.arm import SETPOINTS_PER_STEP, ArmConfig, ArmController, Workspace

Setpoints = npt.NDArray[np.float64]
Action = npt.NDArray[np.float32]
PATIENCE_S = 0.01
"""A tick waits this long for a decision, half of its period; a slower one is used a tick later."""
RATES_HZ = (50, 100, 200)


class Thought(NamedTuple):
    """An action under way."""

    stamp: float
    """Of what it is based on [s]."""
    action: Action
    """(7,) as decided, before any guard."""
    start: Setpoints
    """(J,)"""
    ramp: Setpoints
    """(10, J) at `schema.SETPOINT_HZ`, from `start`."""


class ActingNode(ManagedNode):
    """Parameters: `setpoint_hz` (50, 100 or 200), `lockstep` (answer each joint state once, with its own
    stamp, however long that takes; see `sim_arm`), `max_image_age_s` (of pictures, states and the guard's
    answers), `max_skew_s` (between picture and joint state), `settle_s` (from an action's last setpoint to
    the picture that the next is based on: its way through guard and driver, and one period of motion, as in
    the simulator) [s].

    A subclass calls `prepare` and `autostart`, and says what to do in `begin` and `decide`.
    """

    intervention = False
    """Whether a person acts."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.lockstep = bool(self.declare_parameter("lockstep", False).value)
        self.max_image_age_s = self.number("max_image_age_s", 0.3)
        self.max_skew_s = self.number("max_skew_s", 0.05)
        self.settle_s = self.number("settle_s", 0.03)
        rate = self.number("setpoint_hz", schema.SETPOINT_HZ)
        if rate not in RATES_HZ or (self.lockstep and rate != schema.SETPOINT_HZ):
            raise ConfigError(
                f"setpoint_hz is {rate:g}; expected one of {', '.join(map(str, RATES_HZ))}, in lock-step "
                f"{schema.SETPOINT_HZ}"
            )
        self.period_s = 1 / rate
        self._finer = round(rate / schema.SETPOINT_HZ)
        self._thinker = ThreadPoolExecutor(max_workers=1)
        self._enabled = False
        self._episodes = self._sequence = 0
        self._asked_from = 0
        """Sequence number of the first request since it was enabled."""
        self._heard_at = -np.inf
        """When the guard last answered one of them; at first, when it was enabled."""

    def prepare(
        self,
        names: tuple[str, ...],
        robot: str,
        workspace: Workspace,
        instruction: str,
        image_shape: tuple[int, int] | None = None,
        guard: ActionGuardConfig | None = None,
    ) -> None:
        """Say what is driven and seen: joint names (J,), arm, workspace, shape of pictures (None: none)."""
        self.names, self.instruction = names, instruction
        self.take_up(robot, workspace, guard)
        cameras = () if image_shape is None else (schema.DEFAULT_CAMERA,)
        self.observer = Observer(len(names), cameras, image_shape, self.max_image_age_s, self.max_skew_s)
        self._setpoint: Setpoints = np.zeros(len(names))
        self._rest()
        self._requests = self.create_publisher(JointState, messages.REQUESTED, messages.COMMAND_QOS)
        self._actions = self.create_publisher(JointState, messages.ACTION, messages.EVENT_QOS)
        self._instructions = self.create_publisher(String, messages.INSTRUCTION, messages.LATCHED_QOS)
        self.create_subscription(JointState, messages.JOINT_STATES, self._on_state, messages.SENSOR_QOS)
        self.create_subscription(JointState, messages.EXECUTED, self._on_executed, messages.EVENT_QOS)
        for camera in cameras:
            self.create_subscription(
                Image, messages.camera_topic(camera), self._on_picture, messages.SENSOR_QOS
            )
        self.create_service(SetBool, "~/enable", self._on_enable)
        if not self.lockstep:
            self.create_timer(self.period_s, self._tick)
        self.announce()

    def take_up(self, robot: str, workspace: Workspace, guard: ActionGuardConfig | None = None) -> None:
        """From now on actions are those of this arm in this workspace."""
        self.controller = ArmController(workspace, ArmConfig(robot))
        self.action_guard = ActionGuard(1, len(schema.ACTION_NAMES), guard)

    def announce(self) -> None:
        """Tell the graph what the arm is to do."""
        self._instructions.publish(String(data=self.instruction))

    def begin(self) -> str:
        """An episode begins; why it cannot, or ""."""
        return ""

    @abstractmethod
    def decide(self, observation: Observation) -> Action | None:
        """The action (7,) for what is seen; None: rest. Called in another thread, unless in lock-step."""

    def destroy_node(self) -> None:
        self._thinker.shutdown(cancel_futures=True)
        super().destroy_node()

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._rest()
        return super().on_deactivate(state)

    def _rest(self) -> None:
        """Forget what was under way, and act no more until it is enabled."""
        self._enabled = False
        self._ahead: deque[Setpoints] = deque()
        self._thought: Future[Thought | None] | None = None
        self._acting = False
        self._moved = -np.inf
        self._sent: JointState | None = None
        self._answered = -np.inf
        self._executed: messages.Executed | None = None

    def _on_state(self, message: JointState) -> None:
        if self.observer.add_state(messages.measured_from(message, self.names)) and self.lockstep:
            if messages.seconds(message.header.stamp) == self._answered and self._sent is not None:
                self._requests.publish(self._sent)  # it asks again: something was lost
            self._step_locked()

    def _on_picture(self, message: Image) -> None:
        stamp = messages.seconds(message.header.stamp)
        self.observer.add_picture(schema.DEFAULT_CAMERA, stamp, messages.picture_from(message))
        if self.lockstep:
            self._step_locked()

    def _on_executed(self, message: JointState) -> None:
        self._executed = messages.executed_from(message, self.names)
        # An answer to an earlier request, from before the reset, may still be on its way.
        if self._enabled and self._executed.sequence >= self._asked_from:
            self._heard_at = self._now()
            if self._executed.reason in messages.FAULTS:
                self._stop(f"the guard stopped the arm: {self._executed.reason}")
        if self.lockstep:
            self._step_locked()

    def _stop(self, why: str) -> None:
        self._rest()
        enable = messages.enable_service(self.get_name())
        self.get_logger().warning(f"{why}; needs {messages.RESET_SERVICE}, then {enable}")

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._rest()
        response.success, response.message = True, "stopped"
        if not request.data:
            return response
        observation = self.observer.newest(self._now())
        if not self.active:
            refusal = "the node is not active"
        else:
            refusal = observation if isinstance(observation, str) else self.begin()
        if refusal:
            response.success, response.message = False, refusal
            return response
        assert self.observer.state is not None
        self.action_guard.reset()
        self._setpoint = np.array(self.observer.state.position)
        self._episodes += 1
        self._asked_from = self._sequence
        self._heard_at = self._now()
        self._enabled = True
        self.announce()
        response.message = f"episode {self._episodes}"
        if self.lockstep:
            self._step_locked()
        return response

    def _now(self) -> float:
        if self.lockstep and self.observer.state is not None:
            return self.observer.state.stamp
        return self.get_clock().now().nanoseconds * 1e-9

    def _think(self, observation: Observation, start: Setpoints, now: Setpoints) -> Thought | None:
        """One action and its setpoints: what the simulator does, on what was observed."""
        action = self.decide(observation)
        if action is None:
            return None
        executed, _ = self.action_guard.step(action[None])
        return Thought(observation.stamp, action, start, self.controller.ramp(executed[0], start, now))

    def _carry_out(self, thought: Thought | None) -> None:
        """Begin an action, and say so: with it goes the sequence number of its first setpoint."""
        if thought is None:
            return
        numbers = dict(zip(schema.ACTION_NAMES, thought.action.tolist(), strict=True))
        numbers["intervention"] = float(self.intervention)
        note = f"{self._sequence} {self.get_name()}"
        self._actions.publish(messages.numbers_message(numbers, messages.stamp_of(thought.stamp), note))
        self._ahead.extend(refined(thought.ramp, thought.start, self._finer))

    def _start(self) -> Setpoints:
        """Where the next action starts: at what became of the last setpoint."""
        if self._executed is not None and self._executed.setpoint and self._acting:
            return np.array(self._executed.setpoint)
        return self._setpoint

    def _tick(self) -> None:
        if not (self.active and self._enabled):
            return
        if self._now() - self._heard_at > self.max_image_age_s:
            self._stop("the guard does not answer")
            return
        if not self._ahead:
            if self._thought is None:
                observation = self.observer.newest(self._now())
                if isinstance(observation, str):
                    self.get_logger().warning(f"silent: {observation}", throttle_duration_sec=1.0)
                    return
                assert self.observer.state is not None
                if observation.stamp >= self._moved + self.settle_s:
                    now = np.array(self.observer.state.position)
                    self._thought = self._thinker.submit(self._think, observation, self._start(), now)
            if self._thought is not None:
                wait([self._thought], timeout=PATIENCE_S)
                if self._thought.done():
                    thought, self._thought = self._thought.result(), None
                    self._carry_out(thought)
        if self._ahead:
            self._setpoint = self._ahead.popleft()
            self._acting = True
            self._moved = self._now()
        self._publish(self.get_clock().now().to_msg())

    def _step_locked(self) -> None:
        """Answer the newest joint state, if all that belongs to it is there."""
        state = self.observer.state
        if not (self.active and self._enabled) or state is None or state.stamp <= self._answered:
            return
        if self._sent is not None and (
            self._executed is None or self._executed.sequence != self._sequence - 1
        ):
            return
        if not self._ahead:
            observation = self.observer.exactly_at(state.stamp)
            if observation is None:
                return
            thought = self._think(observation, self._start(), observation.joints)
            if thought is None:
                self._ahead.extend([self._setpoint] * SETPOINTS_PER_STEP)
            self._carry_out(thought)
        self._setpoint = self._ahead.popleft()
        self._acting = True
        self._answered = state.stamp
        self._publish(messages.stamp_of(state.stamp))

    def _publish(self, stamp: Any) -> None:
        self._sent = messages.request_message(self.names, self._setpoint, stamp, self._sequence)
        self._sequence += 1
        self._requests.publish(self._sent)


def refined(ramp: Setpoints, start: Setpoints, times: int) -> Setpoints:
    """Setpoints (T, J) that begin after `start` (J,), on a `times` finer grid: (times T, J)."""
    if times == 1:
        return ramp
    points = np.vstack([start, ramp])
    where = np.arange(1, times * len(ramp) + 1) / times
    return np.stack([np.interp(where, np.arange(len(points)), column) for column in points.T], axis=1)
