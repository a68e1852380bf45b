"""What a run records or reads: demonstrations, the clone's rollouts, the refined policy's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reward_vlm import Oracle, RewardConfig, SuccessClassifier, SuccessJudge
from robot_rl.agents.diffusion_policy import KIND as DIFFUSION
from robot_rl.agents.diffusion_policy import DiffusionPolicy, DiffusionRunner
from robot_rl.agents.policy import ActorPolicy, PolicyRunner
from robot_rl.cli.context import Context
from robot_rl.cli.sections import CollectConfig, TaskConfig
from robot_rl.cli.simulation import arms, is_widowx
from robot_rl.data import schema
from robot_rl.data.artifact import peek_artifact
from robot_rl.data.episode import Episode
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import DataError
from robot_rl.safety import GuardedVectorEnv
from robot_rl.trainers.protocols import Policy
from sim import ExpertPolicy, RandomPolicy
from sim.experts import RandomConfig

REAL_SHARE = 0.2
"""Of a dataset's episodes, those kept back to judge on."""


def policy_path(context: Context, stage: str) -> Path:
    return context.run.stage_dir(stage) / "policy"


def load_policy(context: Context, stage: str) -> ActorPolicy:
    return ActorPolicy.load(policy_path(context, stage), {"task": context.task})


def load_runner(path: str, expect: Mapping[str, Any] | None) -> Policy:
    """Whatever kind of policy lies at `path`, ready to act.

    Raises:
        DataError: missing, damaged, or other than expected.
    """
    kind, _ = peek_artifact(path)
    if kind == DIFFUSION:
        return DiffusionRunner(DiffusionPolicy.load(path, expect))
    return PolicyRunner(ActorPolicy.load(path, expect))


def load_reward(context: Context) -> SuccessJudge:
    """The run's reward model."""
    config = context.section("reward", RewardConfig)
    if config.backend == "oracle":
        return Oracle(config.oracle)
    return SuccessClassifier.load(context.run.stage_dir("reward") / "model", task=context.task)


def demos(context: Context) -> list[Episode]:
    """Noisy demonstrations, or the dataset that was named instead."""
    if context.dataset is not None:
        return context.dataset
    collect, task = context.section("collect", CollectConfig), context.section("task", TaskConfig)
    first = schema.SEED_DEMOS + context.seed * schema.RUN_SEEDS
    return context.episodes(
        "demos",
        range(first, first + collect.demos),
        "expert",
        lambda env: ExpertPolicy(arms(env), task.demo_noise),
        hold_steps=collect.hold_steps,
    )


def rollouts(context: Context) -> list[Episode]:
    """What the demonstrations do not show: the clone's own episodes, disturbed ones and random motion."""
    if context.dataset is not None:
        return []
    collect = context.section("collect", CollectConfig)
    first = schema.SEED_ROLLOUTS + context.seed * schema.RUN_SEEDS
    hold = {"hold_steps": collect.hold_steps}
    clone = load_policy(context, "bc")
    episodes = context.episodes(
        "policy",
        range(first, first + collect.policy),
        "bc",
        lambda env: PolicyRunner(clone, deterministic=False, seed=context.seed),
        **hold,
    )
    first += collect.policy
    episodes += context.episodes(
        "perturbed",
        range(first, first + collect.perturbed),
        "expert",
        lambda env: ExpertPolicy(arms(env), collect.perturbed_noise, scale_range=(0.3, 1.0)),
        **hold,
    )
    first += collect.perturbed
    return episodes + context.episodes(
        "random",
        range(first, first + collect.random),
        "random",
        lambda env: random_policy(context.task, env),
        **hold,
    )


def random_policy(task: str, env: GuardedVectorEnv) -> RandomPolicy:
    """Random motion; drawn towards the middle of the table where actions move a tool and we know where."""
    moves_tool = is_widowx(task) and arms(env).task_spec.port == "joints"
    pull = RandomConfig().pull if moves_tool else 0.0
    return RandomPolicy(
        env.num_envs, int(np.prod(env.single_action_space.shape or ())), RandomConfig(pull=pull)
    )


def refined_rollouts(context: Context) -> list[Episode]:
    """Episodes of the refined policy in the simulator, exploring."""
    collect = context.section("collect", CollectConfig)
    first = schema.SEED_ROLLOUTS + context.seed * schema.RUN_SEEDS + 5_000
    refined = load_policy(context, "refine")
    return context.episodes(
        "refined",
        range(first, first + collect.refined),
        "refine",
        lambda env: PolicyRunner(refined, deterministic=False, seed=context.seed),
        hold_steps=collect.hold_steps,
    )


class KeptOnce:
    """Appends episodes to the store at `folder`, none twice, also where a resumed run makes them again.

    The store is made with the first of them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store: EpisodeStore | None = None
        self._known: set[str] = set()

    def __call__(self, episode: Episode) -> None:
        if self._store is None:
            self._store = EpisodeStore(self._folder, create=True)
            self._known = {each.content_hash() for each in self._store}
        content = episode.content_hash()
        if content not in self._known:
            self._store.append(episode)
            self._known.add(content)


def keep_practice(context: Context, everything: bool) -> Callable[[Episode], None]:
    """A callback that keeps episodes of practice in the run, for whatever learns from it next.

    Those in which a person took over go to `data/interventions`; with `everything` all go to `data/online`.
    """
    helped, practised = (KeptOnce(context.run.data_dir(name)) for name in ("interventions", "online"))

    def keep(episode: Episode) -> None:
        if episode.is_intervention.any():
            helped(episode)
        if everything:
            practised(episode)

    return keep


def step_shapes(episodes: Sequence[Episode]) -> dict[str, tuple[int, ...]]:
    """Of one step's state (S,), picture (H, W, 3) and action (A,), alike in every episode.

    Raises:
        DataError: an episode lacks the picture, or differs from the first.
    """
    wanted: dict[str, tuple[int, ...]] = {}
    for number, episode in enumerate(episodes):
        arrays = episode.arrays()
        if schema.IMAGE not in arrays:
            raise DataError(
                f"episode {number} lacks {schema.IMAGE!r}; expected it in every episode, found "
                f"{', '.join(sorted(episode.observations))}"
            )
        found = {name: arrays[name].shape[1:] for name in (schema.STATE, schema.IMAGE, "action")}
        wanted = wanted or found
        for name, shape in found.items():
            if shape != wanted[name]:
                raise DataError(
                    f"episode {number} has {name!r} of shape {shape} a step; expected {wanted[name]}, as "
                    "episode 0 has: use episodes of one robot, camera and resolution"
                )
    return wanted


def held_back(episodes: Sequence[Episode], share: float, seed: int) -> tuple[list[Episode], list[Episode]]:
    """(train, test), split by episode; neither is empty.

    Raises:
        DataError: fewer than two episodes.
    """
    if len(episodes) < 2:
        raise DataError(
            f"{len(episodes)} episodes to learn from and to judge on; expected at least 2: collect more"
        )
    order = np.random.default_rng([seed, 7]).permutation(len(episodes))
    count = min(max(1, round(share * len(episodes))), len(episodes) - 1)
    return [episodes[i] for i in order[count:]], [episodes[i] for i in order[:count]]
