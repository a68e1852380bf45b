"""The short verbs: eval, report, export, bringup."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from robot_rl.agents.policy import ActorPolicy, PolicyRunner
from robot_rl.cli.config import build, resolve, run_config
from robot_rl.cli.progress import TerminalProgress
from robot_rl.cli.recordings import load_runner, random_policy
from robot_rl.cli.report import write_report
from robot_rl.cli.sections import EvaluationConfig, SafetyConfig
from robot_rl.cli.simulation import Simulation, arms, counting, is_widowx, task_spec
from robot_rl.cli.stages import STAGES
from robot_rl.data import schema
from robot_rl.data.artifact import atomic_write, peek_artifact
from robot_rl.data.video import write_video
from robot_rl.errors import ConfigError, DataError
from robot_rl.safety import ActionGuardConfig, GuardConfig, GuardedVectorEnv, GuardFilter
from robot_rl.trainers.bundle import KIND as BUNDLE
from robot_rl.trainers.bundle import PolicyBundle, export_bundle, load_bundle
from robot_rl.trainers.evaluate import evaluate as run_evaluation
from robot_rl.trainers.onnx import export_onnx
from robot_rl.trainers.protocols import Policy
from robot_rl.trainers.run import Run, versions
from sim import ExpertPolicy


def whole_number(arguments: dict[str, str], name: str, default: int, least: int = 1) -> int:
    """The argument `name` as an int of at least `least`."""
    text = arguments.get(name, str(default))
    if not text.isdigit() or int(text) < least:
        raise ConfigError(f"{name}={text!r}; expected a whole number of at least {least}")
    return int(text)


def load_actor(path: str, task: str | None) -> ActorPolicy:
    """A policy checkpoint or the policy of a bundle; `task`: what it must be for.

    Raises:
        DataError: missing, damaged, or for another task.
    """
    expect = {"task": task} if task else None
    kind, _ = peek_artifact(path)
    if kind == BUNDLE:
        return load_bundle(path, expect).policy
    return ActorPolicy.load(path, expect)


def actor(source: str, simulation: Simulation, env: GuardedVectorEnv, noise: float = 0.0) -> Policy:
    """The policy that `source` names: `expert`, `random`, or a checkpoint's path."""
    if source == "expert":
        return ExpertPolicy(arms(env), noise)
    if source == "random":
        return random_policy(simulation.task, env)
    kind, facts = peek_artifact(source)
    if kind == BUNDLE:
        expect = {"task": simulation.task, "robot": simulation.spec.robot}
        return PolicyRunner(load_bundle(source, expect).policy)
    if facts.get("pair"):
        return _one_of_two(source, simulation, facts["pair"])
    return load_runner(source, {"task": simulation.task})


def _one_of_two(source: str, simulation: Simulation, backward: str) -> PolicyRunner:
    """A policy of a task and of `backward`, the one that undoes it, told which of them it is to do.

    Raises:
        DataError: damaged, or neither is the simulated one.
    """
    key = "pair" if backward == simulation.task else "task"
    policy = ActorPolicy.load(source, {key: simulation.task})
    return PolicyRunner(policy, instruction=simulation.spec.instruction)


class BundleSimulation(Simulation):
    """The arm that a bundle is for, behind the bundle's own guards.

    Raises:
        ConfigError: the command line names another arm, or other limits.
    """

    def __init__(self, bundle: PolicyBundle, overrides: list[str]) -> None:
        self.bundle = bundle
        if is_widowx(bundle.task) and not named(overrides, "robot"):
            overrides = [*overrides, f"robot={bundle.robot}"]
        config = resolve(overrides)
        if is_widowx(bundle.task) and config.robot.name != bundle.robot:
            raise ConfigError(
                f"robot={config.robot.name}, and the bundle is for {bundle.robot}: leave it out"
            )
        if named(overrides, "safety") and self._limits(config) != (bundle.guard, bundle.action_guard):
            raise ConfigError(
                "safety= differs from the limits in the bundle, which is evaluated within its own: leave it "
                "out, or export a bundle with these"
            )
        action = bundle.action_guard
        super().__init__(
            resolve(
                [
                    *overrides,
                    f"safety.action.max_change={action.max_change}",
                    f"safety.action.absolute={list(action.absolute)}",
                ]
            )
        )

    def _limits(self, config: DictConfig) -> tuple[GuardConfig | None, ActionGuardConfig]:
        """What `config` asks for: limits of the joints and of actions."""
        safety = build(SafetyConfig, config.safety, "safety")
        guarded = is_widowx(self.bundle.task) and safety.joint_guard
        return safety.guard(self.bundle.robot) if guarded else None, safety.action

    def command_filter(self) -> Callable[[], Any] | None:
        if self.bundle.guard is None or self.spec.port == "springs":
            return super().command_filter()
        return partial(GuardFilter, self.bundle.guard)


def named(overrides: list[str], group: str) -> bool:
    """Whether the command line says something of this config group."""
    return any(text.lstrip("+~").startswith((f"{group}=", f"{group}.")) for text in overrides)


