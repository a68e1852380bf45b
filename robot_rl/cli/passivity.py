"""One cell of the passivity study: a policy trained aware or not aware of its energy, judged with and without
the filter.

Aware: the passivity filter stands in the loop from the first demonstration on, the tank and the last scale
are in the observation, what the filter cut costs, and the cost is kept under its limit by SAC with a cost
critic and a PID-Lagrangian. Agnostic: no filter, no cost, and a tank that always reads full. All else is
equal: task, reward, demonstrations' seeds, networks, sizes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorWrapper

import sim
from robot_rl.agents.bc import BCConfig, BCLearner
from robot_rl.agents.lagrangian import LagrangianConfig
from robot_rl.agents.policy import ActorPolicy, PolicyConfig, PolicyRunner
from robot_rl.agents.sac import SACConfig
from robot_rl.agents.safe_sac import SafeSACConfig, SafeWSRL
from robot_rl.agents.wsrl import WSRL, WSRLConfig
from robot_rl.data import schema
from robot_rl.data.artifact import atomic_write
from robot_rl.data.episode import Episode
from robot_rl.data.replay import ReplayConfig
from robot_rl.data.statistics import Statistics
from robot_rl.errors import ConfigError
from robot_rl.safety import ActionGuard, ActionGuardConfig, GuardedVectorEnv, PassivityConfig, PassivityFilter
from robot_rl.trainers.loop import Progress, train
from robot_rl.trainers.online import OnlineConfig, OnlineLearner
from robot_rl.trainers.protocols import Observations
from robot_rl.trainers.rollout import EpisodeOrigin, rollout
from robot_rl.trainers.run import Run, command_line
from sim.peg import FULL_TANK, PegArm

TASK = "widowx/maze"
VARIANTS = ("aware", "agnostic")
FILTERS = ("filter", "none")
TOLERANCE_J = 0.002
"""The ledger integrates dissipation over 10 ms: from this much over the budget it is a violation [J]."""
GUARD = ActionGuardConfig(max_change=2.0, absolute=(2, 3))


@dataclass(frozen=True)
class PassivityStudyConfig:
    """Attributes:
    seeds: of training; each is a policy of both variants.
    demos, demo_noise, bc_updates, critic_warmup: what both variants start from: a clone of demonstrations,
        and critics after so many steps on them.
    episodes: of practice. evaluation: held-out episodes for each policy and filter.
    tank_max_j, tank_min_j: the filter's tank; their difference is the energy budget of an episode [J]. A
        careful hand needs at most 0.25 J at once, the noisy demonstrations mostly more than 0.4.
    cost_limit: of an episode's mean cost, about the number of curtailed steps.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    demos: int = 40
    demo_noise: float = 0.6
    bc_updates: int = 1000
    critic_warmup: int = 500
    episodes: int = 600
    episodes_per_update: int = 8
    utd: float = 0.5
    gamma: float = 0.97
    evaluation: int = 50
    tank_max_j: float = 0.4
    tank_min_j: float = 0.1
    cost_limit: float = 0.4
    hidden: tuple[int, ...] = (128, 128)
    passivity: PassivityConfig = field(init=False)

    def __post_init__(self) -> None:
        if (
            not self.seeds
            or len(set(self.seeds)) != len(self.seeds)
            or not set(self.seeds) <= set(range(schema.RUNS))
        ):
            raise ConfigError(f"study seeds={self.seeds}; expected different ones, 0 to {schema.RUNS - 1}")
        for name in ("demos", "bc_updates", "episodes_per_update", "evaluation"):
            if getattr(self, name) < 1:
                raise ConfigError(f"study {name}={getattr(self, name)}; expected at least 1")
        if self.episodes <= self.episodes_per_update:
            raise ConfigError(
                f"study episodes={self.episodes}; expected more than one round of {self.episodes_per_update}"
            )
        passivity = PassivityConfig(tank_max_j=self.tank_max_j, tank_min_j=self.tank_min_j)
        object.__setattr__(self, "passivity", passivity)

    @property
    def budget_j(self) -> float:
        """Most that an episode may inject beyond what its dampers took out again [J]."""
        return self.tank_max_j - self.tank_min_j

    @classmethod
    def quick(cls) -> PassivityStudyConfig:
        """Sizes for a test: everything runs, nothing is claimed."""
        return cls(
            seeds=(0,), demos=3, bc_updates=40, critic_warmup=5, episodes=4, episodes_per_update=2, utd=0.2,
            evaluation=2, hidden=(16,),
        )  # fmt: skip


