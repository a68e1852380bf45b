"""The six stages: each composes its learner from what the stages before it left in the run."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reward_vlm import (
    Oracle,
    RewardConfig,
    RewardWrapperConfig,
    SuccessClassifier,
    SuccessJudge,
    evaluate,
    make_learner,
    relabel,
)
from reward_vlm.evaluation import judge_episodes
from robot_rl.agents.algorithms import AlgorithmConfig, make_agent, make_online, prepared
from robot_rl.agents.bc import BCConfig, BCLearner, baselines, evaluate_mse
from robot_rl.agents.diffusion_policy import DiffusionBCLearner, DiffusionPolicy, DiffusionPolicyConfig
from robot_rl.agents.observe import imitable, recorded_features
from robot_rl.agents.offline import OfflineLearner, OfflineTraining
from robot_rl.agents.policy import ActorPolicy, PolicyConfig, PolicyRunner
from robot_rl.cli.context import Context
from robot_rl.cli.imagination import fit_refine, fit_world_model, imagined_env
from robot_rl.cli.practice import at_practice
from robot_rl.cli.recordings import (
    REAL_SHARE,
    demos,
    held_back,
    load_policy,
    load_reward,
    load_runner,
    policy_path,
    refined_rollouts,
    rollouts,
    step_shapes,
)
from robot_rl.cli.sections import (
    EvaluationConfig,
    OfflineConfig,
    OnlineStageConfig,
)
from robot_rl.data import schema
from robot_rl.data.artifact import atomic_write
from robot_rl.data.episode import Episode
from robot_rl.data.measures import episode_weights
from robot_rl.data.replay import Mixer, ReplayBuffer, ReplayConfig, Sampler
from robot_rl.data.statistics import Statistics
from robot_rl.data.video import write_video
from robot_rl.data.weighting import WeightedSampler
from robot_rl.errors import ConfigError
from robot_rl.trainers.rollout import rollout

Metrics = dict[str, float]


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    Attributes:
        name: as in configs/stage and in `summary.json`.
        needs: stages whose results it reads.
        policy: the stage whose policy stands after this one; its own, if it makes one.
        fit: trains, writes artifacts into the run, returns the stage's metrics.
    """

    name: str
    needs: tuple[str, ...]
    policy: str
    fit: Callable[[Context], Metrics]


# ---- 1 bc


def fit_bc(context: Context) -> Metrics:
    """Clone the demonstrations: picture and proprioception to action.

    Raises:
        DataError: fewer than two episodes, or they are not alike.
    """
    episodes = demos(context)
    shapes = step_shapes(episodes)
    test: list[Episode] = []
    if context.dataset is not None:  # no simulator to judge it: keep some back
        episodes, test = held_back(episodes, REAL_SHARE, context.seed)
    first = episodes[0]
    height, width, _ = shapes[schema.IMAGE]
    config = dataclasses.replace(
        context.section("policy", PolicyConfig),
        state_dim=shapes[schema.STATE][0],
        action_dim=shapes["action"][0],
        image_shape=(height, width),
        instruction=first.metadata.instruction,
        seed=context.seed,
    )
    metrics = {"demonstrations": float(len(episodes)), "frames": float(sum(map(len, episodes)))}
    settings = dataclasses.replace(context.section("bc", BCConfig), seed=context.seed)
    statistics = Statistics.from_episodes(episodes)
    if settings.policy == "diffusion":
        drawn = DiffusionPolicy(DiffusionPolicyConfig(config), statistics).to(context.device)
        context.fit("bc", DiffusionBCLearner(drawn, episodes, settings))
        drawn.save(policy_path(context, "bc"), context.policy_metadata(first))
        return metrics
    policy = ActorPolicy(config, statistics).to(context.device)
    context.fit("bc", BCLearner(policy, episodes, settings))
    policy.save(policy_path(context, "bc"), context.policy_metadata(first))
    if test:
        blind = baselines(episodes, test)
        metrics |= {"mse": evaluate_mse(policy, test), "held_out_episodes": float(len(test))}
        metrics |= {f"mse_{name}": value for name, value in blind.items()}
    return metrics


# ---- 4 reward


def fit_reward(context: Context) -> Metrics:
    """Teach a reward model to tell done from not done; threshold and calibration from held-back episodes."""
    episodes, test = held_back([*demos(context), *rollouts(context)], 0.2, context.seed + 1)
    config = dataclasses.replace(
        context.section("reward", RewardConfig), seed=context.seed, device=str(context.device)
    )
    if config.backend == "oracle":
        return evaluate(Oracle(config.oracle), test)
    learner = make_learner(episodes, config)
    context.fit("reward", learner)
    classifier, _ = learner.finish()
    classifier.save(context.run.stage_dir("reward") / "model")
    _write_reward_curves(context, classifier, test)
    return evaluate(classifier, test)