def evaluated(source: str, overrides: list[str]) -> Simulation:
    """Where `source` is evaluated: on the task of a checkpoint unless another is named, with the arm and the
    limits of a bundle."""
    if source in ("expert", "random"):
        return Simulation(resolve(overrides))
    kind, facts = peek_artifact(source)
    if "task" in facts and not any(text.startswith("task=") for text in overrides):
        overrides = [*overrides, f"task={facts['task']}"]
    if kind == BUNDLE:
        return BundleSimulation(load_bundle(source), overrides)
    return Simulation(resolve(overrides))


def evaluate(arguments: dict[str, str], overrides: list[str]) -> int:
    """Success on the evaluation seeds."""
    source = arguments["checkpoint"]
    simulation = evaluated(source, overrides)
    config = simulation.config
    section = build(EvaluationConfig, config.evaluation, "evaluation")
    number = whole_number(arguments, "episodes", section.episodes)
    seeds = range(section.first_seed, section.first_seed + number)
    env = simulation.vector_env(min(number, config.collect.num_envs))
    try:
        policy = actor(source, simulation, env)
        with TerminalProgress().task("evaluate", number) as bar:
            result, episodes = run_evaluation(
                env, policy, seeds, simulation.origin(source), counting(bar), keep_images="video" in arguments
            )
    finally:
        env.close()
    success = result.summary()
    curtailed = sum(result.curtailed) / sum(result.steps)
    print(
        f"{simulation.task}: success {success['mean']:.1%} [{success['low']:.1%}, {success['high']:.1%}] "
        f"of {number} episodes ({section.seeds} seeds), {np.mean(result.steps):.1f} steps an episode, "
        f"{curtailed:.1%} of steps curtailed by the guard"
    )
    if "video" in arguments:
        frames = np.concatenate([episode.observations[schema.IMAGE] for episode in episodes[:8]])
        write_video(Path(arguments["video"]), frames, fps=8, scale=4)
        print(f"video: {arguments['video']}")
    if "json" in arguments:
        content = {
            "task": simulation.task,
            "checkpoint": source,
            "success": success,
            "episodes": asdict(result),
        }
        atomic_write(Path(arguments["json"]), json.dumps(content).encode())
    return 0


def report(arguments: dict[str, str], overrides: list[str]) -> int:
    """report.html again."""
    print(f"report: {write_report(Run(Path(arguments['run'])).path)}")
    return 0


def export(arguments: dict[str, str], overrides: list[str]) -> int:
    """The policy bundle of a run."""
    run = Run(Path(arguments["run"]))
    made = [name for name, stage in STAGES.items() if stage.policy == name and run.done(name)]
    if not made:
        raise DataError(f"{run.path} holds no finished policy: robot-rl pipeline resume={run.path}")
    stage = arguments.get("stage", made[-1])
    if stage not in made:
        raise ConfigError(f"stage={stage!r} has no policy in {run.path}; expected one of {', '.join(made)}")
    config = run_config(run)
    safety = build(SafetyConfig, config.safety, "safety")
    spec = task_spec(config)
    out = Path(arguments.get("out", run.path / "bundle"))
    export_bundle(
        run.stage_dir(stage) / "policy",
        out,
        task=spec.name,
        robot=spec.robot,
        instruction=spec.instruction,
        control_hz=spec.control_hz,
        guard=safety.guard(spec.robot) if is_widowx(spec.name) else None,
        action_guard=safety.action,
        metadata={"stage": stage, "run": run.path.name, "versions": versions()},
    )
    bundle = load_bundle(out)
    print(f"bundle: {out} (policy of stage {stage}, every hash checked)")
    if "onnx" in arguments:
        file = out.with_name(f"{out.name}.onnx")
        difference = export_onnx(bundle.policy, file)
        print(f"onnx: {file} (actions within {difference:.1e} of torch's)")
    return 0


def bringup(arguments: dict[str, str], overrides: list[str]) -> int:
    """The ROS 2 graph, from pip alone. Only here does the command line reach for the nodes' package."""
    graph: Any = importlib.import_module("robot_rl_ros.bringup")
    number = whole_number(arguments, "episodes", 1, least=0)
    seed = whole_number(arguments, "first_seed", schema.SEED_HELD_OUT, least=0)
    lockstep = arguments.get("lockstep", "false")
    if lockstep not in ("true", "false"):
        raise ConfigError(f"lockstep={lockstep!r}; expected true or false")
    age = arguments.get("max_age_s", "0")
    if not age.replace(".", "", 1).isdigit():
        raise ConfigError(f"max_age_s={age!r}; expected a number of seconds")

    def show(outcome: Any) -> None:
        end = (
            "success" if outcome.success else f"no success{', ' + outcome.stopped if outcome.stopped else ''}"
        )
        factor = outcome.real_time_factor
        pace = f", real-time factor {factor:.2f}" if factor else ""
        recorded = f", {outcome.recorded}" if outcome.recorded else ""
        print(f"episode {outcome.seed}: {end}, {outcome.duration_s:.1f} s{pace}{recorded}", flush=True)

    outcomes = graph.bringup(
        arguments["bundle"],
        episodes=number,
        seed=seed,
        lockstep=lockstep == "true",
        max_age_s=float(age),
        reward=arguments.get("reward", ""),
        record=arguments.get("record", ""),
        on_episode=show,
    )
    wins = sum(outcome.success for outcome in outcomes)
    print(f"{wins} of {len(outcomes)} episodes succeeded")
    return 0
