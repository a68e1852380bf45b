"""The conductor node: runs episodes through the graph and reports each as a line of JSON on stdout.

An episode: policy off, simulator reset to the episode's seed, guard reset, recording on, policy on; it ends
with success by the simulator's truth, with a stop of the guard, or with the clock.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.client import Client
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.task import Future
from rclpy.utilities import ok, try_shutdown
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32, String
from std_srvs.srv import SetBool, Trigger

from robot_rl.data import schema
from robot_rl.errors import RobotRLError
from robot_rl_ros import messages
from robot_rl_ros.managed import end_with_parent

CALL_TIMEOUT_S = 30.0
RETRY_S = 40.0
"""A process that was killed stays in the graph for up to 20 s."""
SETTLING_S = 1.0


class Conductor(Node):
    """Parameters: `episodes` (0: without end), `seed` (of the first), `timeout_s` (of an episode; in
    simulated time in lock-step), `start_timeout_s` (until the graph answers) [s], `lockstep`, `record`
    (whether there is a recorder), `judged` (whether there is a reward node), `acting` (the name of the
    node that acts)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("conductor", **kwargs)
        self.episodes = int(self.declare_parameter("episodes", 1).value or 0)
        self.seed = int(self.declare_parameter("seed", schema.SEED_HELD_OUT).value or 0)
        self.timeout_s = float(self.declare_parameter("timeout_s", 20.0).value or 20.0)
        self.start_timeout_s = float(self.declare_parameter("start_timeout_s", 180.0).value or 180.0)
        self.lockstep = bool(self.declare_parameter("lockstep", False).value)
        self.record = bool(self.declare_parameter("record", False).value)
        self.judged = bool(self.declare_parameter("judged", False).value)
        acting = str(self.declare_parameter("acting", "policy").value)
        self._success, self._reason, self._elapsed = False, "", 0.0
        self._running: int | None = None
        self._factors: list[float] = []
        self.create_subscription(JointState, messages.TRUTH, self._on_truth, messages.EVENT_QOS)
        self.create_subscription(String, messages.REASON, self._on_reason, messages.LATCHED_QOS)
        self.create_subscription(Float32, messages.REAL_TIME_FACTOR, self._on_factor, messages.SENSOR_QOS)
        self._reset_sim = self.create_client(Trigger, messages.RESET_SIM_SERVICE)
        self._reset_guard = self.create_client(Trigger, messages.RESET_SERVICE)
        self._enable = self.create_client(SetBool, messages.enable_service(acting))
        self._record = self.create_client(SetBool, messages.RECORD_SERVICE)
        self._sim_parameters = AsyncParameterClient(self, "sim_arm")
        self._recorder_parameters = AsyncParameterClient(self, "recorder")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def _on_truth(self, message: JointState) -> None:
        truth = messages.numbers_from(message)
        if truth["seed"] == self._running and truth["time_s"] > 0:
            self._elapsed = truth["time_s"]
            self._success = self._success or (truth["success"] > 0 and self._elapsed < self.timeout_s + 0.1)

    def _on_reason(self, message: String) -> None:
        self._reason = message.data

    def _on_factor(self, message: Float32) -> None:
        self._factors.append(message.data)

    def run(self, report: Callable[[dict[str, Any]], None]) -> None:
        """All episodes.

        Raises:
            RobotRLError: a part of the graph does not answer.
        """
        deadline = time.monotonic() + self.start_timeout_s
        needed = [self._reset_sim, self._reset_guard, self._enable]
        missing = {
            client.srv_name: client.service_is_ready for client in needed + [self._record] * self.record
        }
        if self.judged:
            missing[messages.JUDGEMENT] = lambda: self.count_publishers(messages.JUDGEMENT) > 0
        for name, ready in missing.items():
            while not ready():
                if time.monotonic() > deadline:
                    raise RobotRLError(
                        f"{name} did not appear in {self.start_timeout_s:g} s: does its node run?"
                    )
                self._executor.spin_once(timeout_sec=0.1)
        number = 0
        while self.episodes == 0 or number < self.episodes:
            report(self._episode(self.seed + number))
            number += 1

    def _episode(self, seed: int) -> dict[str, Any]:
        self._call(self._enable, SetBool.Request(data=False))
        parameter = Parameter("seed", value=seed)
        self._ask(lambda: self._sim_parameters.set_parameters([parameter]), "sim_arm/set_parameters")
        self._insist(self._reset_sim, Trigger.Request())
        if not self.lockstep:
            self._spin(0.2)  # states and pictures of before the reset are stale by then
        self._insist(self._reset_guard, Trigger.Request())
        if self.record:
            self._ask(
                lambda: self._recorder_parameters.set_parameters([parameter]), "recorder/set_parameters"
            )
            self._insist(self._record, SetBool.Request(data=True))
        self._success, self._factors, self._elapsed, self._running = False, [], 0.0, seed
        self._insist(self._enable, SetBool.Request(data=True))
        start = time.monotonic()
        going = stopped = False
        while not self._success and not stopped and not self._over(start):
            self._executor.spin_once(timeout_sec=0.05)
            # The word of the previous stop may still be on its way: a stop counts once the arm has gone,
            # or when it has had the time to.
            held = self._reason in messages.STOPS
            going = going or not held
            late = time.monotonic() - start > SETTLING_S and not self.lockstep
            stopped = held and self._reason != "inactive" and (going or late)
        outcome = {
            "seed": seed,
            "success": self._success,
            "duration_s": round(self._elapsed if self.lockstep else time.monotonic() - start, 3),
            "stopped": self._reason if stopped else "",
            "real_time_factor": round(sum(self._factors) / len(self._factors), 3) if self._factors else 0.0,
            "recorded": "",
        }
        self._running = None
        self._call(self._enable, SetBool.Request(data=False))
        if self.record:
            outcome["recorded"] = self._call(self._record, SetBool.Request(data=False)).message
        return outcome

    def _over(self, start: float) -> bool:
        """Whether the episode's time is up; in lock-step also if nothing happens any more.

        Raises:
            RobotRLError: simulated time stands still in the middle of an episode.
        """
        elapsed = time.monotonic() - start
        if not self.lockstep:
            return elapsed >= self.timeout_s
        if elapsed > CALL_TIMEOUT_S + 20 * self.timeout_s:
            raise RobotRLError(
                f"lock-step stands still at {self._elapsed:g} s of the episode: has a node ended?"
            )
        return self._elapsed >= self.timeout_s - 1e-6

    def _spin(self, duration_s: float) -> None:
        end = time.monotonic() + duration_s
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.05)

    def _ask(self, send: Callable[[], Future], what: str) -> Any:
        """The answer to what `send` sends; sent again when none comes, for the first may find no way yet."""
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while time.monotonic() < deadline:
            future = send()
            self._executor.spin_until_future_complete(future, timeout_sec=CALL_TIMEOUT_S / 10)
            if future.done():
                return future.result()
        raise RobotRLError(f"{what} did not answer in {CALL_TIMEOUT_S:g} s: has its node ended?")

    def _call(self, client: Client, request: Any) -> Any:
        return self._ask(lambda: client.call_async(request), client.srv_name)

    def _insist(self, client: Client, request: Any) -> None:
        """Call until it succeeds: a node may still be waiting for its first messages."""
        deadline = time.monotonic() + RETRY_S
        while not (response := self._call(client, request)).success:
            if time.monotonic() > deadline:
                raise RobotRLError(f"{client.srv_name} refuses: {response.message}")
            self._spin(0.1)


def main() -> None:
    rclpy.init()
    try:
        node = Conductor()
        end_with_parent(node)
        node.run(lambda outcome: print(json.dumps(outcome), flush=True))  # noqa: T201 - its only output
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RCLError:
        if ok():  # else it was told to stop in the middle of a call
            raise
    except RobotRLError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    finally:
        try_shutdown()


if __name__ == "__main__":
    main()
