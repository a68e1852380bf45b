"""A run directory as a pipeline leaves it, made in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.data.video import write_video
from robot_rl.trainers.statistics import wilson

SUCCESS = {"bc": 0.5, "refine": 0.7, "offline": 0.75, "online": 0.92}
POLICY = {"world_model": "bc", "reward": "refine"}
METRICS = {
    "bc": {"demonstrations": 50.0, "frames": 1234.0},
    "world_model": {"psnr_1": 31.25, "psnr_copy_1": 27.5, "ssim_20": 0.91},
    "reward": {"auroc": 0.987, "fpr": 0.004, "recall": 0.93, "false_success": 0.01},
    "online": {"env_steps": 20000.0, "curtailed_share": 0.0123},
}
SEEDS = list(range(9_000_000, 9_000_080))


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _moving_square(length: int, size: int = 64) -> np.ndarray:
    frames = np.full((length, size, size, 3), 40, np.uint8)
    for t in range(length):
        frames[t, 20:32, 2 + t : 14 + t] = (220, 60, 40)
    return frames


def make_run(folder: Path) -> Path:
    """The files of a finished run in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    draws = generator.uniform(size=len(SEEDS))
    stages: dict[str, Any] = {}
    judged: dict[str, Any] = {}
    lines = []
    for name in ("bc", "world_model", "refine", "reward", "offline", "online"):
        if name in SUCCESS:
            success = [int(draw < SUCCESS[name]) for draw in draws]
            steps = generator.integers(10, 40, len(SEEDS)).tolist()
            _write(
                folder / "stages" / name / "eval.json",
                {"seeds": SEEDS, "success": success, "steps": steps, "curtailed": [0] * len(SEEDS)},
            )
            low, high = wilson(sum(success), len(success))
            judged[name] = {"mean": sum(success) / len(success), "low": low, "high": high, "n": len(success)}
        stages[name] = {
            "success": judged[POLICY.get(name, name)],
            "policy": POLICY.get(name, name),
            "wall_s": 95.0,
            "metrics": METRICS.get(name, {}),
        }
        for update in range(0, 1000, 50):
            noise = float(generator.normal(0, 0.05))
            loss = 2.0 * np.exp(-update / 300) + 0.2 + noise
            lines.append({"stage": name, "update": update, "time_s": update / 10, "loss": loss, "lr": 3e-4})
            lines[-1]["accuracy"] = 1 - loss / 3
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "on'
    )
    _write(folder / "summary.json", {"task": "widowx/push", "preset": "laptop", "seed": 0, "stages": stages})
    _write(
        folder / "run.json",
        {
            "command": ["robot-rl", "pipeline", "task=widowx/push", "note=a <b> & c"],
            "git_commit": "0123456789abcdef",
            "versions": {"torch": "2.13.0", "mujoco": "3.3.0"},
            "machine": {"cpu": "a processor", "cores": 2, "gpu": None},
            "started": "2026-01-01T00:00:00+0000",
        },
    )
    (folder / "config.yaml").write_text(
        "task:\n  name: widowx/push\nseed: 0\nscript: </pre><script>bad()</script>\n"
    )
    rising = 1 / (1 + np.exp(-(np.arange(30) - 20.0)))
    flat = 0.1 + 0.05 * np.sin(np.arange(30))
    _write(
        folder / "stages" / "reward" / "curves.json",
        {
            "threshold": 0.62,
            "episodes": [
                {
                    "label": "success",
                    "probability": rising.tolist(),
                    "truth": (rising > 0.7).astype(int).tolist(),
                },
                {"label": "failure", "probability": flat.tolist(), "truth": [0] * 30},
            ],
        },
    )
    _write(
        folder / "stages" / "online" / "safety.json",
        {"steps": 20000, "reasons": {"position_limit": 180, "velocity_limit": 66, "non_finite": 0}},
    )
    (folder / "videos").mkdir(exist_ok=True)
    for name in SUCCESS:
        for label in ("success", "failure"):
            write_video(folder / "videos" / f"{name}_{label}.mp4", _moving_square(30), fps=8, scale=4)
    both = np.concatenate([_moving_square(30), _moving_square(30)], axis=2)
    write_video(folder / "videos" / "world_model.mp4", both, fps=5, scale=4)
    return folder
