"""`robot-rl collect`: episodes of experts, of random motion or of a policy, and a share of failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from robot_rl.cli.config import build, resolve
from robot_rl.cli.progress import TerminalProgress
from robot_rl.cli.sections import CollectConfig, TaskConfig
from robot_rl.cli.simulation import Simulation
from robot_rl.cli.verbs import actor, whole_number
from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError
from robot_rl.safety import GuardedVectorEnv
from robot_rl.trainers.protocols import Policy
from robot_rl.trainers.rollout import rollout
from sim import RandomPolicy
from sim.experts import RandomConfig
from sim.tasks import TASKS

T = TypeVar("T")
TRIES = 20
"""Episodes tried for each one wanted, before a portion is given up."""
NEAR_MISS_MOTION = RandomConfig(scale=0.15, pull=0.0)
"""What the arm does in a near miss: it stirs, so that the pictures are not all the same."""


@dataclass(frozen=True)
class Portion:
    """Episodes of one kind.

    Attributes:
        episodes: how many.
        noise: on the expert's actions.
        near_miss: the kind of state they start from, while the arm only stirs; "" = as the task starts.
        success: what counts: success, failure, or (None) either.
    """

    episodes: int
    noise: float
    near_miss: str = ""
    success: bool | None = None


def portions(
    episodes: int,
    noises: Sequence[float],
    failures: float | None,
    near_misses: Sequence[str],
    failing_noise: float,
) -> list[Portion]:
    """Who makes up `episodes`: the noise levels in equal parts; of a share of failures half are near misses.

    Args:
        failures: their share in [0, 1], the rest being successes; None takes episodes as they come.
        near_misses: kinds that the task has. failing_noise: of attempts that are to fail.
    """
    if failures is None:
        return [Portion(n, noise) for n, noise in _dealt(episodes, noises)]
    failing = round(failures * episodes)
    staged = failing // 2 if near_misses else 0
    found = [Portion(n, noise, success=True) for n, noise in _dealt(episodes - failing, noises)]
    found += [Portion(failing - staged, failing_noise, success=False)]
    found += [Portion(n, 0.0, kind, success=False) for n, kind in _dealt(staged, near_misses)]
    return [portion for portion in found if portion.episodes]


def _dealt(number: int, among: Sequence[T]) -> Iterator[tuple[int, T]]:
    """(how many, of what): `number` in equal parts, the first ones larger by one."""
    for index, item in enumerate(among):
        yield number // len(among) + (index < number % len(among)), item


class Collector:
    """Records portions into a store, each batch as soon as it is done; every seed is used once."""

    def __init__(self, simulation: Simulation, env: GuardedVectorEnv, source: str, first_seed: int) -> None:
        self._simulation, self._env, self._source = simulation, env, source
        self._seed = first_seed

    def record(self, portion: Portion) -> Iterator[list[Episode]]:
        """Batches of episodes that count (a batch may be empty), `portion.episodes` in all.

        Raises:
            ConfigError: so few of `TRIES` times as many episodes counted.
        """
        members, wanted, tried = self._env.num_envs, portion.episodes, 0
        policy, origin = self._policy(portion)
        options = {"near_miss": portion.near_miss} if portion.near_miss else None
        while wanted:
            if tried >= TRIES * portion.episodes + 4 * members:
                raise ConfigError(
                    f"only {portion.episodes - wanted} of {tried} episodes of {self._simulation.task} were "
                    f"{'successes' if portion.success else 'failures'} ({portion.episodes} wanted, noise "
                    f"{portion.noise}): what was recorded stands; choose another noise= or failures="
                )
            number = min(wanted if portion.success is None else max(wanted, members), 4 * members)
            seeds = range(self._seed, self._seed + number)
            self._seed += number
            tried += number
            episodes = rollout(
                self._env, policy, seeds, self._simulation.origin(origin), reset_options=options
            )
            chosen = [e for e in episodes if portion.success is None or e.succeeded == portion.success]
            chosen = chosen[:wanted]
            wanted -= len(chosen)
            yield chosen

    def _policy(self, portion: Portion) -> tuple[Policy, str]:
        """Who acts, and the `source` that its episodes name."""
        if portion.near_miss:
            (size,) = self._env.single_action_space.shape or ()
            return RandomPolicy(self._env.num_envs, size, NEAR_MISS_MOTION), f"near_miss {portion.near_miss}"
        return actor(self._source, self._simulation, self._env, portion.noise), Path(self._source).name


def collect(arguments: dict[str, str], overrides: list[str]) -> int:
    """Record episodes into a store."""
    if "workers" in arguments:
        workers = whole_number(arguments, "workers", 2, least=0)
        overrides = [*overrides, f"collect.workers={workers}"]
    config = resolve(overrides)
    task, section = build(TaskConfig, config.task, "task"), build(CollectConfig, config.collect, "collect")
    number = whole_number(arguments, "episodes", 50)
    noises = [_number("noise", text) for text in arguments.get("noise", str(task.demo_noise)).split(",")]
    failures = _number("failures", arguments["failures"], 1.0) if "failures" in arguments else None
    simulation = Simulation(config)
    family, _, name = simulation.task.partition("/")
    near_misses = TASKS[name].near_misses if family == "widowx" and name in TASKS else ()
    plan = portions(number, noises, failures, near_misses, section.perturbed_noise)
    first = whole_number(arguments, "first_seed", schema.SEED_DEMOS, least=0)
    store = EpisodeStore(arguments["out"], create=True)
    env = simulation.vector_env(min(number, section.num_envs), hold_steps=section.hold_steps)
    done = wins = steps = 0
    try:
        collector = Collector(simulation, env, arguments.get("source", "expert"), first)
        with TerminalProgress().task("collect", number) as bar:
            for portion in plan:
                for episodes in collector.record(portion):
                    store.extend(episodes)
                    done += len(episodes)
                    wins += sum(episode.succeeded for episode in episodes)
                    steps += sum(map(len, episodes))
                    bar.update(done)
    finally:
        env.close()
    print(f"{done} episodes ({steps} steps, {wins / done:.0%} successful) added to {store.path}")
    return 0


def _number(name: str, text: str, most: float = float("inf")) -> float:
    """A finite number in [0, most]."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not 0 <= number <= most or number == float("inf"):
        limit = f" of 0 .. {most:g}" if most < float("inf") else " of at least 0"
        raise ConfigError(f"{name}={text!r}; expected a number{limit}")
    return number
