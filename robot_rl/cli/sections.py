"""The sections of the configuration: each is the dataclass of the part that it configures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from reward_vlm import RewardConfig, RewardWrapperConfig
from robot_rl.agents.algorithms import AlgorithmConfig
from robot_rl.agents.bc import BCConfig
from robot_rl.agents.calql import CalQLConfig
from robot_rl.agents.policy import PolicyConfig
from robot_rl.agents.wsrl import WSRLConfig
from robot_rl.data import schema
from robot_rl.data.replay import ReplayConfig
from robot_rl.errors import ConfigError, unknown
from robot_rl.safety import GuardConfig, PassivityConfig
from robot_rl.safety.action_guard import ActionGuardConfig
from robot_rl.safety.passivity_config import ROBOTS
from robot_rl.trainers.actors import ActorsConfig
from robot_rl.trainers.forward_backward import ResetFreeConfig
from robot_rl.trainers.imagined import RefineConfig
from robot_rl.trainers.loop import LoopConfig
from robot_rl.trainers.online import OnlineConfig
from world_model.config import WorldModelLearnerConfig
from world_model.env import WorldModelEnvConfig


@dataclass(frozen=True)
class TaskConfig:
    """A task and what is its own.

    Attributes:
        name: `widowx/push`, `metaworld/<env_name>`, `robosuite/<Env>`.
        demo_noise: standard deviation of the noise on the demonstrator's actions, which are in [-1, 1]; of a
            WidowX task its own `Task.demo_noise`, unless given.
        env: options for `sim.make`.
        pair: whether every stage learns the task that undoes this one as well: one policy for both, which
            is told the instruction.
    """

    name: str = "widowx/push"
    demo_noise: float = 0.3
    env: dict[str, object] = field(default_factory=dict)
    pair: bool = False


@dataclass(frozen=True)
class CollectConfig:
    """What is recorded, and on how many simulated arms.

    Attributes:
        demos: noisy demonstrations; all that `bc` sees.
        policy: rollouts of the cloned policy with its own exploration noise.
        perturbed: demonstrations under noise of up to `perturbed_noise`.
        random: episodes of random motion.
        refined: rollouts of the refined policy, for the offline stage.
        hold_steps: steps that a recorded episode goes on after success, so that success is seen.
        num_envs, workers: members of the vector environment and processes that step them.
    """

    demos: int = 50
    policy: int = 160
    perturbed: int = 120
    perturbed_noise: float = 1.0
    random: int = 30
    refined: int = 80
    hold_steps: int = 4
    num_envs: int = 32
    workers: int = 2

    def __post_init__(self) -> None:
        if self.demos < 2 or min(self.policy, self.perturbed, self.random, self.refined) < 0:
            raise ConfigError(f"expected demos >= 2 and no negative count, got {self}")
        if self.num_envs < 1 or self.workers < 0 or self.hold_steps < 1:
            raise ConfigError(
                f"num_envs={self.num_envs}, workers={self.workers}, hold_steps={self.hold_steps}; "
                "expected at least 1, 0 and 1"
            )


@dataclass(frozen=True)
class EvaluationConfig:
    """Attributes:
    episodes: seeds a policy is judged on.
    seeds: `held_out`, which results are quoted on, or `validation`, to tune on.
    """

    episodes: int = 200
    seeds: Literal["held_out", "validation"] = "held_out"

    @property
    def first_seed(self) -> int:
        return schema.SEED_HELD_OUT if self.seeds == "held_out" else schema.SEED_VALIDATION

    def __post_init__(self) -> None:
        if self.seeds not in ("held_out", "validation"):
            raise unknown("evaluation seeds", self.seeds, ("held_out", "validation"))
        if self.episodes < 1:
            raise ConfigError(f"episodes={self.episodes}; expected at least 1")


@dataclass(frozen=True)
class SafetyConfig:
    """Attributes:
    joint_guard: whether each 50 Hz joint setpoint goes through the `CommandGuard` (WidowX tasks).
    passivity: the guard's last check: `off`; `energy_bounded`, the default budget; `passive`, no inflow.
    tank_j, power_w: that budget: brim of the tank [J] and inflow [W].
    action: the guard of every action.
    """

    joint_guard: bool = True
    passivity: Literal["off", "passive", "energy_bounded"] = "off"
    tank_j: float = 4.0
    power_w: float = 2.0
    action: ActionGuardConfig = field(default_factory=ActionGuardConfig)

    def guard(self, robot: str) -> GuardConfig:
        """The command guard of a WidowX.

        Raises:
            ConfigError: an arm whose limits are not known.
        """
        if self.passivity == "off":
            return GuardConfig.of_robot(robot)
        power = self.power_w if self.passivity == "energy_bounded" else 0.0
        budget = PassivityConfig.of_robot(robot, mode=self.passivity, tank_max_j=self.tank_j, power_w=power)
        return GuardConfig.of_robot(robot, passivity=budget)

    def __post_init__(self) -> None:
        for robot in ROBOTS:
            self.guard(robot)  # a budget that cannot hold is refused here


@dataclass(frozen=True)
class ImaginationConfig:
    """The refine stage: PPO inside the world model.

    Attributes:
        learner: how the policy is refined. env: how imagined episodes begin and end.
        model: a world model to refine in, such as a frozen one of many tasks; empty: the run's own.
        judge: a reward model that calls success in the place of the world model's head; empty: the head.
        held_out: share of the recorded episodes that only measurements start from.
        refresh_episodes: episodes of the refined policy that the world model then learns from, before a
            second refinement that starts there; 0: none. refresh_updates: of the world model.
    """

    learner: RefineConfig = field(default_factory=RefineConfig)
    env: WorldModelEnvConfig = field(default_factory=WorldModelEnvConfig)
    model: str = ""
    judge: str = ""
    held_out: float = 0.0
    refresh_episodes: int = 0
    refresh_updates: int = 400

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1 or self.refresh_episodes < 0 or self.refresh_updates < 1:
            raise ConfigError(
                f"held_out={self.held_out}, refresh_episodes={self.refresh_episodes}, "
                f"refresh_updates={self.refresh_updates}; expected a share in [0, 1), at least 0 and 1"
            )


@dataclass(frozen=True)
class OfflineConfig:
    """The offline stage.

    Attributes:
        learner: Cal-QL; its `sac`, `updates`, `batch` and `critic_only` hold for every algorithm.
        replay: the labelled transitions, all of which it must hold.
        trajectory_weighting: temperature at which better trajectories are drawn more often than others
            (`robot_rl.data.measures.trajectory_weights`; the paper's .1); 0 draws all alike.
        imagined: share of each batch that comes from imagined episodes of the refined policy.
        imagined_episodes: how many are imagined, if that share is above 0.
    """

    learner: CalQLConfig = field(default_factory=CalQLConfig)
    replay: ReplayConfig = field(default_factory=lambda: ReplayConfig(capacity=100_000))
    trajectory_weighting: float = 0.0
    imagined: float = 0.0
    imagined_episodes: int = 128

    def __post_init__(self) -> None:
        if self.trajectory_weighting < 0:
            raise ConfigError(f"trajectory_weighting={self.trajectory_weighting}; expected at least 0")
        if not 0 <= self.imagined < 1 or self.imagined_episodes < 1:
            raise ConfigError(
                f"imagined={self.imagined}, imagined_episodes={self.imagined_episodes}; "
                "expected a share in [0, 1) and at least 1 episode"
            )


@dataclass(frozen=True)
class OnlineStageConfig:
    """The online stage.

    Attributes:
        practice: how much of it. agent: WSRL. reward: what a judged step is worth.
        reset_free: how a task and the one that undoes it take turns in one scene (needs `task.pair`); None:
            each episode begins in a new scene, with the task itself.
        person: who may take over the first arm: `nobody`, or somebody at the `keys` of a window; their steps
            go to the offline buffer as well, so part of each batch must come from it.
        mode: `synchronous`: this process practises and learns in turn; `actors`: processes practise while
            this one learns. actors: those processes.
        record: whether every episode of practice is kept in `data/online`; with actors it always is.
    """

    practice: OnlineConfig = field(default_factory=OnlineConfig)
    agent: WSRLConfig = field(default_factory=WSRLConfig)
    reward: RewardWrapperConfig = field(default_factory=RewardWrapperConfig)
    reset_free: ResetFreeConfig | None = None
    person: Literal["nobody", "keys"] = "nobody"
    mode: Literal["synchronous", "actors"] = "synchronous"
    actors: ActorsConfig = field(default_factory=ActorsConfig)
    record: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("synchronous", "actors"):
            raise unknown("mode", self.mode, ("synchronous", "actors"))
        if self.mode == "actors" and self.practice.episodes_per_update % self.actors.number:
            raise ConfigError(
                f"practice.episodes_per_update={self.practice.episodes_per_update} on actors.number="
                f"{self.actors.number}; expected a multiple of it, for equal shares"
            )
        if self.mode == "actors" and self.person != "nobody":
            raise ConfigError(
                f"person={self.person} with mode=actors, whose arms nobody sees; expected mode=synchronous"
            )
        if self.person not in ("nobody", "keys"):
            raise unknown("person", self.person, ("nobody", "keys"))
        if self.person != "nobody" and not self.agent.offline_ratio:
            raise ConfigError(
                f"person={self.person} with agent.offline_ratio=0, where a person's steps would count for no "
                "more than the policy's; expected more than 0: agent=retained"
            )


SECTIONS: dict[str, type] = {
    "task": TaskConfig,
    "collect": CollectConfig,
    "evaluation": EvaluationConfig,
    "safety": SafetyConfig,
    "policy": PolicyConfig,
    "bc": BCConfig,
    "world_model": WorldModelLearnerConfig,
    "refine": ImaginationConfig,
    "reward": RewardConfig,
    "offline": OfflineConfig,
    "online": OnlineStageConfig,
    "algorithm": AlgorithmConfig,
    "loop": LoopConfig,
}
