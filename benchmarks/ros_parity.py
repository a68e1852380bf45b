"""The graph against the simulator's own loop: the same policy, the same seeds, and the recording replayed.

python -m benchmarks.ros_parity --bundle DIR [--reward DIR] [--episodes N] [--out DIR] [--json FILE]

The graph is sim_arm, safety, policy, recorder (and reward) in lock-step, one process a node.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from robot_rl_ros.bringup import EpisodeOutcome, bringup

import sim
from benchmarks.harness import machine, versions
from robot_rl.agents.policy import PolicyRunner
from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.data.store import EpisodeStore
from robot_rl.safety import ActionGuard, GuardFilter
from robot_rl.trainers.bundle import PolicyBundle, load_bundle
from robot_rl.trainers.statistics import wilson
from sim.widowx import WidowXEnv


def environment(bundle: PolicyBundle) -> WidowXEnv:
    """The bundle's task with its guard, for pictures of its size."""
    shape = bundle.policy.config.image_shape
    env = sim.make(bundle.task, robot=bundle.robot, image_size=shape[0] if shape else 64).unwrapped
    assert isinstance(env, WidowXEnv)
    assert bundle.guard is not None
    env.set_command_filter(GuardFilter(bundle.guard))
    return env


def gym_success(bundle: PolicyBundle, seed: int) -> bool:
    """Whether the policy succeeds in the simulator's own loop."""
    env, runner = environment(bundle), PolicyRunner(bundle.policy)
    guard = ActionGuard(1, len(schema.ACTION_NAMES), bundle.action_guard)
    observation, _ = env.reset(seed=seed)
    done = success = False
    while not done:
        action = runner.act({key: value[None] for key, value in observation.items()})
        observation, _, terminated, truncated, info = env.step(guard.step(action)[0][0])
        success, done = success or bool(info["success"]), terminated or truncated
    env.close()
    return success


def replay_drift(bundle: PolicyBundle, episode: Episode) -> float:
    """Largest distance of the tool from the recording, executed actions open loop [m]."""
    env = environment(bundle)
    observation, _ = env.reset(seed=episode.metadata.seed)
    recorded = episode.observations[schema.STATE][:, :3]
    worst = float(np.linalg.norm(observation[schema.STATE][:3] - recorded[0]))
    for action, expected in zip(episode.action, recorded[1:], strict=True):
        observation, *_ = env.step(action)
        worst = max(worst, float(np.linalg.norm(observation[schema.STATE][:3] - expected)))
    env.close()
    return worst


def interval(success: list[bool]) -> dict[str, Any]:
    low, high = wilson(sum(success), len(success))
    return {"success": sum(success), "episodes": len(success), "low": low, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ros_parity")
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--reward", default="")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--out", type=Path, help="a directory for the recorded episodes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    with tempfile.TemporaryDirectory() as folder:
        store = options.out or Path(folder) / "episodes"

        def show(outcome: EpisodeOutcome) -> None:
            print(outcome, flush=True)

        outcomes = bringup(
            options.bundle,
            episodes=options.episodes,
            lockstep=True,
            reward=options.reward,
            record=store,
            start_timeout_s=1800.0,
            on_episode=show,
        )
        episodes = list(EpisodeStore(store))[-len(outcomes) :]
    graph = [outcome.success for outcome in outcomes]
    own = [gym_success(bundle, outcome.seed) for outcome in outcomes]
    drift = [replay_drift(bundle, episode) for episode in episodes]
    result = {
        "benchmark": "ros_parity",
        "machine": machine(),
        "versions": versions(("ros-rclpy", "numpy", "torch", "mujoco")),
        "command": shlex.join(["python", "-m", "benchmarks.ros_parity", *sys.argv[1:]]),
        "task": bundle.task,
        "first_seed": outcomes[0].seed,
        "graph": interval(graph),
        "gym": interval(own),
        "episodes that differ": int(np.sum(np.array(graph) != np.array(own))),
        "stopped by the guard": sum(outcome.stopped != "" for outcome in outcomes),
        "recorded": len(episodes),
        "replay drift m": {"median": float(np.median(drift)), "most": max(drift)},
        "judged success": sum(bool((episode.reward >= 0).any()) for episode in episodes)
        if options.reward
        else None,
    }
    text = json.dumps(result, indent=2) + "\n"
    if options.json:
        options.json.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
