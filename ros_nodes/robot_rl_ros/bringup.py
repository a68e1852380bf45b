"""The graph without a ROS installation: one process a node, on the loopback interface, from pip alone."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import robot_rl
from robot_rl.data import schema
from robot_rl.errors import ConfigError, RobotRLError
from robot_rl_ros.bundle import BundleFacts, bundle_facts
from robot_rl_ros.network import loopback_environment

NODES = ("sim_arm", "safety", "policy", "reward", "recorder", "conductor")
PARENT_VARIABLE = "ROBOT_RL_BRINGUP_PID"
STOP_TIMEOUT_S = 5.0
SLOWNESS = 1.3
"""An episode's time over that of the simulator: the policy also waits for pictures."""


@dataclass(frozen=True)
class EpisodeOutcome:
    """One episode through the graph.

    Attributes:
        seed: of the simulator. success: by the simulator's truth.
        duration_s: from the policy's start to the end [s].
        stopped: why the guard stopped it (`schema.FILTER_REASONS`), or "".
        real_time_factor: simulated seconds per second; 0 if it ended before it was measured.
        recorded: what the recorder said; "" without one.
    """

    seed: int
    success: bool
    duration_s: float
    stopped: str
    real_time_factor: float
    recorded: str = ""


def bringup(
    bundle: str | Path,
    *,
    task: str | None = None,
    episodes: int = 1,
    seed: int = schema.SEED_HELD_OUT,
    max_age_s: float = 0.0,
    lockstep: bool = False,
    reward: str | Path = "",
    record: str | Path = "",
    start_timeout_s: float = 180.0,
    domain_id: int | None = None,
    loopback: bool = True,
    on_episode: Callable[[EpisodeOutcome], None] | None = None,
) -> list[EpisodeOutcome]:
    """Start simulated arm, safety node and policy as ROS 2 nodes, run episodes, stop everything.

    Args:
        bundle: directory of the policy bundle.
        task: refuse a bundle of another task.
        episodes: how many; 0 runs until Ctrl-C.
        seed: of the first episode; each further one takes the next.
        max_age_s: one limit on the age of commands, states and pictures in place of the bundle's and the
            nodes' own, for a simulation on a machine too busy for real time [s]; 0 leaves them.
        lockstep: simulated time waits for every node, so that the outcome does not depend on the machine.
        reward: directory of a reward model, for the reward node; "": none.
        record: directory for the episodes, for the recorder; "": none.
        start_timeout_s: how long the graph may take to appear [s].
        domain_id: ROS domain; by default one derived from this process.
        loopback: listen on 127.0.0.1 alone. False leaves discovery and transports to the environment.
        on_episode: called with each outcome as it comes.

    Returns:
        The outcomes; on Ctrl-C those so far.

    Raises:
        RobotRLError: rclpy is missing, or a node failed (its last words are in the message).
        DataError: the bundle is missing, damaged or of another task. ConfigError: it has no joint limits.
    """
    if importlib.util.find_spec("rclpy") is None:
        raise RobotRLError(
            "rclpy is not installed: run `pip install --no-deps --require-hashes -r requirements-ros.txt`, "
            "or source a ROS 2 installation"
        )
    facts = bundle_facts(bundle, task)
    parameters = _parameters(facts, lockstep)
    if reward:
        parameters["reward"] = {"model": str(Path(reward).resolve())}
        parameters["conductor"]["judged"] = True
    if record:
        cameras = [schema.DEFAULT_CAMERA] if facts.image_shape else [""]
        parameters["recorder"] = {
            "store": str(Path(record).resolve()),
            "bundle": str(Path(bundle).resolve()),
            "truth": True,
            "judged": bool(reward),
            "cameras": cameras,
        }
        parameters["conductor"]["record"] = True
    parameters["conductor"] |= {"episodes": episodes, "seed": seed, "start_timeout_s": float(start_timeout_s)}
    if max_age_s:
        age = float(max_age_s)
        parameters["safety"] |= {"max_command_age_s": age, "max_state_age_s": age}
        parameters["policy"] |= {"max_image_age_s": age, "max_skew_s": age}
    outcomes: list[EpisodeOutcome] = []
    with tempfile.TemporaryDirectory(prefix="robot_rl_ros_") as name:
        folder = Path(name)
        environment = _environment()
        if loopback:
            # 1 .. 100: higher domains reach into the ports that the kernel hands out.
            environment |= loopback_environment(folder, 1 + os.getpid() % 100)
        if domain_id is not None:
            environment["ROS_DOMAIN_ID"] = str(domain_id)
        with _processes(folder, parameters, environment) as processes:
            try:
                for line in _lines(folder, processes):
                    outcomes.append(EpisodeOutcome(**json.loads(line)))
                    if on_episode is not None:
                        on_episode(outcomes[-1])
            except KeyboardInterrupt:
                pass
    return outcomes


