"""The guarded simulator that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from gymnasium.vector import VectorEnv
from omegaconf import DictConfig, OmegaConf

import sim
from robot_rl.cli.config import build
from robot_rl.cli.sections import CollectConfig, SafetyConfig
from robot_rl.data.episode import Episode
from robot_rl.errors import ConfigError
from robot_rl.safety import GuardedVectorEnv, GuardFilter, PassivityFilter
from robot_rl.trainers.instructed import Instructed
from robot_rl.trainers.loop import ProgressTask
from robot_rl.trainers.rollout import EpisodeOrigin
from sim.tasks import TASKS


def is_widowx(task: str) -> bool:
    """Whether a task is the project's own, on one of its arms."""
    return task.startswith("widowx/")


def env_options(config: DictConfig) -> dict[str, Any]:
    """Options for `sim.make`: those of the task, on the arm of the `robot` group where we can choose."""
    robot = {"robot": str(config.robot.name)} if is_widowx(config.task.name) else {}
    return {**robot, **OmegaConf.to_container(config.task.env)}  # type: ignore[dict-item]


def task_spec(config: DictConfig, task: str = "") -> sim.TaskSpec:
    """The simulator's word on `task`, or on the one that `config` names.

    Raises:
        ConfigError: unknown task or option. MissingExtraError: its package is not installed.
    """
    env = sim.make(task or config.task.name, **env_options(config))
    spec: sim.TaskSpec = env.unwrapped.task_spec  # type: ignore[attr-defined]
    env.close()
    return spec


def backward_task(config: DictConfig) -> str:
    """The task that undoes the one that `config` names.

    Raises:
        ConfigError: there is none.
    """
    family, _, short = str(config.task.name).partition("/")
    pair = TASKS[short].pair if family == "widowx" and short in TASKS else ""
    if not pair:
        pairs = sorted(f"widowx/{name}" for name, each in TASKS.items() if each.pair)
        raise ConfigError(
            f"task.pair=true, and no task undoes {config.task.name}; expected one of {', '.join(pairs)}"
        )
    return pair


class Simulation:
    """Makes guarded vector environments of one task: that of `config`, or `task` with its arm and options."""

    def __init__(self, config: DictConfig, task: str = "") -> None:
        self.config = config
        self.task = task or str(config.task.name)
        self.spec  # noqa: B018 - an unknown task is refused here

    @cached_property
    def spec(self) -> sim.TaskSpec:
        return task_spec(self.config, self.task)

    def origin(self, source: str) -> EpisodeOrigin:
        """The metadata of episodes recorded here by `source`."""
        return EpisodeOrigin(self.task, self.spec.robot, self.spec.control_hz, source)

    def command_filter(self) -> Callable[[], Any] | None:
        """What makes the filter of one arm, picklable, or None: the command guard for the joint setpoints of
        a WidowX, a passivity filter for the springs of one that has them."""
        safety = build(SafetyConfig, self.config.safety, "safety")
        if not (is_widowx(self.task) and safety.joint_guard):
            return None
        if self.spec.port == "springs":
            return PassivityFilter
        return partial(GuardFilter, safety.guard(self.spec.robot))

    def vector_env(self, members: int, **kwargs: Any) -> GuardedVectorEnv:
        """`members` arms; every action goes through the action guard, every command of a WidowX through its
        command filter. With `task.pair` the policy is told each member's instruction."""
        env: VectorEnv = sim.ParallelVectorEnv(
            self.task,
            members,
            workers=build(CollectConfig, self.config.collect, "collect").workers,
            command_filter_factory=self.command_filter(),
            **env_options(self.config),
            **kwargs,
        )
        if self.config.task.get("pair"):
            env = Instructed(env, int(self.config.policy.language_dim))
        return GuardedVectorEnv(env, build(SafetyConfig, self.config.safety, "safety").action)


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
