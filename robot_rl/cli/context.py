"""What every verb and stage needs: the resolved config, the run, the task, progress."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf

from robot_rl.agents.algorithms import AlgorithmConfig
from robot_rl.cli.config import build, resolve, run_config
from robot_rl.cli.progress import TerminalProgress
from robot_rl.cli.sections import SECTIONS, CollectConfig, EvaluationConfig, OnlineStageConfig, TaskConfig
from robot_rl.cli.simulation import Simulation, backward_task, counting
from robot_rl.data.episode import Episode
from robot_rl.data.formats import open_dataset
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError, DataError, unknown
from robot_rl.safety import GuardedVectorEnv
from robot_rl.trainers.evaluate import Evaluation, evaluate
from robot_rl.trainers.loop import LoopConfig, Progress, train
from robot_rl.trainers.protocols import Learner, Policy
from robot_rl.trainers.rollout import rollout
from robot_rl.trainers.run import Run, command_line
from world_model.parallel import Group

T = TypeVar("T")
DEVICES = ("auto", "cpu", "cuda")


@dataclass
class Context:
    """A resolved config at work in a run directory."""

    config: DictConfig
    run: Run
    progress: Progress = field(default_factory=TerminalProgress)
    dataset: list[Episode] | None = None
    """Recorded episodes that take the place of simulated demonstrations; nothing is then simulated."""
    group: Group = field(default_factory=Group)
    """The processes that train the world model together."""
    trained_before_s: dict[str, float] = field(default_factory=dict)
    """What was fitted in this process, by name, and the seconds that earlier ones trained it."""

    @classmethod
    def open(cls, arguments: Mapping[str, str], overrides: list[str]) -> Context:
        """A new run, one that `run=` names and whose config is the same, or with `resume=` an old one.

        Raises:
            ConfigError: overrides beside resume=, or a directory that is in use.
            DataError: the dataset is missing or damaged, or holds episodes without actions.
        """
        if "resume" in arguments:
            if overrides or "run" in arguments:
                extra = overrides[0] if overrides else f"run={arguments['run']}"
                raise ConfigError(f"resume= goes on with the run's own configuration; remove {extra}")
            run = Run(Path(arguments["resume"]))
            config = run_config(run)
            dataset = _dataset(config)
        else:
            if "dataset" in arguments and not any(text.startswith("agent=") for text in overrides):
                overrides = ["agent=recorded", *overrides]  # nothing but the recording: less to learn from
            config = resolve(overrides)
            config.dataset = arguments.get("dataset")
            _validate(config)
            dataset = _dataset(config)  # refused before a directory is made
            slug = config.task.name.replace("/", "_")
            default = Path(config.runs) / f"{time.strftime('%Y%m%d-%H%M%S')}_{slug}_{config.preset_name}"
            path = Path(arguments.get("run", default))
            remedy = f"go on with resume={path}, or choose another run="
            run = Run.again(path, OmegaConf.to_yaml(config), command_line(), remedy)
        torch.set_num_threads(config.threads or torch.get_num_threads())
        return cls(config, run, dataset=dataset)

    def section(self, name: str, kind: type[T]) -> T:
        """A validated dataclass from the config's section `name`."""
        return build(kind, self.config[name], name)

    @cached_property
    def device(self) -> torch.device:
        """Where networks train.

        Raises:
            ConfigError: no such device here.
        """
        return choose_device(self.config.get("device", "cpu"))  # runs of old have none

    @property
    def task(self) -> str:
        return str(self.config.task.name)

    @property
    def seed(self) -> int:
        return int(self.config.seed)

    @cached_property
    def simulation(self) -> Simulation:
        """The simulator of this run's task.

        Raises:
            ConfigError: the run learns from recorded episodes, of which no simulator is known.
        """
        if self.dataset is not None:
            raise ConfigError(
                f"{self.run.path} learns from dataset={self.config.dataset}, which nothing simulates: "
                "what needs a simulator needs a run without dataset="
            )
        return Simulation(self.config)

    @cached_property
    def simulations(self) -> tuple[Simulation, ...]:
        """That of the run's task and, with `task.pair`, that of the task which undoes it."""
        if not self.section("task", TaskConfig).pair:
            return (self.simulation,)
        return self.simulation, Simulation(self.config, backward_task(self.config))

    def mirror(self) -> None:
        """Log to Weights & Biases as well, if the configuration asks for it."""
        if self.config.wandb:
            self.run.mirror_to_wandb(self.config.wandb, OmegaConf.to_container(self.config))  # type: ignore[arg-type]

    def fit(self, stage: str, learner: Learner) -> None:
        """Train `learner` in the run's one loop."""
        started = time.monotonic()
        spent = train(learner, self.run, stage, self.section("loop", LoopConfig), self.progress)
        self.trained_before_s[stage] = max(0.0, spent - (time.monotonic() - started))

    def policy_metadata(self, episode: Episode) -> dict[str, Any]:
        """What a policy checkpoint says of the episodes that it was trained on."""
        facts = episode.metadata
        pair = {"pair": backward_task(self.config)} if self.section("task", TaskConfig).pair else {}
        return pair | {
            "task": facts.task,
            "instruction": facts.instruction,
            "robot": facts.robot,
            "control_hz": facts.control_hz,
        }

    def _vector_env(self, simulation: Simulation, episodes: int, **kwargs: Any) -> GuardedVectorEnv:
        """As many arms as the config allows and `episodes` can use."""
        return simulation.vector_env(min(episodes, self.section("collect", CollectConfig).num_envs), **kwargs)

    def episodes(
        self,
        name: str,
        seeds: Sequence[int],
        source: str,
        policy: Callable[[GuardedVectorEnv], Policy],
        **env_kwargs: Any,
    ) -> list[Episode]:
        """The run's episodes `name`, recorded on the first call and read on every later one.

        With `task.pair` as many again of the backward task, in `NAME_backward`. They are written once all are
        recorded, so that an interrupted recording starts again and a resumed run holds the same episodes as
        an uninterrupted one.
        """
        found: list[Episode] = []
        for simulation, suffix in zip(self.simulations, ("", "_backward"), strict=False):
            found += self._recorded(simulation, name + suffix, seeds, source, policy, **env_kwargs)
        return found

    def _recorded(
        self,
        simulation: Simulation,
        name: str,
        seeds: Sequence[int],
        source: str,
        policy: Callable[[GuardedVectorEnv], Policy],
        **env_kwargs: Any,
    ) -> list[Episode]:
        folder = self.run.data_dir(name)
        store = EpisodeStore(folder, create=True)
        if len(store) == len(seeds):
            return store.load_all()
        if not len(seeds):
            return []
        env = self._vector_env(simulation, len(seeds), **env_kwargs)
        try:
            with self.progress.task(f"record {name}", len(seeds)) as bar:
                episodes = rollout(
                    env, policy(env), seeds, simulation.origin(source), on_episode=counting(bar)
                )
        finally:
            env.close()
        shutil.rmtree(folder)
        EpisodeStore(folder, create=True).extend(episodes)
        return episodes

    def evaluate(
        self, policy: Policy, source: str, simulation: Simulation | None = None
    ) -> tuple[Evaluation, list[Episode]]:
        """Success on the evaluation seeds, by the simulator's truth; at the run's task, or another's."""
        simulation = simulation or self.simulation
        config = self.section("evaluation", EvaluationConfig)
        number = config.episodes
        seeds = range(config.first_seed, config.first_seed + number)
        env = self._vector_env(simulation, number)
        try:
            with self.progress.task("evaluate", number) as bar:
                return evaluate(
                    env,
                    policy,
                    seeds,
                    simulation.origin(source),
                    on_episode=counting(bar),
                    keep_images=True,
                )
        finally:
            env.close()


