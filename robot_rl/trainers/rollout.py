"""The one rollout loop. It never asks whether the arms it drives are simulated, imagined or real."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from robot_rl.data import schema
from robot_rl.data.episode import Episode, EpisodeMetadata
from robot_rl.trainers.protocols import Policy


@dataclass(frozen=True)
class EpisodeOrigin:
    """The metadata that all episodes of one rollout share."""

    task: str
    robot: str
    control_hz: float
    source: str


class _Member:
    """What one member of the batch has seen since its reset."""

    def __init__(self, index: int, seed: int, task: str) -> None:
        self.index, self.seed, self.task, self.instruction = index, seed, task, ""
        self.observations: list[dict[str, npt.NDArray[Any]]] = []
        self.steps: list[dict[str, Any]] = []
        self.judged: list[float] = []

    def episode(self, origin: EpisodeOrigin) -> Episode:
        keys = self.observations[0].keys()
        columns = {name: np.asarray([step[name] for step in self.steps]) for name in self.steps[0]}
        return Episode.from_steps(
            {key: np.stack([observation[key] for observation in self.observations]) for key in keys},
            metadata=EpisodeMetadata(
                self.task,
                self.instruction,
                origin.robot,
                origin.control_hz,
                self.seed,
                origin.source,
                extra={"success_probability": self.judged} if self.judged else {},
            ),
            **columns,
        )


def seeds_of(seeds: npt.NDArray[np.int64]) -> Any:
    """One seed a member, as every vector environment takes them; Gymnasium's signature says one int."""
    return seeds.tolist()


def rollout(
    env: VectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    origin: EpisodeOrigin,
    *,
    keep_images: bool = True,
    reset_options: Mapping[str, Any] | None = None,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """One episode for each seed, in the order of `seeds`.

    Args:
        on_episode: called with each episode as it finishes. The others: those of `finishing`.
    """
    finished: dict[int, Episode] = {}
    for index, episode in finishing(
        env, policy, seeds, origin, keep_images=keep_images, reset_options=reset_options
    ):
        finished[index] = episode
        if on_episode is not None:
            on_episode(episode)
    return [finished[index] for index in range(len(seeds))]


def finishing(
    env: VectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    origin: EpisodeOrigin,
    *,
    keep_images: bool = True,
    reset_options: Mapping[str, Any] | None = None,
) -> Iterator[tuple[int, Episode]]:
    """One episode for each seed, with its index in `seeds`, as they finish, on all members of `env` at once.

    A member that finishes takes the next seed, so the batch stays full. The environment must not reset
    itself (`AutoresetMode.DISABLED`): the last observation of an episode is the true final one. Its `info`
    may name each member's `task` (reset) and say which steps are an `is_intervention` (step); a judge's
    `success_probability` (step) goes into the metadata's `extra`, one number a step.

    Args:
        env: N members.
        policy: acts on all members at once.
        seeds: one an episode.
        origin: shared metadata.
        keep_images: without them an episode holds only its state observations.
        reset_options: for every reset of the environment, such as `near_miss`.
    """
    count = env.num_envs
    queue = list(enumerate(seeds))[::-1]
    members: list[_Member | None] = [None] * count
    observations: dict[str, npt.NDArray[Any]] = {}
    pending_reset = np.ones(count, bool)

    def snapshot(i: int) -> dict[str, npt.NDArray[Any]]:
        return {
            key: np.array(value[i])
            for key, value in observations.items()
            if keep_images or not key.startswith(schema.IMAGE_PREFIX)
        }

    while True:
        mask = np.zeros(count, bool)
        member_seeds = np.zeros(count, np.int64)
        for i in np.flatnonzero(pending_reset).tolist():
            if queue:
                index, seed = queue.pop()
                members[i] = _Member(index, seed, origin.task)
                mask[i], member_seeds[i] = True, seed
            else:
                members[i] = None
        pending_reset[:] = False
        if mask.any():
            if not observations and not mask.all():  # fewer seeds than members: the rest idle on copies
                member_seeds[~mask] = member_seeds[mask][0]
            options = {**(reset_options or {}), **({"reset_mask": mask} if observations else {})} or None
            observations, info = env.reset(seed=seeds_of(member_seeds), options=options)
            policy.reset(mask, member_seeds)
            for i in np.flatnonzero(mask).tolist():
                member = members[i]
                assert member is not None
                member.instruction = info["instruction"][i]
                member.task = info["task"][i] if "task" in info else origin.task
                member.observations.append(snapshot(i))
        if all(member is None for member in members):
            return

        requested = policy.act(observations)
        observations, reward, terminated, truncated, info = env.step(requested)
        requested = info.get("action_requested", requested)
        for i, member in enumerate(members):
            if member is None:
                continue
            member.observations.append(snapshot(i))
            member.steps.append(
                {
                    "action": info["action"][i],
                    "action_requested": requested[i],
                    "reward": reward[i],
                    "cost": info["cost"][i],
                    "terminated": terminated[i],
                    "truncated": truncated[i],
                    "success": info["success"][i],
                    "filter_reason": info["filter_reason"][i],
                    **({"is_intervention": info["is_intervention"][i]} if "is_intervention" in info else {}),
                }
            )
            if "success_probability" in info:
                member.judged.append(round(float(info["success_probability"][i]), 4))
            if terminated[i] or truncated[i]:
                pending_reset[i] = True
                yield member.index, member.episode(origin)
