"""Refinement inside a batch of imagined arms (or simulated ones: the loop never asks).

T steps, N members, A action dimensions.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from robot_rl.agents.distributions import sample
from robot_rl.agents.grpo import GRPO
from robot_rl.agents.policy import ActorPolicy, to_tensors
from robot_rl.agents.ppo import PPO, PPOConfig, Rollout
from robot_rl.agents.safe_ppo import SafePPO, SafePPOConfig
from robot_rl.data import schema
from robot_rl.errors import ConfigError, unknown

ALGORITHMS = ("ppo", "grpo")


@dataclass(frozen=True)
class RefineConfig:
    iterations: int = 40
    horizon: int = 32
    """Steps that every member takes in one iteration."""
    average: float = 0.85
    """Of the weights from one iteration to the next: what is measured and kept is their running mean. Single
    iterations swing by ten points and more, imagined or real; 0 keeps the weights as they are."""
    select_every: int = 5
    """Iterations between two measurements of the deterministic policy on the validation seeds."""
    select_episodes: int = 128
    """Imagined episodes a measurement, at least; whole batches of the environment."""
    patience: int = 0
    """Measurements in a row without a new best after which it stops; 0: never before the last iteration."""
    pessimism: float = 0.0
    """lambda of r - lambda u, with the environment's `uncertainty` u (MOPO, arXiv 2005.13239)."""
    algorithm: str = "ppo"
    """`ppo`, or `grpo`: no value, advantages within groups of episodes that start alike."""
    group: int = 8
    """Members of a group."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    safe: SafePPOConfig | None = None
    """Keep what an imagined episode costs under a limit; None: costs are not looked at."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise unknown("refine.algorithm", self.algorithm, ALGORITHMS)
        for name in ("iterations", "horizon", "select_every", "select_episodes", "group"):
            if getattr(self, name) < 1:
                raise ConfigError(f"refine.{name}={getattr(self, name)}; expected at least 1")
        if self.algorithm == "grpo" and self.safe is not None:
            raise ConfigError("refine.algorithm=grpo with refine.safe; expected ppo: costs need a value")
        if self.patience < 0 or self.pessimism < 0:
            raise ConfigError(
                f"refine.patience={self.patience}, pessimism={self.pessimism}; expected at least 0 of each"
            )
        if not 0 <= self.average < 1:
            raise ConfigError(f"refine.average={self.average}; expected 0 <= average < 1")


@dataclass
class _FirstEpisodes:
    """Of each member's first episode: an unbiased sample, which all the finished ones are not."""

    running: npt.NDArray[np.bool_]
    success: npt.NDArray[np.bool_]
    total: npt.NDArray[np.float64]
    cost: npt.NDArray[np.float64]
    steps: npt.NDArray[np.int64]

    @classmethod
    def of(cls, members: int) -> _FirstEpisodes:
        return cls(
            np.ones(members, bool),
            np.zeros(members, bool),
            np.zeros(members),
            np.zeros(members),
            np.zeros(members, int),
        )

    def add(
        self,
        reward: npt.NDArray[Any],
        cost: npt.NDArray[Any],
        success: npt.NDArray[Any],
        ended: npt.NDArray[Any],
    ) -> None:
        self.total += np.where(self.running, reward, 0)
        self.cost += np.where(self.running, cost, 0)
        self.steps += self.running
        self.success |= self.running & success.astype(bool)
        self.running &= ~ended

    def metrics(self) -> dict[str, float]:
        return {
            "imagined_success": float(self.success.mean()),
            "return": float(self.total.mean()),
            "episode_cost": float(self.cost.mean()),
            "episode_steps": float(self.steps.mean()),
        }


