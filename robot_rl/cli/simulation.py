"""The guarded simulator that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

import sim
from robot_rl.cli.config import build
from robot_rl.cli.sections import CollectConfig, SafetyConfig
from robot_rl.data.episode import Episode
from robot_rl.safety import GuardedVectorEnv, GuardFilter, PassivityFilter
from robot_rl.trainers.loop import ProgressTask
from robot_rl.trainers.rollout import EpisodeOrigin


def task_spec(config: DictConfig) -> sim.TaskSpec:
    """The simulator's word on the task that `config` names.

    Raises:
        ConfigError: unknown task or option. MissingExtraError: its package is not installed.
    """
    env = sim.make(config.task.name, **OmegaConf.to_container(config.task.env))  # type: ignore[arg-type]
    spec: sim.TaskSpec = env.unwrapped.task_spec  # type: ignore[attr-defined]
    env.close()
    return spec


class Simulation:
    """Makes guarded vector environments of one task."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.task = str(config.task.name)
        self.spec  # noqa: B018 - an unknown task is refused here

    @cached_property
    def spec(self) -> sim.TaskSpec:
        return task_spec(self.config)

    def origin(self, source: str) -> EpisodeOrigin:
        """The metadata of episodes recorded here by `source`."""
        return EpisodeOrigin(self.task, self.spec.robot, self.spec.control_hz, source)

    def vector_env(self, members: int, **kwargs: Any) -> GuardedVectorEnv:
        """`members` arms; every action goes through the action guard, every joint setpoint of a WidowX
        through the command guard, the springs of one that has them through a passivity filter."""
        safety = build(SafetyConfig, self.config.safety, "safety")
        widowx = self.task.startswith("widowx/") and safety.joint_guard
        filters: dict[str, Callable[[], Any]] = {  # by `TaskSpec.port`; picklable
            "joints": partial(GuardFilter, safety.guard()),
            "springs": PassivityFilter,
        }
        env = sim.ParallelVectorEnv(
            self.task,
            members,
            workers=build(CollectConfig, self.config.collect, "collect").workers,
            command_filter_factory=filters[self.spec.port] if widowx else None,
            **OmegaConf.to_container(self.config.task.env),  # type: ignore[arg-type]
            **kwargs,
        )
        return GuardedVectorEnv(env, safety.action)


def counting(bar: ProgressTask) -> Callable[[Episode], None]:
    """A callback that moves `bar` on by one for each episode and shows the success so far."""
    done = wins = 0

    def advance(episode: Episode) -> None:
        nonlocal done, wins
        done += 1
        wins += episode.succeeded
        bar.update(done, f"success {wins / done:.0%}")

    return advance


def arms(env: GuardedVectorEnv) -> sim.ParallelVectorEnv:
    """The simulated arms behind the guard: what a scripted expert looks at."""
    inner = env.unwrapped
    assert isinstance(inner, sim.ParallelVectorEnv)
    return inner