def _write_reward_curves(
    context: Context, classifier: SuccessClassifier, episodes: Sequence[Episode]
) -> None:
    """The judge's probability along one success and one failure."""
    curves = []
    for label in ("success", "failure"):
        chosen = [episode for episode in episodes if episode.succeeded == (label == "success")]
        for episode in sorted(chosen, key=len)[-1:]:
            (probability,) = judge_episodes(classifier.judge, [episode])
            curves.append(
                {
                    "label": label,
                    "probability": [round(float(p), 4) for p in probability],
                    "truth": episode.success.astype(int).tolist(),
                }
            )
    content = {"threshold": classifier.threshold, "episodes": curves}
    atomic_write(context.run.stage_dir("reward") / "curves.json", json.dumps(content).encode())


# ---- 5 offline


def labelled_buffer(
    observe: Callable[[Episode], dict[str, Tensor]],
    judge: SuccessJudge,
    episodes: Sequence[Episode],
    config: ReplayConfig,
    rewards: RewardWrapperConfig,
) -> tuple[ReplayBuffer, list[Episode]]:
    """Transitions with the judge's rewards and ends, and of the pictures what the agent learns from.

    Raises:
        ConfigError: they are more than the buffer holds: the demonstrations would be overwritten first.
    """
    labelled = [relabel(episode, judge, rewards) for episode in episodes]
    if (transitions := sum(map(len, labelled))) > config.capacity:
        raise ConfigError(
            f"replay.capacity={config.capacity} for {transitions} recorded transitions; expected at least as "
            "many: set offline.replay.capacity and online.agent.replay.capacity in a new run"
        )
    buffer = ReplayBuffer(config)
    for judged in labelled:
        buffer.add_episode(
            observe(judged), judged.action, judged.reward, judged.terminated, extras=imitable(judged)
        )
    return buffer, labelled


def fit_offline(context: Context) -> Metrics:
    """Cal-QL on demonstrations, failures and the refined policy's rollouts, labelled by the judge."""
    config = context.section("offline", OfflineConfig)
    algorithm = context.section("algorithm", AlgorithmConfig)
    policy = prepared(algorithm.offline, load_policy(context, "refine"), algorithm)
    judge = load_reward(context)
    sac = dataclasses.replace(config.learner.sac, seed=context.seed)
    agent = make_agent(algorithm.offline, policy, sac, config.learner, algorithm)
    recorded = [*demos(context), *rollouts(context), *refined_rollouts(context)]
    rewards = context.section("online", OnlineStageConfig).reward
    real, labelled = labelled_buffer(agent.observe, judge, recorded, config.replay, rewards)
    buffer: Sampler = real
    if config.trajectory_weighting:
        weights = episode_weights(labelled, config.trajectory_weighting)
        buffer = WeightedSampler(real, weights, [len(episode) for episode in labelled])
    metrics = {"episodes": float(len(recorded)), "transitions": float(len(real))}
    if config.imagined > 0:
        seeds = range(schema.SEED_ROLLOUTS, schema.SEED_ROLLOUTS + config.imagined_episodes)
        runner = PolicyRunner(policy, deterministic=False, seed=context.seed)
        dreams = rollout(imagined_env(context), runner, seeds, context.simulation.origin("imagined"))
        imagined, _ = labelled_buffer(agent.observe, judge, dreams, config.replay, rewards)
        shares = {"recorded": 1 - config.imagined, "imagined": config.imagined}
        buffer = Mixer({"recorded": buffer, "imagined": imagined}, shares)
    training = OfflineTraining(config.learner.updates, config.learner.batch, config.learner.critic_only)
    learner = OfflineLearner(agent, buffer, training)
    context.fit("offline", learner)
    policy.save(policy_path(context, "offline"), context.policy_metadata(recorded[0]))
    learner.agent.save_critics(context.run.stage_dir("offline") / "critic", {"task": context.task})
    return metrics


# ---- 6 online


