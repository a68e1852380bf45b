"""`robot-rl examine`: can the imagined success of a run's world model be believed?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from robot_rl.agents.policy import ActorPolicy, PolicyRunner
from robot_rl.cli.context import Context
from robot_rl.cli.imagination import load_model, world_model_episodes
from robot_rl.cli.recordings import demos, rollouts
from robot_rl.cli.stages import STAGES
from robot_rl.cli.verbs import whole_number
from robot_rl.data import schema
from robot_rl.data.artifact import atomic_write
from robot_rl.data.episode import Episode
from robot_rl.errors import DataError
from robot_rl.trainers.evaluate import evaluate
from robot_rl.trainers.rollout import EpisodeOrigin
from robot_rl.trainers.statistics import wilson
from world_model import WorldModel, WorldModelEnv, WorldModelEnvConfig
from world_model.metrics import evaluate_world_model, replay

HORIZONS = (1, 2, 5, 10, 15, 20, 30, 40, 50)
MEMBERS = 64
LEAST_CHECKPOINTS = 3
"""Below which a rank correlation says nothing."""


def examine(arguments: dict[str, str], overrides: list[str]) -> int:
    """Drift, action sensitivity, honesty, and imagined beside simulated success."""
    context = Context.open({"resume": arguments["run"]}, [])
    model = load_model(context)
    episodes = whole_number(arguments, "episodes", 200)
    _, test = world_model_episodes(context)
    result = {
        "drift": drift(model, test),
        "honesty": honesty(model, test, [*demos(context), *rollouts(context)]),
        "policies": policies(context, model, episodes),
    }
    result["agreement"] = agreement(result["policies"])
    for line in _lines(result):
        print(line)
    if "json" in arguments:
        atomic_write(Path(arguments["json"]), json.dumps(result, indent=2).encode())
    return 0


def drift(model: WorldModel, test: Sequence[Episode]) -> dict[str, dict[str, float]]:
    """PSNR [dB] by horizon on held-out episodes: of the model, of copying, and with shuffled actions."""
    longest = max(map(len, test))
    horizons = [horizon for horizon in HORIZONS if horizon < longest]
    if not horizons:
        raise DataError(f"held-out episodes of at most {longest} steps; expected at least 2")
    found = evaluate_world_model(model, test, horizons)
    return {
        str(h): {
            "psnr": found[f"psnr_h{h}"],
            "copy": found[f"copy_psnr_h{h}"],
            "shuffled": found[f"shuffled_psnr_h{h}"],
        }
        for h in horizons
    }


def honesty(model: WorldModel, test: Sequence[Episode], everything: Sequence[Episode]) -> dict[str, Any]:
    """Real failures and successes imagined again: how many are called success. Held-out ones, and all."""
    result = {}
    for name, episodes in (("held out", test), ("all recorded", everything)):
        called = replay(model, episodes).succeeded(model.threshold, WorldModelEnvConfig().debounce).numpy()
        truth = np.array([episode.succeeded for episode in episodes])
        for kind, chosen in (("failures", called[~truth]), ("successes", called[truth])):
            if len(chosen):
                low, high = wilson(int(chosen.sum()), len(chosen))
                result[f"{name} {kind}"] = {
                    "called_success": float(chosen.mean()),
                    "low": low,
                    "high": high,
                    "n": len(chosen),
                }
    return result


def policies(context: Context, model: WorldModel, episodes: int) -> dict[str, dict[str, float]]:
    """Of every policy of the run: success imagined from real first frames, and simulated as judged."""
    starts = [*demos(context), *rollouts(context)]
    horizon = max(map(len, starts))
    env = WorldModelEnv(model, starts, WorldModelEnvConfig(num_envs=min(MEMBERS, episodes), horizon=horizon))
    origin = EpisodeOrigin(context.task, model.spec.robot, model.spec.control_hz, "imagined")
    result = {}
    for name, stage in STAGES.items():
        done = context.run.done(name)
        if stage.policy != name or done is None or not done["success"]:
            continue
        policy = ActorPolicy.load(context.run.stage_dir(name) / "policy", {"task": context.task})
        seeds = range(schema.SEED_VALIDATION, schema.SEED_VALIDATION + episodes)
        with context.progress.task(f"imagine {name}", 1) as bar:
            found, _ = evaluate(env, PolicyRunner(policy), seeds, origin)
            bar.update(1)
        imagined = found.summary()
        result[name] = {
            "imagined": float(imagined["mean"]),
            "imagined_low": float(imagined["low"]),
            "imagined_high": float(imagined["high"]),
            "simulated": float(done["success"]["mean"]),
        }
    return result


def agreement(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Largest and mean |imagined - simulated|, and Spearman's correlation over the policies."""
    imagined = np.array([row["imagined"] for row in found.values()])
    simulated = np.array([row["simulated"] for row in found.values()])
    if not len(found):
        return {}
    gap = np.abs(imagined - simulated)
    result = {"largest_gap": float(gap.max()), "mean_gap": float(gap.mean()), "policies": float(len(found))}
    if len(found) >= LEAST_CHECKPOINTS and np.ptp(imagined) > 0 and np.ptp(simulated) > 0:
        result["spearman"] = float(spearmanr(imagined, simulated).statistic)
    return result


def _lines(result: dict[str, Any]) -> list[str]:
    lines = ["steps   PSNR   copy   shuffled [dB]"]
    lines += [
        f"{h:>5} {row['psnr']:6.1f} {row['copy']:6.1f} {row['shuffled']:6.1f}"
        for h, row in result["drift"].items()
    ]
    lines += [
        f"replayed {name}: {row['called_success']:.1%} called success [{row['low']:.1%}, {row['high']:.1%}], "
        f"n={row['n']}"
        for name, row in result["honesty"].items()
    ]
    lines += [
        f"{name}: imagined {row['imagined']:.1%} [{row['imagined_low']:.1%}, {row['imagined_high']:.1%}], "
        f"simulated {row['simulated']:.1%}"
        for name, row in result["policies"].items()
    ]
    agreed = result["agreement"]
    if agreed:
        rank = f"{agreed['spearman']:.2f}" if "spearman" in agreed else "not defined"
        lines.append(f"largest |imagined - simulated| {agreed['largest_gap']:.1%}, Spearman {rank}")
    return lines