def choose_device(name: str) -> torch.device:
    """`auto` (a GPU where there is one), `cpu` or `cuda`.

    Raises:
        ConfigError: another name, or cuda where there is none.
    """
    if name not in DEVICES:
        raise unknown("device", str(name), DEVICES)
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda, and torch finds no GPU here; expected device=auto or device=cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def open_datasets(spec: str) -> list[Episode]:
    """The episodes of one dataset, or of several with a plus between: store:A+store:B."""
    if "+" not in spec or Path(spec.partition(":")[2] or spec).exists():
        return open_dataset(spec)
    return [episode for part in spec.split("+") for episode in open_dataset(part)]


def _dataset(config: DictConfig) -> list[Episode] | None:
    """The recorded episodes that `config` names.

    Raises:
        DataError: missing or damaged, or there are episodes whose actions mean nothing.
    """
    if not config.dataset:
        return None
    episodes = open_datasets(config.dataset)
    if free := sum(episode.action_free for episode in episodes):
        raise DataError(
            f"{free} of {len(episodes)} episodes of {config.dataset} have no actions; label them first: "
            "robot-rl label-actions"
        )
    return episodes


def _validate(config: DictConfig) -> None:
    """Refuse a bad value now rather than when its stage comes: every section, and the task."""
    for name, kind in SECTIONS.items():
        build(kind, config[name], name)
    choose_device(config.device)
    simulation = Simulation(config)
    online = build(OnlineStageConfig, config.online, "online")
    reset_free = online.reset_free
    if online.mode == "actors":
        algorithm = build(AlgorithmConfig, config.algorithm, "algorithm")
        if algorithm.online == "rlpd" and algorithm.random_steps:
            raise ConfigError(
                f"algorithm.random_steps={algorithm.random_steps} with online.mode=actors, which act by the "
                "policy from the start; expected 0"
            )
    if reset_free is not None and simulation.spec.port != "joints":
        raise ConfigError(
            f"online.reset_free with {simulation.task}, whose arm hangs on springs; expected null"
        )
    pair = build(TaskConfig, config.task, "task").pair
    if pair:
        backward_task(config)
        if not config.policy.language_dim or config.world_model.model.language == "none":
            raise ConfigError(
                f"task.pair=true with policy.language_dim={config.policy.language_dim}, world_model.model."
                f"language={config.world_model.model.language}; expected both to read the instruction: "
                "practice=reset_free sets them"
            )
    elif reset_free is not None:
        raise ConfigError("online.reset_free with task.pair=false; expected task.pair=true")