def blinded(observations: Observations) -> Observations:
    """`observations` (N, ...) in which the tank reads full and the last scale 1."""
    state = observations[schema.STATE].copy()
    state[:, [PegArm.state_names.index(name) for name in ("tank", "scale")]] = FULL_TANK, 1.0
    return {**observations, schema.STATE: state}


class BlindEnv(VectorWrapper):
    """What an agnostic policy is trained in: it never sees the tank."""

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observations, info = self.env.reset(seed=seed, options=options)
        return blinded(observations), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, *rest = self.env.step(actions)
        return (blinded(observations), *rest)  # type: ignore[return-value]


def cell(out: Path, variant: str, seed: int, config: PassivityStudyConfig, progress: Progress) -> Path:
    """Train one policy and judge it on the same held-out seeds with and without the filter.

    Goes on where an earlier call stopped. Returns the run's directory, which then holds `evaluation.json`.
    """
    torch.set_num_threads(1)
    path = out / f"{variant}_{seed}"
    settings = dataclasses.asdict(config) | {"variant": variant, "seed": seed}
    del settings["seeds"]  # others may be added later
    text = json.dumps(settings, indent=2)
    run = Run.again(path, text, command_line(), "remove it, or choose another out=")  # JSON is YAML
    if not run.done("online"):
        _train(run, variant, seed, config, progress)
    if not (path / "evaluation.json").exists():
        policy = ActorPolicy.load(run.stage_dir("online") / "policy", {"task": TASK})
        result = {name: evaluate(policy, variant, name == "filter", config) for name in FILTERS}
        atomic_write(path / "evaluation.json", json.dumps(result).encode())
    run.close()
    return path


def _train(run: Run, variant: str, seed: int, config: PassivityStudyConfig, progress: Progress) -> None:
    aware = variant == "aware"
    spring_filter: Any = functools.partial(PassivityFilter, config.passivity) if aware else None
    guarded = GuardedVectorEnv(
        sim.ParallelVectorEnv(
            TASK,
            min(4, config.episodes_per_update),
            workers=0,
            command_filter_factory=spring_filter,
            cameras=(),
        ),
        GUARD,
    )
    env = guarded if aware else BlindEnv(guarded)
    try:
        spec = env.unwrapped.task_spec  # type: ignore[attr-defined]
        origin = EpisodeOrigin(TASK, spec.robot, spec.control_hz, variant)
        first = schema.SEED_DEMOS + seed * schema.RUN_SEEDS
        expert = sim.ExpertPolicy(env.unwrapped, config.demo_noise)  # type: ignore[arg-type]
        demos = rollout(env, expert, range(first, first + config.demos), origin)
        policy = _policy(demos, seed, config)
        train(
            BCLearner(policy, demos, BCConfig(updates=config.bc_updates, seed=seed)),
            run,
            "bc",
            None,
            progress,
        )
        agent = _agent(policy, aware, seed, config)
        for demo in demos:
            agent.add_episode(demo)
        for _ in range(config.critic_warmup if run.load_state("online") is None else 0):
            agent.agent.update(agent.buffer.sample(agent.config.batch, agent.agent.generator), actor=False)
        learner = OnlineLearner(
            env,
            agent,
            origin,
            OnlineConfig(config.episodes, config.episodes_per_update, config.episodes_per_update, config.utd),
            schema.SEED_ONLINE + seed * schema.RUN_SEEDS,
        )
        spent = train(learner, run, "online", None, progress)
        policy.save(run.stage_dir("online") / "policy", {"task": TASK})
        run.mark_done("online", {"time_s": spent} | learner.interventions(), fitted=("bc",))
    finally:
        env.close()


