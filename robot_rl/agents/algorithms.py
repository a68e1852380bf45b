"""Which algorithm learns offline and which online, by name: the table of docs/agents.md."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from robot_rl.agents.calql import CalQL, CalQLConfig
from robot_rl.agents.cql import CQL
from robot_rl.agents.famo2o import FamO2O, FamO2OConfig, family_of
from robot_rl.agents.iql import IQL, IQLConfig
from robot_rl.agents.policy import ActorPolicy
from robot_rl.agents.rlpd import RLPD, RLPDConfig
from robot_rl.agents.sac import SAC, SACConfig
from robot_rl.agents.td3bc import TD3BC, TD3BCConfig
from robot_rl.agents.wsrl import WSRL, WSRLConfig
from robot_rl.data.replay import ReplayBuffer
from robot_rl.errors import ConfigError, unknown

OFFLINE = ("calql", "cql", "iql", "td3bc", "famo2o")
ONLINE = ("wsrl", "rlpd", *OFFLINE)


@dataclass(frozen=True)
class AlgorithmConfig:
    """Attributes:
    offline: learns from the recorded transitions; one of `OFFLINE`.
    online: goes on; one of `ONLINE`. `wsrl` is SAC from the offline critics, `rlpd` SAC from fresh ones;
        the others go on with their own losses, for which the offline stage must have used the same.
    random_steps: of RLPD, taken uniformly at random before its policy acts.
    iql, td3bc, famo2o: the numbers that are an algorithm's own.
    """

    offline: str = "calql"
    online: str = "wsrl"
    random_steps: int = 0
    iql: IQLConfig = field(default_factory=IQLConfig)
    td3bc: TD3BCConfig = field(default_factory=TD3BCConfig)
    famo2o: FamO2OConfig = field(default_factory=FamO2OConfig)

    def __post_init__(self) -> None:
        if self.offline not in OFFLINE:
            raise unknown("offline algorithm", self.offline, OFFLINE)
        if self.online not in ONLINE:
            raise unknown("online algorithm", self.online, ONLINE)
        if self.random_steps < 0:
            raise ConfigError(f"algorithm.random_steps={self.random_steps}; expected at least 0")


def prepared(name: str, policy: ActorPolicy, config: AlgorithmConfig) -> ActorPolicy:
    """The policy as algorithm `name` needs it to begin with: FamO2O a family, RLPD an untrained trunk."""
    if name == "famo2o":
        return family_of(policy, config.famo2o.beta)
    if name == "rlpd":
        fresh = ActorPolicy(policy.config, policy.statistics).to(policy.device)
        seen = {key: value for key, value in policy.state_dict().items() if not key.startswith("trunk.")}
        fresh.load_state_dict(fresh.state_dict() | seen)  # RLPD has no pre-training, but it must see
        return fresh
    return policy


def make_agent(
    name: str, policy: ActorPolicy, sac: SACConfig, calql: CalQLConfig, config: AlgorithmConfig
) -> SAC:
    """The learner of a `prepared` policy.

    Args:
        name: one of `ONLINE`.
        sac: networks and rates; takes the place of `calql.sac`.
        calql: the conservative term of `calql` and `cql`.
    """
    match name:
        case "wsrl" | "rlpd":
            return SAC(policy, sac)
        case "calql":
            return CalQL(policy, dataclasses.replace(calql, sac=sac))
        case "cql":
            return CQL(policy, dataclasses.replace(calql, sac=sac))
        case "iql":
            return IQL(policy, sac, config.iql)
        case "td3bc":
            return TD3BC(policy, sac, config.td3bc)
        case "famo2o":
            return FamO2O(policy, sac, config.iql, config.famo2o)
    raise unknown("algorithm", name, ONLINE)


def make_online(
    policy: ActorPolicy,
    wsrl: WSRLConfig,
    calql: CalQLConfig,
    config: AlgorithmConfig,
    offline: ReplayBuffer | None = None,
) -> WSRL:
    """The online agent of `config.online`: WSRL's loop and buffer around its learner."""
    agent = make_agent(config.online, policy, wsrl.sac, calql, config)
    if config.online == "rlpd":
        settings = {each.name: getattr(wsrl, each.name) for each in dataclasses.fields(wsrl)}
        return RLPD(policy, RLPDConfig(**settings, random_steps=config.random_steps), offline, agent)
    return WSRL(policy, wsrl, offline, agent)
