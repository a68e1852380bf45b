"""Updates per second of the agents, beside other projects' implementations of the same sizes.

Batch 256, 29 numbers of state, 7 of action, two threads. All of a comparison run in turns in one process with
the allocator settings of `robot-rl`, the others' too, so that ratios hold where the machine drifts.

- `--corl PATH`: a checkout of CORL (Cal-QL, IQL, SAC-N); `--fetch` clones one into the temporary folder.
  Stable-Baselines3 takes part if it is installed.
- Ours: `float32` is the written-out gradient (`fused`), `plain` the autograd form, `bfloat16` the switch.
- `products`: the rate at which this process multiplies matrices, which bounds all of the above.
- `curves`: Cal-QL on a task of reaching, trained in float32 and in bfloat16: distance to the goal on the way.
- `quoted`: figures of official JAX implementations on this kind of machine, not run here.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks import peers
from benchmarks.harness import Row, interleaved_rates, run
from robot_rl.agents.calql import CalQL, CalQLConfig, CalQLLearner
from robot_rl.agents.iql import IQL, IQLConfig
from robot_rl.agents.policy import ActorPolicy, PolicyConfig
from robot_rl.agents.rlpd import paper_sac
from robot_rl.agents.sac import SAC, SACConfig
from robot_rl.agents.wsrl import WSRL, WSRLConfig
from robot_rl.cli.main import ALLOCATOR
from robot_rl.data.replay import ReplayBuffer, ReplayConfig

STATE, ACTION, BATCH = peers.STATE, peers.ACTION, 256
THREADS = 2
CASES = {
    "calql 256x2": (256, 256),
    "calql 512x3": (512, 512, 512),
    "iql 256x2": (256, 256),
    "sac-10 256x2": (256, 256),
    "sac-10 512x3": (512, 512, 512),
    "sac-2 256x2": (256, 256),
}
QUOTED = {
    "RLPD (JAX), 10 critics 256x2, UTD 1": ("updates", 36.0),
    "RLPD (JAX), 10 critics 256x2, UTD 20": ("critic updates", 52.0),
    "WSRL (JAX), UTD 1": ("updates", 21.0),
    "WSRL (JAX), UTD 4": ("critic updates", 23.0),
}
FORMS = {"float32": {"fused": True}, "plain": {}, "bfloat16": {"fused": True, "bf16": True}}
Work = Callable[[], object]


def make_batch(size: int = BATCH, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random transitions."""
    g = torch.Generator().manual_seed(seed)
    return {
        "features": torch.randn(size, STATE, generator=g),
        "next_features": torch.randn(size, STATE, generator=g),
        "action": 2 * torch.rand(size, ACTION, generator=g) - 1,
        "reward": torch.randn(size, generator=g),
        "discount": torch.where(torch.rand(size, generator=g) < 0.05, 0.0, 0.99),
        "mc_return": torch.randn(size, generator=g),
    }


def policy_of(hidden: tuple[int, ...], head: str = "tanh_gaussian") -> ActorPolicy:
    return ActorPolicy(PolicyConfig(STATE, ACTION, None, head=head, hidden=hidden, layer_norm=False))


def sac_config(critics: int, hidden: tuple[int, ...], **changes: object) -> SACConfig:
    """What CORL's and Stable-Baselines3's files compute: no LayerNorm, min over all critics, soft targets."""
    settings: dict[str, object] = {
        "critics": critics, "target_subset": critics, "hidden": hidden, "layer_norm": False,
        "actor_lr": 3e-4, "entropy_backup": True, "temperature": 1.0, "learn_temperature": True,
        "pessimistic_actor": True, "normalise_q": False, "grad_clip": math.inf,
    }  # fmt: skip
    return SACConfig(**(settings | changes))  # type: ignore[arg-type]