def _parameters(bundle: BundleFacts, lockstep: bool) -> dict[str, dict[str, Any]]:
    if bundle.guard is None:
        raise ConfigError(
            f"bundle {bundle.path} of robot {bundle.robot!r} has no joint limits: export it with them"
        )
    path = str(bundle.path.resolve())
    episode_s = bundle.max_steps / bundle.control_hz
    found: dict[str, dict[str, Any]] = {
        "sim_arm": {
            "task": bundle.task,
            "bundle": path,
            "image_size": bundle.image_shape[0] if bundle.image_shape else 64,
        },
        "safety": {"bundle": path},
        "policy": {"bundle": path},
        "conductor": {"timeout_s": episode_s if lockstep else SLOWNESS * episode_s},
    }
    for values in found.values():
        values["lockstep"] = lockstep
    if lockstep:
        found["sim_arm"]["episode_s"] = episode_s
    return found


def _environment() -> dict[str, str]:
    """This process's, with the stack importable: it may stand in a working tree, not be installed."""
    roots = [str(Path(__file__).resolve().parents[1]), str(Path(robot_rl.__file__).resolve().parents[1])]
    before = os.environ.get("PYTHONPATH")
    return dict(os.environ) | {
        "PYTHONPATH": os.pathsep.join(roots + ([before] if before else [])),
        # Small networks and small pictures: waiting for helper threads costs more than they give. Mesa's
        # 0 draws in the calling thread: 5 ms a picture instead of 30 on a busy machine.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "LP_NUM_THREADS": os.environ.get("LP_NUM_THREADS", "0"),
        PARENT_VARIABLE: str(os.getpid()),
    }


Processes = dict[str, "subprocess.Popen[str]"]


@contextmanager
def _processes(
    folder: Path, parameters: Mapping[str, dict[str, Any]], environment: dict[str, str]
) -> Iterator[Processes]:
    """The nodes' processes, each with its log in `folder`; all ended at the exit, firmly if need be."""
    processes: Processes = {}
    try:
        for name in parameters:
            file = folder / f"{name}.yaml"  # JSON is YAML
            file.write_text(json.dumps({"/**": {"ros__parameters": parameters[name]}}))
            with (folder / f"{name}.log").open("w") as log:
                processes[name] = subprocess.Popen(
                    [sys.executable, "-m", f"robot_rl_ros.{name}", "--ros-args", "-r", "__ns:=/wx250s",
                     "--params-file", str(file)],
                    env=environment, stdin=subprocess.DEVNULL, stderr=log, text=True,
                    stdout=subprocess.PIPE if name == "conductor" else log,
                    start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others
                )  # fmt: skip
        yield processes
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _lines(folder: Path, processes: Processes) -> Iterator[str]:
    """What the conductor prints, until it ends.

    Raises:
        RobotRLError: a process ended that should not have.
    """
    lines: queue.Queue[str | None] = queue.Queue()
    conductor = processes["conductor"]
    assert conductor.stdout is not None
    threading.Thread(target=_drain, args=(conductor.stdout, lines), daemon=True).start()
    while True:
        for name, process in processes.items():
            if process is not conductor and process.poll() is not None:
                raise _ended(folder, name, process.returncode)
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            continue
        if line is None:
            break
        yield line
    if conductor.wait() != 0:
        raise _ended(folder, "conductor", conductor.returncode)


def _drain(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _ended(folder: Path, name: str, status: int) -> RobotRLError:
    words = (folder / f"{name}.log").read_text(errors="replace").strip().splitlines()[-5:]
    return RobotRLError(f"the ROS node {name} ended with status {status}: {' | '.join(words) or 'no output'}")