class RefineLearner:
    """PPO on `policy` in `env`, anchored to the policy as it was. A `trainers.protocols.Learner`.

    One update resets all members and rolls out `horizon` steps, so the environment holds no state
    between updates: its seeds follow from counters, and a resumed run repeats an uninterrupted one.

    Args:
        env: N members that never reset themselves; `info` has `success` (N,), `cost` (N,) if the config
            limits it, and `uncertainty` (N,) where pessimism is to have any effect.
        policy: improved in place.
        config: sizes.
        held_out: another such environment, to measure in; without it, the same on other seeds.

    Raises:
        ConfigError: members that do not divide into groups, or pessimism without an uncertainty.
    """

    def __init__(
        self, env: VectorEnv, policy: ActorPolicy, config: RefineConfig, held_out: VectorEnv | None = None
    ) -> None:
        self.env, self.policy, self.config = env, policy, config
        self.held_out = held_out or env
        self.total_updates = config.iterations
        reference = copy.deepcopy(policy)
        if config.algorithm == "grpo":
            if env.num_envs % config.group:
                raise ConfigError(
                    f"{env.num_envs} members; expected a multiple of refine.group={config.group}"
                )
            self.ppo: PPO = GRPO(policy, reference, config.ppo, config.group)
        elif config.safe is not None:
            self.ppo = SafePPO(policy, reference, config.ppo, config.safe)
        else:
            self.ppo = PPO(policy, reference, config.ppo)
        self._generator = torch.Generator(policy.device).manual_seed(config.seed)
        self._stale = 0
        self._iterations = self._episodes = 0
        self._averaged = copy.deepcopy(policy)
        self._best = copy.deepcopy(policy.state_dict())
        self._best_success = -1.0

    def update(self) -> dict[str, float]:
        """One iteration: imagine, learn, and every `select_every` iterations measure."""
        if self.stopped:
            self._iterations += 1
            return {"best_validation_success": self._best_success}
        if self._iterations == 0:
            self._select()  # the clone itself stands as long as nothing beats it
        first_seed = schema.SEED_ROLLOUTS + self._episodes
        rollout, metrics = self._imagine(self.env, self.policy, first_seed, self._generator)
        if isinstance(self.ppo, SafePPO):
            metrics |= self.ppo.constrain(rollout, metrics["episode_cost"])
        else:
            metrics |= self.ppo.update(rollout)
        self._iterations += 1
        with torch.no_grad():
            rate = 1 - self.config.average
            torch._foreach_lerp_(list(self._averaged.parameters()), list(self.policy.parameters()), rate)
        if self._iterations % self.config.select_every == 0 or self._iterations == self.total_updates:
            metrics["validation_success"] = self._select()
        return metrics | {"best_validation_success": self._best_success}

    @property
    def stopped(self) -> bool:
        """Whether `patience` has run out; the remaining iterations then change nothing."""
        return 0 < self.config.patience <= self._stale

    @property
    def best_success(self) -> float:
        """Imagined success of the selected policy on the validation seeds."""
        return self._best_success

    def selected_policy(self) -> ActorPolicy:
        """A copy of the averaged policy with the highest imagined success on the validation seeds so far."""
        policy = copy.deepcopy(self.policy)
        policy.load_state_dict(self._best)
        return policy

    def _select(self) -> float:
        """Deterministic imagined success of the averaged policy; kept if it is higher than any before.

        On ties the earlier stand, which lie nearer to the clone: where it imagines nothing but success
        already, there is nothing to learn from the model, only to exploit.
        """
        env = self.held_out
        batches = math.ceil(self.config.select_episodes / env.num_envs)
        seeds = [schema.SEED_VALIDATION + batch * env.num_envs for batch in range(batches)]
        measured = [self._imagine(env, self._averaged, seed, None)[1]["imagined_success"] for seed in seeds]
        success = sum(measured) / batches
        self._stale += 1
        if success > self._best_success:
            self._stale = 0
            self._best, self._best_success = copy.deepcopy(self._averaged.state_dict()), success
        return success

    @torch.no_grad()
    def _imagine(
        self, env: VectorEnv, policy: ActorPolicy, first_seed: int, generator: torch.Generator | None
    ) -> tuple[Rollout, dict[str, float]]:
        """`horizon` steps of all members from consecutive seeds; the mean acts without a generator.

        Members of GRPO's groups share a seed while learning, and stay as they are after their episode.
        """
        ppo, device = self.ppo, policy.device
        members = env.num_envs
        grouped = self.config.algorithm == "grpo" and generator is not None
        share = self.config.group if grouped else 1
        seeds = first_seed + np.arange(members) // share
        following = first_seed + members // share
        first = _FirstEpisodes.of(members)
        steps: dict[str, list[Tensor]] = {}
        pictures: dict[str, list[Tensor]] = {}
        costs: dict[str, list[Tensor]] = {}
        seen, _ = env.reset(seed=seeds.tolist())  # type: ignore[arg-type]
        observations = to_tensors(seen, device)
        features = policy.features(observations)
        for _ in range(self.config.horizon):
            if not ppo.frozen_encoder:
                for key, value in observations.items():  # copies: an environment may reuse its arrays
                    pictures.setdefault(key, []).append(value.clone())
            distribution = policy(features)
            action = distribution.mean if generator is None else sample(distribution, generator)
            step = {"features": features, "action": action, "log_prob": distribution.log_prob(action)}
            seen, reward, terminated, truncated, info = env.step(action.clamp(-1, 1).cpu().numpy())
            ended = terminated | truncated
            if grouped:
                step["valid"] = torch.tensor(first.running)
            cost = np.asarray(info.get("cost", np.zeros(members)))
            first.add(reward, cost, info["success"], ended)
            observations = to_tensors(seen, device)
            arrived = policy.features(observations)
            step |= {"value": ppo.values(features), "next_value": ppo.values(arrived)}
            earned = torch.tensor(reward, dtype=torch.float32, device=device)
            step["reward"] = self._pessimistic(earned, info)
            if grouped:  # a member that has ended costs nothing more
                step["reward"] = step["reward"] * step["valid"].to(device)
            step |= {"terminated": torch.tensor(terminated), "ended": torch.tensor(ended)}
            for name, tensor in step.items():
                steps.setdefault(name, []).append(tensor.to(device))
            if isinstance(ppo, SafePPO):
                now, then = ppo.cost_values(features), ppo.cost_values(arrived)
                paid = torch.tensor(cost, dtype=torch.float32, device=device)
                for name, tensor in (("reward", paid), ("value", now), ("next_value", then)):
                    costs.setdefault(name, []).append(tensor)
            features = arrived
            if ended.any() and not grouped:
                count = int(ended.sum())
                seeds[ended] = following + np.arange(count)
                following += count
                options = {"reset_mask": ended}
                seen, _ = env.reset(seed=seeds.tolist(), options=options)  # type: ignore[arg-type]
                observations = to_tensors(seen, device)
                features = arrived.clone()
                fresh = torch.tensor(ended, device=device)
                features[fresh] = policy.features({key: value[fresh] for key, value in observations.items()})
        if generator is not None:
            self._episodes += following - first_seed
        stacked = {name: torch.stack(values) for name, values in steps.items()}
        stored = {key: torch.stack(values) for key, values in pictures.items()}
        priced = {name: torch.stack(values) for name, values in costs.items()}
        return Rollout(**stacked, observations=stored, costs=priced), first.metrics()

    def _pessimistic(self, reward: Tensor, info: dict[str, Any]) -> Tensor:
        """r - lambda u."""
        if not self.config.pessimism:
            return reward
        if "uncertainty" not in info:
            raise ConfigError(
                f"refine.pessimism={self.config.pessimism} where nothing tells the uncertainty; expected 0"
            )
        return reward - self.config.pessimism * torch.as_tensor(info["uncertainty"]).to(reward)

    def state_dict(self) -> dict[str, Any]:
        return {
            "ppo": self.ppo.state_dict(),
            "averaged": dict(self._averaged.state_dict()),
            "generator": self._generator.get_state(),
            "iterations": self._iterations,
            "episodes": self._episodes,
            "best": dict(self._best),
            "best_success": self._best_success,
            "stale": self._stale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ppo.load_state_dict(state["ppo"])
        self._averaged.load_state_dict(state["averaged"])
        self._generator.set_state(state["generator"].cpu())
        self._stale = state.get("stale", 0)
        self._iterations, self._episodes = state["iterations"], state["episodes"]
        self._best, self._best_success = state["best"], state["best_success"]
