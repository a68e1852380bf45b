"""The recorder node: episodes of the running graph, as `EpisodeRecorder` writes them."""

from __future__ import annotations

import time
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.task import Future
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool

from robot_rl.data import schema
from robot_rl.data.episode import EpisodeMetadata
from robot_rl.data.recorder import EpisodeRecorder
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError, DataError
from robot_rl_ros import messages
from robot_rl_ros.assembly import Assembler, Requested, Step, Verdict
from robot_rl_ros.bundle import bundle_facts
from robot_rl_ros.managed import ManagedNode, run
from robot_rl_ros.observing import Observer
from sim.arm import ArmConfig, ArmController

COLLECT_S, LATE_S, QUIET = 0.05, 10.0, 10
"""After the end of an episode the last messages may be on their way for `LATE_S`; if they are the setpoints
of an action that was cut off, as it seems, until none came for `QUIET` rounds of collecting."""


class RecorderNode(ManagedNode):
    """Parameters: `store` (directory, made if it is missing; required), `bundle` (directory whose task,
    robot and limits are recorded, required), `cameras`, `seed` (of the simulator in the episodes to come;
    -1: none), `setpoint_hz` (as of the node that acts), `max_skew_s`, `truth` and `judged` (whether
    `sim_arm` and the reward node are there to wait for).

    `recorder/record` with true begins an episode, with false it ends and commits it, and says how many
    steps it has. A change of the instruction ends one episode and begins the next.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("recorder", **kwargs)
        store = self.text("store")
        if not store:
            raise ConfigError("recorder store is empty; expected a directory for the episodes")
        self.recorder = EpisodeRecorder(EpisodeStore(store, create=True))
        self.bundle = bundle_facts(self.text("bundle"))
        self.controller = ArmController(self.bundle.workspace, ArmConfig(self.bundle.robot))
        self.names = self.bundle.names
        cameras = self.declare_parameter("cameras", [schema.DEFAULT_CAMERA]).value or []
        self.cameras = tuple(str(camera) for camera in cameras if camera)
        self.declare_parameter("seed", -1)
        self.setpoints = round(self.number("setpoint_hz", schema.SETPOINT_HZ) / schema.CONTROL_HZ)
        skew = self.number("max_skew_s", 0.05)
        self.observer = Observer(len(self.names), self.cameras, max_skew_s=skew)
        self.truth = bool(self.declare_parameter("truth", False).value)
        self.judged = bool(self.declare_parameter("judged", False).value)
        self.instruction, self.source = self.bundle.instruction, ""
        self._assembler: Assembler | None = None
        self._done: Future | None = None
        self._ending = 0.0
        self._success = False
        self._outcome = ""
        self._quiet = 0

        listen = self.create_subscription
        listen(JointState, messages.JOINT_STATES, self._on_state, messages.HISTORY_QOS)
        for camera in self.cameras:
            listen(Image, messages.camera_topic(camera), self._on_picture(camera), messages.HISTORY_QOS)
        listen(JointState, messages.ACTION, self._on_action, messages.EVENT_QOS)
        listen(JointState, messages.EXECUTED, self._on_executed, messages.EVENT_QOS)
        listen(JointState, messages.JUDGEMENT, self._on_judgement, messages.EVENT_QOS)
        listen(JointState, messages.TRUTH, self._on_truth, messages.EVENT_QOS)
        listen(String, messages.INSTRUCTION, self._on_instruction, messages.LATCHED_QOS)
        # Its own group: while it waits for the last messages they must come.
        waiting = ReentrantCallbackGroup()
        self.create_service(SetBool, "~/record", self._on_record, callback_group=waiting)
        self.create_timer(COLLECT_S, self._collect, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.autostart()

    def destroy_node(self) -> None:
        if self._assembler is not None:
            self._assembler.patience_s = 0.0
            self._ending = self._ending or time.monotonic() - LATE_S
            self._collect()
        self.recorder.close()
        super().destroy_node()

    def _on_state(self, message: JointState) -> None:
        self.observer.add_state(messages.measured_from(message, self.names))

    def _on_picture(self, camera: str) -> Any:
        def take(message: Image) -> None:
            stamp, picture = messages.seconds(message.header.stamp), messages.picture_from(message)
            self.observer.add_picture(camera, stamp, picture)

        return take

    def _on_action(self, message: JointState) -> None:
        if self._assembler is None:
            return
        self._quiet = 0
        first, _, self.source = message.header.frame_id.partition(" ")
        numbers = messages.numbers_from(message)
        self._assembler.actions.append(
            Requested(
                messages.seconds(message.header.stamp),
                messages.action_from(numbers),
                int(first),
                bool(numbers["intervention"]),
            )
        )

    def _on_executed(self, message: JointState) -> None:
        if self._assembler is not None:
            executed = messages.executed_from(message, self.names)
            known = self._assembler.executed
            last = known[-1].sequence if known else -1
            if executed.setpoint and executed.sequence >= 0 and executed.sequence != last:
                if executed.sequence < last:  # whoever acts was started anew
                    known.clear()
                known.append(executed)
                self._quiet = 0

    def _on_truth(self, message: JointState) -> None:
        if self._assembler is not None:
            success = messages.numbers_from(message)["success"] > 0
            self._assembler.truths.append(Verdict(messages.seconds(message.header.stamp), success))

    def _on_judgement(self, message: JointState) -> None:
        if self._assembler is not None:
            numbers = messages.numbers_from(message)
            stamp = messages.seconds(message.header.stamp)
            self._assembler.judgements.append(Verdict(stamp, numbers["success"] > 0, numbers["reward"]))

    def _on_instruction(self, message: String) -> None:
        if message.data != self.instruction and len(self.recorder):
            self._commit()
            self._begin()
        self.instruction = message.data

    def _begin(self) -> None:
        self._assembler = Assembler(
            self.controller,
            self.observer,
            self.bundle.action_guard,
            self.setpoints,
            expects_truth=self.truth,
            expects_judgement=self.judged,
        )
        self._ending, self._success, self._outcome = 0.0, False, ""
        self.recorder.discard()

    async def _on_record(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if not self.active:
            response.message = "the node is not active"
        elif request.data:
            self._begin()
            response.success, response.message = True, "recording"
        elif self._assembler is None:
            response.message = self._outcome or "no episode is in progress"
            response.success = bool(self._outcome)
        else:
            if not self._ending:  # else it is asked for once more
                self._ending, self._done = time.monotonic(), Future(executor=self.executor)
            assert self._done is not None
            response.message = str(await self._done)
            response.success = response.message.startswith("committed")
        return response

    def _collect(self) -> None:
        """Write down the steps that are complete; at the end, the last ones and the episode."""
        assembler = self._assembler
        if assembler is None:
            return
        since = time.monotonic() - self._ending if self._ending else 0.0
        self._quiet += 1
        late = since > LATE_S or (since > 0 and self._quiet > QUIET and assembler.cut_off)
        if since > LATE_S:
            assembler.patience_s = -float("inf")
        for step in assembler.steps(assembler.end if self._ending else None):
            if not self.recorder.recording:
                assert assembler.first is not None
                self.recorder.start(assembler.arrays(assembler.first), self._metadata())
            self._add(step)
        if assembler.trouble:
            self.get_logger().error(
                f"episode cut at step {len(self.recorder)}: {assembler.trouble}", throttle_duration_sec=5.0
            )
        if self._ending and (late or not assembler.actions or assembler.trouble):
            outcome = self._commit()
            if self._done is not None and not self._done.done():
                self._done.set_result(outcome)

    def _metadata(self) -> EpisodeMetadata:
        bundle = self.bundle
        seed = int(self.get_parameter("seed").value or 0)
        return EpisodeMetadata(
            bundle.task, self.instruction, bundle.robot, bundle.control_hz, seed, self.source
        )

    def _add(self, step: Step) -> None:
        judged, truth = step.judgement, step.truth
        predicted = judged is not None and judged.success
        self._success = predicted if truth is None else truth
        self.recorder.step(
            step.observation,
            requested=step.requested,
            executed=step.executed,
            reward=judged.reward if judged is not None else 0.0,
            cost=float(step.reason != ""),
            success=self._success,
            is_intervention=step.intervention,
            filter_reason=step.reason,
        )

    def _commit(self) -> str:
        self._outcome = self._written()
        return self._outcome

    def _written(self) -> str:
        steps, self._assembler, self._ending = len(self.recorder), None, 0.0
        if not steps:
            self.recorder.discard()
            return "nothing to commit: no step was complete"
        try:
            index = self.recorder.commit(terminated=self._success)
        except DataError as error:
            self.recorder.discard()
            self.get_logger().error(f"episode lost: {error}")
            return str(error)
        return f"committed episode {index} of {steps} steps"


def main() -> None:
    run(RecorderNode)


if __name__ == "__main__":
    main()
