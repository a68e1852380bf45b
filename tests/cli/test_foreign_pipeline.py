"""Every stage on tasks of Meta-World and of robosuite: their data take the whole path that ours take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robot_rl.cli.main import main
from robot_rl.cli.stages import STAGES

pytestmark = [pytest.mark.adapters, pytest.mark.slow]


@pytest.mark.parametrize("task", ["metaworld/drawer-open-v3", "robosuite/Lift"])
def test_every_stage(task: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    few = [f"collect.{kind}=2" for kind in ("policy", "perturbed", "refined")]
    assert not main(
        [
            "pipeline",
            f"task={task}",
            f"run={run}",
            "preset=smoke",
            "threads=1",
            "collect.num_envs=2",
            "collect.demos=6",
            "collect.random=1",
            *few,
            "evaluation.episodes=1",
            "online.practice={episodes: 4, episodes_per_update: 2, warmup_episodes: 2}",
        ]
    )
    summary = json.loads((run / "summary.json").read_text())
    assert summary["task"] == task
    assert list(summary["stages"]) == list(STAGES)
    assert all(stage["success"]["n"] == 1 for stage in summary["stages"].values())
    assert (run / "report.html").exists()
    assert sorted(folder.name for folder in (run / "data").iterdir()) == [
        "demos",
        "perturbed",
        "policy",
        "random",
        "refined",
    ]
