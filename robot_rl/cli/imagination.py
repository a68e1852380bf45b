"""The stages that dream: the world model, and refinement inside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gymnasium.vector import VectorEnv

from reward_vlm import SuccessClassifier
from robot_rl.agents.policy import ActorPolicy, PolicyConfig, PolicyRunner
from robot_rl.cli.context import Context
from robot_rl.cli.recordings import (
    REAL_SHARE,
    demos,
    held_back,
    load_policy,
    policy_path,
    rollouts,
    step_shapes,
)
from robot_rl.cli.sections import ImaginationConfig, TaskConfig
from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.data.video import write_video
from robot_rl.trainers.imagined import RefineConfig, RefineLearner
from robot_rl.trainers.instructed import Instructed
from world_model import WorldModel, WorldModelEnv, WorldModelLearner, WorldModelLearnerConfig
from world_model.distil import ConsistencyDistiller
from world_model.metrics import evaluate_world_model
from world_model.parallel import Group
from world_model.pictures import side_by_side

Metrics = dict[str, float]


def world_model_episodes(context: Context) -> tuple[list[Episode], list[Episode]]:
    """What the world model learns from, and what it is judged on.

    Raises:
        DataError: fewer than two episodes, or they are not alike.
    """
    share = 0.1 if context.dataset is None else REAL_SHARE
    episodes = [*demos(context), *rollouts(context)]
    step_shapes(episodes)
    return held_back(episodes, share, context.seed)


def world_model_learner(
    context: Context, episodes: Sequence[Episode], group: Group | None = None
) -> WorldModelLearner:
    """The learner that the configuration asks for."""
    config = context.section("world_model", WorldModelLearnerConfig)
    config = dataclasses.replace(config, seed=context.seed, device=str(context.device))
    start = WorldModel.load(config.start) if config.start else None
    return WorldModelLearner(episodes, config, group=group, start=start)


def fit_world_model(context: Context) -> Metrics:
    """Learn to imagine: frames, proprioception and success, from all that was recorded so far."""
    train_set, test = world_model_episodes(context)
    learner = world_model_learner(context, train_set, context.group)
    context.fit("world_model", learner)
    model = learner.model
    if learner.config.distil_updates:
        distiller = ConsistencyDistiller(model, train_set, learner.config)
        context.fit("distil", distiller)
        model = distiller.model
        learner.calibrate(model)
    model.save(context.run.stage_dir("world_model") / "model")
    horizons = [h for h in (1, 5, 20) if h < max(map(len, test))]
    longest = max(test, key=lambda episode: (episode.succeeded, len(episode)))
    write_video(context.run.video_path("world_model"), side_by_side(model, longest), fps=5, scale=4)
    return evaluate_world_model(model, test, horizons)


def load_model(context: Context) -> WorldModel:
    """The world model to refine in, on the run's device."""
    path = context.section("refine", ImaginationConfig).model
    return WorldModel.load(path or context.run.stage_dir("world_model") / "model").to(context.device)


def imagined_env(
    context: Context, model: WorldModel | None = None, starts: Sequence[Episode] | None = None
) -> VectorEnv:
    """The frozen world model as an environment, starting from frames of recorded episodes."""
    section = context.section("refine", ImaginationConfig)
    judge = SuccessClassifier.load(section.judge, task=context.task) if section.judge else None
    episodes = starts if starts is not None else [*demos(context), *rollouts(context)]
    env = WorldModelEnv(model or load_model(context), episodes, section.env, judge)
    if context.section("task", TaskConfig).pair:
        return Instructed(env, context.section("policy", PolicyConfig).language_dim)
    return env


def fit_refine(context: Context) -> Metrics:
    """PPO (or GRPO) from the clone inside the frozen world model; what imagined best is kept."""
    section = context.section("refine", ImaginationConfig)
    policy = load_policy(context, "bc").to(context.device)
    config = dataclasses.replace(section.learner, seed=context.seed)
    learner = _refine(context, "refine", policy, load_model(context), config)
    chosen, metrics = learner.selected_policy(), {"imagined_success": learner.best_success}
    if section.refresh_episodes:
        model = _refreshed(context, chosen, section)
        learner = _refine(context, "refine_again", chosen, model, config)
        chosen = learner.selected_policy()
        metrics["imagined_success_refreshed"] = learner.best_success
    chosen.save(policy_path(context, "refine"), context.policy_metadata(demos(context)[0]))
    return metrics


def _refine(
    context: Context, name: str, policy: ActorPolicy, model: WorldModel, config: RefineConfig
) -> RefineLearner:
    """Refine `policy` in `model`, measured from episodes of its own where some are held out."""
    share = context.section("refine", ImaginationConfig).held_out
    starts, measured = [*demos(context), *rollouts(context)], None
    if share:
        starts, kept = held_back(starts, share, context.seed)
        measured = imagined_env(context, model, kept)
    learner = RefineLearner(imagined_env(context, model, starts), policy, config, measured)
    context.fit(name, learner)
    return learner


def _refreshed(context: Context, policy: ActorPolicy, section: ImaginationConfig) -> WorldModel:
    """The run's world model, after some updates on the refined policy's own episodes too (WoVR)."""
    first = schema.SEED_ROLLOUTS + context.seed * schema.RUN_SEEDS + 7_000
    fresh = context.episodes(
        "refresh",
        range(first, first + section.refresh_episodes),
        "refine",
        lambda env: PolicyRunner(policy, deterministic=False, seed=context.seed),
    )
    config = dataclasses.replace(
        context.section("world_model", WorldModelLearnerConfig),
        total_updates=section.refresh_updates,
        seed=context.seed,
        device=str(context.device),
    )
    train_set, _ = world_model_episodes(context)
    learner = WorldModelLearner([*train_set, *fresh], config, start=load_model(context))
    context.fit("refresh", learner)
    learner.model.save(context.run.stage_dir("refresh") / "model")
    return learner.model