def _policy(demos: list[Episode], seed: int, config: PassivityStudyConfig) -> ActorPolicy:
    return ActorPolicy(
        PolicyConfig(
            state_dim=len(PegArm.state_names),
            action_dim=len(PegArm.action_names),
            image_shape=None,
            hidden=config.hidden,
            min_std=0.05,
            max_std=0.5,
            seed=seed,
        ),
        Statistics.from_episodes(demos),
    )


def _agent(policy: ActorPolicy, aware: bool, seed: int, config: PassivityStudyConfig) -> WSRL:
    wsrl = WSRLConfig(
        sac=SACConfig(
            critics=4,
            hidden=config.hidden,
            # Young critics lead a clone astray unless these hold it: a temperature of .02 with bc_weight .1
            # took one from 100 % success to none within 500 updates.
            actor_lr=1e-4,
            bc_weight=0.5,
            anchor_half_life=5000,
            temperature=0.002,
            seed=seed,
        ),
        replay=ReplayConfig(capacity=100_000, gamma=config.gamma),
        batch=128,
        critic_steps=2,
        seed=seed,
    )
    if not aware:
        return WSRL(policy, wsrl)
    return SafeWSRL(policy, wsrl, SafeSACConfig(lagrangian=LagrangianConfig(limit=config.cost_limit)))


def evaluate(
    policy: ActorPolicy, variant: str, filtered: bool, config: PassivityStudyConfig
) -> dict[str, list[float]]:
    """One entry an episode: `seed`, `success`, `steps`, `curtailed` steps, `energy` injected [J],
    `peak_net_energy` [J] beyond what was dissipated again, and `peak_force` [N]."""
    env = sim.make(TASK, cameras=())
    # Without a filter an aware policy reads what a tank of the same size would hold, which limits nothing.
    env.unwrapped.scene.arm.full_tank = config.tank_max_j  # type: ignore[attr-defined]
    if filtered:
        env.unwrapped.set_command_filter(PassivityFilter(config.passivity))  # type: ignore[attr-defined]
    runner = PolicyRunner(policy)
    guard = ActionGuard(1, len(PegArm.action_names), GUARD)
    names = ("seed", "success", "steps", "curtailed", "energy", "peak_net_energy", "peak_force")
    result: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(schema.SEED_HELD_OUT, schema.SEED_HELD_OUT + config.evaluation):
        for name, value in _episode(env, runner, guard, seed, variant == "agnostic").items():
            result[name].append(value)
    env.close()
    return result


def _episode(
    env: Any, runner: PolicyRunner, guard: ActionGuard, seed: int, blind: bool
) -> Mapping[str, float]:
    observation, _ = env.reset(seed=seed)
    runner.reset(np.ones(1, bool), np.array([seed]))
    guard.reset()
    steps = curtailed = 0
    energy = force = 0.0
    while True:
        seen = {key: value[None] for key, value in observation.items()}
        action, reasons = guard.step(runner.act(blinded(seen) if blind else seen))
        observation, _, terminated, truncated, info = env.step(action[0])
        steps += 1
        curtailed += bool(reasons[0] or info["filter_reason"])
        energy += info["energy"]
        force = max(force, info["peak_force"])
        if terminated or truncated:
            return {
                "seed": seed, "success": float(terminated), "steps": steps, "curtailed": curtailed,
                "energy": energy, "peak_net_energy": info["peak_net_energy"], "peak_force": force,
            }  # fmt: skip
