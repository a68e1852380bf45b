"""One stage of a run: what it leaves, and what its times count."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from robot_rl.agents.policy import ActorPolicy, PolicyConfig, PolicyRunner
from robot_rl.cli.config import resolve
from robot_rl.cli.context import Context
from robot_rl.cli.recordings import load_runner
from robot_rl.cli.stages import Stage, run_stage
from robot_rl.errors import DataError, Interrupted
from robot_rl.trainers.loop import Silent
from robot_rl.trainers.run import Run


class Counting:
    """Four updates; Ctrl-C in the one after `interrupted` of them."""

    total_updates = 4

    def __init__(self, interrupted: int | None = None) -> None:
        self.updates, self.interrupted = 0, interrupted

    def update(self) -> dict[str, float]:
        if self.updates == self.interrupted:
            os.kill(os.getpid(), signal.SIGINT)
        self.updates += 1
        return {"updates": float(self.updates)}

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]


def context(run: Run) -> Context:
    return Context(resolve(["preset=smoke"]), run, Silent(), dataset=[])


def stage(first: Counting, second: Counting) -> Stage:
    """A stage that fits two things, one after the other."""

    def fit(context: Context) -> dict[str, float]:
        context.fit("bc", first)
        context.fit("bc_again", second)
        return {}

    return Stage("bc", (), "bc", fit)


def test_a_resumed_stage_counts_all_its_training_and_keeps_no_state(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "", [])
    with pytest.raises(Interrupted):
        run_stage(context(run), stage(Counting(), Counting(interrupted=2)))
    for name, seconds in (("bc", 100.0), ("bc_again", 1000.0)):  # as if it had taken so long
        state = run.load_state(name)
        assert state is not None
        run.save_state(name, state | {"time_s": seconds})
    last = Counting()
    result = run_stage(context(Run(run.path)), stage(Counting(), last))
    assert last.updates == 4
    assert 1100 <= result["fit_s"] <= result["wall_s"] < 1200
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["stages"]["bc"]["wall_s"] == result["wall_s"]
    assert not list(run.path.rglob("state.pt"))


def test_an_uninterrupted_stage_counts_itself(tmp_path: Path) -> None:
    result = run_stage(context(Run.create(tmp_path / "run", "", [])), stage(Counting(), Counting()))
    assert 0 <= result["fit_s"] <= result["wall_s"] < 60


def test_a_checkpoint_whose_manifest_is_cut_is_refused_by_name(tmp_path: Path) -> None:
    policy = ActorPolicy(PolicyConfig(2, 1, None, hidden=(8,)))
    policy.save(tmp_path / "policy", {"task": "toy"})
    assert isinstance(load_runner(str(tmp_path / "policy"), {"task": "toy"}), PolicyRunner)
    manifest = tmp_path / "policy" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:40])
    with pytest.raises(DataError, match=r"manifest\.json cannot be read.*restore"):
        load_runner(str(tmp_path / "policy"), {"task": "toy"})
