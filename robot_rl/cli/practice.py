"""Where the online stage practises: in this process, or on rollout actors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from gymnasium.vector import VectorEnv

from reward_vlm import RewardWrapper, SuccessJudge
from robot_rl.agents.algorithms import AlgorithmConfig, prepared
from robot_rl.agents.policy import PolicyRunner
from robot_rl.agents.wsrl import WSRL
from robot_rl.cli.config import run_config
from robot_rl.cli.context import Context
from robot_rl.cli.recordings import keep_practice, load_policy, load_reward
from robot_rl.cli.sections import OnlineStageConfig
from robot_rl.cli.simulation import arms
from robot_rl.data import schema
from robot_rl.data.store import EpisodeStore
from robot_rl.trainers.actors import Post, connected
from robot_rl.trainers.fleet import Fleet
from robot_rl.trainers.fleet_learner import FleetLearner
from robot_rl.trainers.loop import Silent
from robot_rl.trainers.online import OnlineLearner, PracticeLearner
from robot_rl.trainers.reset_free import ResetFreeEnv, ResetFreeLearner
from robot_rl.trainers.run import Run

NEVER = 10_000
"""Steps of held success that end an episode: more than there are, so that the judge or the clock ends it."""


def practice_env(context: Context, judge: SuccessJudge, members: int) -> VectorEnv:
    """`members` guarded and judged arms, each episode in a new scene or all in one (`ResetFreeEnv`)."""
    config = context.section("online", OnlineStageConfig)
    env = context.simulation.vector_env(members, hold_steps=NEVER)
    helped: VectorEnv = env
    if config.person == "keys":
        from robot_rl.cli.helping import helped_out  # it needs a display

        helped = helped_out(context, env)
    judged = RewardWrapper(helped, judge, config.reward)
    if config.reset_free is None:
        return judged
    forward, backward = (each.task for each in context.simulations)
    return ResetFreeEnv(judged, env, arms(env), (forward, backward), config.reset_free)


@contextmanager
def at_practice(context: Context, judge: SuccessJudge, agent: WSRL) -> Iterator[PracticeLearner]:
    """The learner that the configuration asks for; arms and processes are let go at the end."""
    config = context.section("online", OnlineStageConfig)
    first_seed = schema.SEED_ONLINE + context.seed * schema.RUN_SEEDS
    if config.mode == "actors":
        yield from _on_actors(context, config, agent, first_seed)
        return
    with closing(practice_env(context, judge, config.practice.episodes_per_update)) as env:
        rest = (agent, context.simulation.origin("online"), config.practice, first_seed)
        keep = keep_practice(context, config.record)
        if isinstance(env, ResetFreeEnv):
            yield ResetFreeLearner(env, *rest, keep)
        else:
            yield OnlineLearner(env, *rest, keep)


def _on_actors(
    context: Context, config: OnlineStageConfig, agent: WSRL, first_seed: int
) -> Iterator[PracticeLearner]:
    practice, tasks = config.practice, list[str]()
    if config.reset_free is not None:  # a round is one trial of every arm, as in this process
        batch = practice.episodes_per_update
        practice = dataclasses.replace(practice, episodes=-(-practice.episodes // batch) * batch)
        tasks = [each.task for each in context.simulations]
    share = practice.episodes_per_update // config.actors.number
    make = partial(post, str(context.run.path.resolve()), share)
    store = EpisodeStore(context.run.data_dir("online"), create=True)
    with connected(config.actors) as ray:
        with closing(Fleet(ray, make, store, config.actors, practice, first_seed)) as fleet:
            yield FleetLearner(fleet, agent, practice, tasks)


def post(run: str, members: int) -> Post:
    """What one rollout actor of the run practises with, built in its own process."""
    opened = Run(Path(run))
    context = Context(run_config(opened), opened, Silent())
    context.config.collect.workers = 0  # the actor is a process of its own
    algorithm = context.section("algorithm", AlgorithmConfig)
    policy = prepared(algorithm.online, load_policy(context, "offline"), algorithm)
    env = practice_env(context, load_reward(context), members)
    runner = PolicyRunner(policy, deterministic=False, seed=context.seed)
    return Post(env, runner, policy, context.simulation.origin("online"))