def fit_online(context: Context) -> Metrics:
    """Practise in the guarded simulator, judged by the learned reward alone."""
    config = context.section("online", OnlineStageConfig)
    algorithm = context.section("algorithm", AlgorithmConfig)
    policy = prepared(algorithm.online, load_policy(context, "offline"), algorithm)
    judge = load_reward(context)
    sac = dataclasses.replace(config.agent.sac, seed=context.seed)
    settings = dataclasses.replace(config.agent, sac=sac, seed=context.seed)
    offline = None
    if config.agent.offline_ratio > 0:
        recorded = [*demos(context), *rollouts(context), *refined_rollouts(context)]
        observe = partial(recorded_features, policy, raw=sac.train_encoder)
        offline, _ = labelled_buffer(observe, judge, recorded, config.agent.replay, config.reward)
    conservative = context.section("offline", OfflineConfig).learner
    agent = make_online(policy, settings, conservative, algorithm, offline)
    if algorithm.online != "rlpd":
        agent.agent.load_critics(context.run.stage_dir("offline") / "critic", {"task": context.task})
    with at_practice(context, judge, agent) as learner:
        context.fit("online", learner)
    agent.averaged.save(policy_path(context, "online"), context.policy_metadata(demos(context)[0]))
    interventions = learner.interventions()
    atomic_write(context.run.stage_dir("online") / "safety.json", json.dumps(interventions).encode())
    curtailed = sum(interventions["reasons"].values())
    return {
        "env_steps": float(interventions["steps"]),
        "curtailed_share": curtailed / max(interventions["steps"], 1),
        **learner.counts(),
    }


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("bc", (), "bc", fit_bc),
        Stage("world_model", ("bc",), "bc", fit_world_model),
        Stage("refine", ("bc", "world_model"), "refine", fit_refine),
        Stage("reward", ("bc", "refine"), "refine", fit_reward),
        Stage("offline", ("refine", "reward"), "offline", fit_offline),
        Stage("online", ("reward", "offline"), "online", fit_online),
    )
}


def run_stage(context: Context, stage: Stage) -> dict[str, Any]:
    """Fit, judge on the held-out seeds, write down; at once, if the run already holds the result.

    Its times include those that it trained before it was resumed.

    Raises:
        ConfigError: a stage that it needs is not done in this run.
    """
    if (result := context.run.done(stage.name)) is not None:
        return result
    if context.dataset is None:
        for need in stage.needs:
            if context.run.done(need) is None:
                raise ConfigError(
                    f"stage {stage.name} needs stage {need}, which {context.run.path} does not hold: "
                    f"robot-rl train stage={need} run={context.run.path}"
                )
    context.mirror()
    started = time.monotonic()
    torch.manual_seed(context.seed)
    context.trained_before_s.clear()
    metrics = stage.fit(context)
    started -= sum(context.trained_before_s.values())
    fitted = time.monotonic() - started
    result = {"success": None, "policy": stage.policy, "metrics": metrics}
    if context.dataset is None:
        result["success"] = success_after(context, stage)
        if len(context.simulations) > 1:
            result["success_backward"] = success_after(context, stage, backward=True)
    result["fit_s"] = round(fitted, 1)
    result["wall_s"] = round(time.monotonic() - started, 1)
    context.run.mark_done(stage.name, result, fitted=context.trained_before_s)
    write_summary(context)
    return result


def success_after(context: Context, stage: Stage, backward: bool = False) -> dict[str, Any]:
    """Success of the policy that stands after `stage`; measured where the stage made one.

    `backward`: at the task that undoes the run's, from where that task starts.
    """
    suffix = "_backward" if backward else ""
    if stage.policy != stage.name:
        standing = context.run.done(stage.policy)
        if standing is not None:
            return dict(standing[f"success{suffix}"])
    policy = load_runner(str(policy_path(context, stage.policy)), {"task": context.task})
    evaluation, episodes = context.evaluate(policy, stage.policy, context.simulations[backward])
    evaluation.write(context.run.stage_dir(stage.name) / f"eval{suffix}.json")
    for label in ("success", "failure"):
        chosen = [episode for episode in episodes if episode.succeeded == (label == "success")]
        if chosen:
            frames = np.concatenate([episode.observations[schema.IMAGE] for episode in chosen[:4]])
            write_video(context.run.video_path(f"{stage.name}{suffix}_{label}"), frames, fps=8, scale=4)
    return dict(evaluation.summary())


def write_summary(context: Context) -> None:
    """summary.json: what scripts read."""
    done = {name: context.run.done(name) for name in STAGES}
    stages = {
        name: {
            key: result[key]
            for key in ("success", "success_backward", "policy", "wall_s", "metrics")
            if key in result
        }
        for name, result in done.items()
        if result is not None
    }
    content = {
        "task": context.task,
        "preset": context.config.preset_name,
        "seed": context.seed,
        "evaluated_on": context.section("evaluation", EvaluationConfig).seeds,
        "stages": stages,
    }
    atomic_write(context.run.path / "summary.json", json.dumps(content, indent=2).encode())