def ours(case: str, **form: object) -> Work:
    """One update of the case with the peer's networks and maths."""
    name, hidden, batch = case.split()[0], CASES[case], make_batch()
    if name == "calql":
        sac = sac_config(2, hidden, entropy_backup=False, **form)
        policy = policy_of(hidden[:1] * 3)
        agent: SAC = CalQL(policy, CalQLConfig(sac=sac, actions=10))
    elif name == "iql":
        agent = IQL(policy_of(hidden, "gaussian"), sac_config(2, hidden, **form), IQLConfig())
    elif name == "sac-10":
        agent = SAC(policy_of(hidden), sac_config(10, hidden, **form))
    else:
        agent = SAC(policy_of(hidden), sac_config(2, hidden, **form))
    return lambda: agent.update(batch)


def theirs(case: str, corl: Path | None) -> tuple[str, Work] | None:
    """The peer's name and one update of it; None if it is not here."""
    name, hidden, batch = case.split()[0], CASES[case], make_batch()
    if name == "sac-2":
        work = peers.sb3_sac(hidden, batch)
        return None if work is None else ("Stable-Baselines3", work)
    if corl is None:
        return None
    if name == "calql":
        return "CORL", peers.corl_calql(corl, hidden, batch)
    if name == "iql":
        return "CORL", peers.corl_iql(corl, batch)
    return "CORL", peers.corl_sacn(corl, hidden, batch)


def compared(corl: Path | None, rounds: int, seconds: float) -> list[Row]:
    """Rates of every form and peer, and how many times the peer's rate ours is."""
    rows: list[Row] = []
    for case in CASES:
        works: dict[str, Work] = {form: ours(case, **settings) for form, settings in FORMS.items()}
        peer = theirs(case, corl)
        if peer is not None:
            works[peer[0]] = peer[1]
        rates = interleaved_rates({k: _silent(v) for k, v in works.items()}, rounds, seconds)
        rows += [Row(f"{case}: {name}", "updates", median(values), "1/s") for name, values in rates.items()]
        if peer is not None:
            rows += [
                Row(f"{case}: {form} / {peer[0]}", "ratio", _ratio(rates[form], rates[peer[0]]), "x")
                for form in FORMS
            ]
        else:
            rows.append(Row(f"{case}: no peer here", "ratio", 0.0, "x"))
    return rows


def many_steps(rounds: int, seconds: float) -> list[Row]:
    """RLPD at UTD 20 and WSRL at UTD 4: critic updates per second with one actor step in so many."""
    rows = []
    for name, utd in (("RLPD", 20), ("WSRL", 4), ("SAC", 1)):
        for form, settings in FORMS.items():
            sac = SACConfig(**(vars(paper_sac()) | {"grad_clip": math.inf} | settings))
            agent = WSRL(policy_of((256, 256)), WSRLConfig(sac=sac, critic_steps=utd))
            agent.buffer.add(make_batch(10_000))
            learn = _silent(partial(agent.learn, utd))
            rates = interleaved_rates({form: learn}, rounds, seconds)
            rate = utd * median(rates[form])
            rows.append(Row(f"{name}, 10 critics 256x2, UTD {utd}: {form}", "critic updates", rate, "1/s"))
    return rows


def matmul(rounds: int, seconds: float) -> list[Row]:
    """The rate [GFLOP/s] of the products that dominate: ten of 256 x 256 x 256."""
    left, right = torch.randn(10, 256, 256), torch.randn(10, 256, 256)
    flops = 2 * 10 * 256**3 / 1e9
    rates = interleaved_rates({"matmul": _silent(lambda: torch.bmm(left, right))}, rounds, seconds)
    return [Row("products of 10 x 256 x 256 x 256", "rate", flops * median(rates["matmul"]), "GFLOP/s")]


