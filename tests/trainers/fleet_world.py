"""A world of numbers for rollout actors, which can be held up and watched through files."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from robot_rl.agents.policy import ActorPolicy, PolicyConfig, PolicyRunner
from robot_rl.agents.sac import SACConfig
from robot_rl.agents.wsrl import WSRL, WSRLConfig
from robot_rl.data import schema
from robot_rl.data.replay import ReplayConfig
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError
from robot_rl.trainers.actors import ActorsConfig, Post
from robot_rl.trainers.fleet import Fleet
from robot_rl.trainers.fleet_learner import FleetLearner
from robot_rl.trainers.online import OnlineConfig
from robot_rl.trainers.rollout import EpisodeOrigin

BATCH, ARMS = 4, 2
FIRST = 100


@dataclass(frozen=True)
class Watched:
    """Files in `folder`: `hold-SEED` stops the world at that seed's last step for as long as it is there,
    `reached-SEED` then holds the process's number; `bad` makes a step fail."""

    folder: Path

    def hold(self, number: int) -> Path:
        file = self.folder / f"hold-{FIRST + number}"
        file.touch()
        return file

    def process_at(self, number: int) -> int:
        """The process that has reached the last step of a held episode."""
        file = self.folder / f"reached-{FIRST + number}"
        until(file.exists)
        return int(file.read_text())

    def pass_by(self, seed: int) -> None:
        if (self.folder / "bad").exists():
            raise ConfigError("a bad world; expected a good one")
        hold = self.folder / f"hold-{seed}"
        if hold.exists():
            reached = self.folder / f"reached-{seed}"
            reached.with_suffix(".new").write_text(str(os.getpid()))
            reached.with_suffix(".new").rename(reached)
        while hold.exists():
            time.sleep(0.01)


def until(condition: Any) -> None:
    """Wait for it."""
    for _ in range(30_000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited five minutes in vain")


class Drift(VectorEnv):
    """State (seed's last two digits, position), moved by half of what is asked. Episodes end after
    3 + seed % 2 steps: by success if 3 divides the seed, else by the clock."""

    def __init__(self, num_envs: int, watched: Watched | None = None) -> None:
        self.num_envs, self.watched = num_envs, watched
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.state = np.zeros((num_envs, 2), np.float32)
        self.seeds, self.steps = np.zeros(num_envs, int), np.zeros(num_envs, int)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        mask = np.ones(self.num_envs, bool) if options is None else options["reset_mask"]
        self.seeds[mask], self.steps[mask] = np.asarray(seed)[mask], 0
        self.state[mask] = np.stack([self.seeds % 100 / 100, np.zeros(self.num_envs)], 1)[mask]
        told = ["drift"] * self.num_envs
        return {schema.STATE: self.state.copy()}, {
            "instruction": told,
            "success": np.zeros(self.num_envs, bool),
        }

    def step(self, actions: Any) -> Any:
        self.steps += 1
        for seed, step in zip(self.seeds.tolist(), self.steps.tolist(), strict=True):
            if self.watched is not None and step == 3 + seed % 2:
                self.watched.pass_by(seed)
        executed = np.asarray(actions, np.float32) / 2
        self.state[:, 1] += executed[:, 0] / 5
        over = self.steps >= 3 + self.seeds % 2
        success = over & (self.seeds % 3 == 0)
        info = {
            "success": success,
            "action": executed,
            "cost": np.zeros(self.num_envs, np.float32),
            "filter_reason": np.full(self.num_envs, 3, np.uint8),
            "instruction": ["drift"] * self.num_envs,
        }
        return (
            {schema.STATE: self.state.copy()},
            success.astype(np.float32) - 1,
            success,
            over & ~success,
            info,
        )


def policy() -> ActorPolicy:
    return ActorPolicy(PolicyConfig(2, 2, None, hidden=(8,)))


def agent() -> WSRL:
    replay = ReplayConfig(1000)
    return WSRL(policy(), WSRLConfig(SACConfig(critics=2, hidden=(8,), actor_lr=0.01), replay, 8, 2))


def origin() -> EpisodeOrigin:
    """Its source names the node that practised."""
    ray = sys.modules.get("ray")
    node = ray.get_runtime_context().get_node_id() if ray and ray.is_initialized() else "here"
    return EpisodeOrigin("toy/drift", "toy", 5.0, node)


def post(arms: int, folder: Path) -> Post:
    torch.set_num_threads(1)
    acting = policy()
    return Post(Drift(arms, Watched(folder)), PolicyRunner(acting, deterministic=False), acting, origin())


def fleet(ray: Any, folder: Path, config: ActorsConfig, episodes: int) -> Fleet:
    """A fleet that keeps its episodes in `folder`/online."""
    practice = OnlineConfig(episodes, BATCH, BATCH, 1.0)
    make = partial(post, BATCH // config.number, folder)
    return Fleet(ray, make, EpisodeStore(folder / "online", create=True), config, practice, FIRST)


def learner(ray: Any, folder: Path, config: ActorsConfig, episodes: int) -> FleetLearner:
    return FleetLearner(
        fleet(ray, folder, config, episodes), agent(), OnlineConfig(episodes, BATCH, BATCH, 1.0)
    )
