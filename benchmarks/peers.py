"""Other projects' implementations of the agents, driven as they are, for `benchmarks.agents`.

None of their code is part of this project. CORL's single files are read from a checkout (`--corl PATH`, or
fetched with `--fetch` where a network exists); Stable-Baselines3 from where pip installed it. A driver builds
their networks at the wanted width, feeds them ready-made batches, and changes no line of theirs. What their
files import for experiments alone (d4rl, gym, pyrallis, wandb, tqdm) is replaced by empty modules.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

STATE, ACTION = 29, 7
CORL_URL = "https://github.com/tinkoff-ai/CORL"
Update = Callable[[], object]
Batch = dict[str, torch.Tensor]


def fetch_corl(folder: Path) -> Path:
    """A shallow clone of CORL in `folder`."""
    if not folder.exists():
        subprocess.run(["git", "clone", "--depth", "1", CORL_URL, str(folder)], check=True)
    return folder


def _load(root: Path, file: str) -> types.ModuleType:
    """One of CORL's files as a module, its experiment dependencies stubbed."""
    stubs = {name: mock.MagicMock() for name in ("d4rl", "gym", "pyrallis", "wandb", "tqdm")}
    stubs["pyrallis"].wrap = lambda: lambda function: function
    path = root / "algorithms" / file
    spec = importlib.util.spec_from_file_location(f"corl_{path.stem}", path)
    if spec is None or spec.loader is None or not path.exists():
        raise SystemExit(f"no {path}; expected a checkout of {CORL_URL}")
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {**stubs, spec.name: module}):
        spec.loader.exec_module(module)
    return module


def _corl_batch(batch: Batch, returns: bool = False) -> list[torch.Tensor]:
    done = (batch["discount"] == 0).float()
    columns = [batch["features"], batch["action"], batch["reward"][:, None], batch["next_features"]]
    return [*columns, done[:, None], *([batch["mc_return"][:, None]] if returns else [])]


def _mlp(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def corl_calql(root: Path, hidden: tuple[int, ...], batch: Batch) -> Update:
    """Cal-QL: two critics of `hidden`, ten actions; its policy is 256 x 3 unless the width is another."""
    corl = _load(root, "finetune/cal_ql.py")
    critics = [corl.FullyConnectedQFunction(STATE, ACTION) for _ in range(2)]
    actor = corl.TanhGaussianPolicy(STATE, ACTION, 1.0)
    for critic in critics:
        critic.network = _mlp(STATE + ACTION, hidden, 1)
    if hidden[0] != 256:  # the file's width is fixed at 256
        actor.base_network = _mlp(STATE, hidden[:1] * 3, 2 * ACTION)
    optimisers = [torch.optim.Adam(critic.parameters(), 3e-4) for critic in critics]
    trainer = corl.CalQL(
        critics[0], optimisers[0], critics[1], optimisers[1], actor,
        torch.optim.Adam(actor.parameters(), 1e-4), target_entropy=-float(ACTION), bc_steps=0,
        cql_n_actions=10, cql_alpha=1.0,
    )  # fmt: skip
    columns = _corl_batch(batch, returns=True)
    return lambda: trainer.train(columns)


def corl_iql(root: Path, batch: Batch) -> Update:
    """IQL as it is: all networks 256 x 2."""
    corl = _load(root, "offline/iql.py")
    q, v, actor = (
        corl.TwinQ(STATE, ACTION),
        corl.ValueFunction(STATE),
        corl.GaussianPolicy(STATE, ACTION, 1.0),
    )
    q_optimiser, v_optimiser, actor_optimiser = (
        torch.optim.Adam(n.parameters(), 3e-4) for n in (q, v, actor)
    )
    trainer = corl.ImplicitQLearning(1.0, actor, actor_optimiser, q, q_optimiser, v, v_optimiser)
    columns = _corl_batch(batch)
    return lambda: trainer.train(columns)


def corl_sacn(root: Path, hidden: tuple[int, ...], batch: Batch) -> Update:
    """SAC-N with ten critics of `hidden`; critics and policy have three layers, one is taken out for two."""
    corl = _load(root, "offline/sac_n.py")
    actor = corl.Actor(STATE, ACTION, hidden[0])
    critic = corl.VectorizedCritic(STATE, ACTION, hidden[0], 10)
    if len(hidden) == 2:
        critic.critic = nn.Sequential(*critic.critic[:4], critic.critic[-1])
        actor.trunk = nn.Sequential(*actor.trunk[:4])
    trainer = corl.SACN(
        actor, torch.optim.Adam(actor.parameters(), 3e-4), critic, torch.optim.Adam(critic.parameters(), 3e-4)
    )
    columns = _corl_batch(batch)
    return lambda: trainer.update(columns)


def sb3_sac(hidden: tuple[int, ...], batch: Batch) -> Update | None:
    """Stable-Baselines3's SAC, two critics, 256 transitions a step; None if it is not installed."""
    try:
        import gymnasium
        from stable_baselines3 import SAC
        from stable_baselines3.common.logger import Logger
    except ImportError:
        return None

    class Still(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (STATE,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (ACTION,), np.float32)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros(STATE, np.float32), {}

        def step(self, action: Any) -> Any:
            return np.zeros(STATE, np.float32), 0.0, False, False, {}

    agent = SAC("MlpPolicy", Still(), policy_kwargs={"net_arch": list(hidden)}, buffer_size=1000)
    agent.set_logger(Logger(None, []))
    assert agent.replay_buffer is not None
    rows = {name: value.numpy() for name, value in batch.items()}
    for i in range(len(rows["action"])):
        done = np.array([float(rows["discount"][i] == 0)])
        agent.replay_buffer.add(
            rows["features"][i], rows["next_features"][i], rows["action"][i], rows["reward"][i : i + 1], done,
            [{}],
        )  # fmt: skip
    return lambda: agent.train(gradient_steps=1, batch_size=len(rows["action"]))