def reaching(seed: int, size: int = 4000) -> ReplayBuffer:
    """Episodes of 20 random steps in a 3-D box: reward -|distance to the goal|, state is goal and place."""
    rng = np.random.default_rng(seed)
    buffer = ReplayBuffer(ReplayConfig(capacity=size, gamma=0.9))
    for _ in range(size // 20):
        goal, place = rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 3)
        action = rng.uniform(-1, 1, (20, 3))
        places = np.clip(place + 0.2 * np.vstack([np.zeros(3), action.cumsum(0)]), -1, 1)
        features = np.hstack([np.tile(goal, (21, 1)), places]).astype(np.float32)
        reward = -np.linalg.norm(places[1:] - goal, axis=1).astype(np.float32)
        buffer.add_episode({"features": features}, action.astype(np.float32), reward, np.zeros(20, bool))
    return buffer


def curves(seeds: int, updates: int) -> list[Row]:
    """Mean distance to the goal after 20 steps of the policy, at tenths of the training."""
    rows = []
    for form in ("float32", "bfloat16"):
        distances = np.zeros((seeds, 11))
        for seed in range(seeds):
            policy = ActorPolicy(PolicyConfig(6, 3, None, hidden=(64, 64), seed=seed))
            sac = SACConfig(critics=4, hidden=(128, 128), actor_lr=3e-4, seed=seed, **FORMS[form])  # type: ignore[arg-type]
            config = CalQLConfig(sac=sac, alpha=0.2, actions=4, updates=updates, critic_only=updates // 10)
            learner = CalQLLearner(policy, reaching(seed), config)
            for step in range(updates + 1):
                if step % (updates // 10) == 0:
                    distances[seed, step // (updates // 10)] = _distance(policy)
                learner.update()
        for tenth, distance in enumerate(distances.mean(0)):
            case = f"curve, {form}, {seeds} seeds: after {tenth * updates // 10} updates"
            rows.append(Row(case, "distance", float(distance), "of 2"))
        spread = float(distances[:, -1].std())
        rows.append(Row(f"curve, {form}, {seeds} seeds: spread at the end", "distance", spread, "of 2"))
    return rows


def _distance(policy: ActorPolicy) -> float:
    rng = np.random.default_rng(12345)
    goal, place = torch.from_numpy(rng.uniform(-1, 1, (2, 256, 3)).astype(np.float32))
    for _ in range(20):
        place = (place + 0.2 * policy.act_from_features(torch.cat([goal, place], 1))).clamp(-1, 1)
    return float((place - goal).norm(dim=1).mean())


def _silent(work: Work) -> Callable[[], None]:
    def call() -> None:
        work()

    return call


def _ratio(mine: list[float], other: list[float]) -> float:
    return median(a / b for a, b in zip(mine, other, strict=True))


def main() -> None:
    if not ALLOCATOR.keys() <= os.environ.keys():
        command = [sys.executable, "-m", "benchmarks.agents", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | ALLOCATOR | {"OMP_NUM_THREADS": str(THREADS)})
    words = sys.argv[1:]
    corl: Path | None = None
    if "--corl" in words:
        position = words.index("--corl")
        if position + 1 == len(words):
            raise SystemExit("--corl needs the path of a checkout of CORL")
        corl = Path(words[position + 1])
        del words[position : position + 2]
    elif "--fetch" in words:
        corl = peers.fetch_corl(Path(tempfile.gettempdir()) / "robot-rl-corl")

    def measure(quick: bool) -> list[Row]:
        torch.set_num_threads(THREADS)
        rounds, seconds = (3, 0.5) if quick else (7, 1.5)
        rows = matmul(rounds, seconds) + compared(corl, rounds, seconds)
        if not quick:
            rows += many_steps(rounds, seconds) + curves(seeds=3, updates=2000)
        return rows + [Row(f"quoted: {case}", metric, rate, "1/s") for case, (metric, rate) in QUOTED.items()]

    run("agents", ("torch", "numpy", "stable-baselines3"), measure, words, flags=("--fetch",))


if __name__ == "__main__":
    main()
