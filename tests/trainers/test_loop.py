"""The learner loop: resume, interruption, bad metrics, logging."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from robot_rl.errors import ConfigError, DataError, Interrupted, RobotRLError
from robot_rl.trainers.loop import LoopConfig, train
from robot_rl.trainers.run import Run

EVERY_UPDATE = LoopConfig(checkpoint_every_s=0.0, log_every_s=0.0)


class Walk:
    """A learner whose result depends on every random number it drew."""

    def __init__(self, total: int = 8) -> None:
        self.total_updates = total
        self.generator = torch.Generator().manual_seed(0)
        self.value = torch.zeros(3)
        self.at: dict[int, Any] = {}
        self.updates = 0

    def update(self) -> dict[str, float]:
        self.updates += 1
        action = self.at.get(self.updates)
        if action is not None:
            return action()
        self.value = self.value * 0.9 + torch.randn(3, generator=self.generator)
        return {"value": float(self.value.sum())}

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "generator": self.generator.get_state(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self.updates = state["value"], state["updates"]
        self.generator.set_state(state["generator"])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", "seed: 0\n", ["robot-rl", "test"])


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def stop() -> dict[str, float]:
    os.kill(os.getpid(), signal.SIGINT)
    return {"value": 0.0}


def test_interrupted_and_resumed_equals_uninterrupted(run: Run, tmp_path: Path) -> None:
    whole = Walk()
    train(whole, Run.create(tmp_path / "whole", "", []), "walk", EVERY_UPDATE)

    class Interrupting(Walk):
        def update(self) -> dict[str, float]:
            metrics = super().update()
            if self.updates == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return metrics

    with pytest.raises(Interrupted, match="resume="):
        train(Interrupting(), run, "walk", LoopConfig(checkpoint_every_s=1e9))
    resumed = Walk()
    train(resumed, run, "walk", EVERY_UPDATE)
    assert torch.equal(resumed.value, whole.value)
    assert resumed.updates == whole.updates == 8


def test_a_crash_resumes_from_the_last_save_and_repeats_its_log(run: Run) -> None:
    def crash() -> dict[str, float]:
        raise ZeroDivisionError

    broken = Walk()
    broken.at[5] = crash
    with pytest.raises(ZeroDivisionError):
        train(broken, run, "walk", LoopConfig(checkpoint_every_s=0.0, log_every_s=0.0))
    with (run.path / "metrics.jsonl").open("a") as file:  # logged after the save, then cut short by the kill
        file.write('{"stage": "walk", "update": 7, "time_s": 1, "value": 1}\n{"stage": "wa')
    resumed, whole = Walk(), Walk()
    train(resumed, run, "walk", EVERY_UPDATE)
    for _ in range(8):
        whole.update()
    assert torch.equal(resumed.value, whole.value)
    assert [line["update"] for line in lines(run)] == list(range(1, 9))


def test_a_metric_that_is_no_number_stops_and_keeps_the_state_before(run: Run) -> None:
    broken = Walk()
    broken.at[4] = lambda: {"loss": float("nan")}
    with pytest.raises(RobotRLError, match=r"walk: loss became nan at update 4.*resume="):
        train(broken, run, "walk", EVERY_UPDATE)
    state = run.load_state("walk")
    assert state is not None
    assert state["updates"] == 3


def test_a_damaged_state_is_refused_by_name(run: Run) -> None:
    train(Walk(), run, "walk", EVERY_UPDATE)
    file = run.path / "stages" / "walk" / "state.pt"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"state\.pt is damaged"):
        train(Walk(), run, "walk", EVERY_UPDATE)


def test_a_directory_in_use_is_refused(run: Run) -> None:
    with pytest.raises(ConfigError, match="resume="):
        Run.create(run.path, "", [])


def test_a_place_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigError, match="file is no directory"):
        Run.create(file, "", [])
    with pytest.raises(DataError, match=r"cannot write .*file/below"):
        Run.create(file / "below", "", [])


def test_a_run_is_opened_again_with_the_same_configuration_alone(run: Run) -> None:
    assert Run.again(run.path, "seed: 0\n", [], "remove it").path == run.path
    with pytest.raises(ConfigError, match="other settings: remove it"):
        Run.again(run.path, "seed: 1\n", [], "remove it")


def test_a_resumed_run_goes_on_with_its_own_at_weights_and_biases(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def init(**words: Any) -> object:
        asked.append(words)
        return object()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for each in (run, run, Run(run.path)):
        each.mirror_to_wandb("project", {})
    assert [(words["id"], words["resume"]) for words in asked] == [("run", "allow")] * 2


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run directory"):
        Run(tmp_path)


def test_done_drops_the_training_state(run: Run) -> None:
    train(Walk(), run, "walk", EVERY_UPDATE)
    train(Walk(), run, "walk_again", EVERY_UPDATE)
    run.mark_done("walk", {"metrics": {}}, fitted=("walk", "walk_again"))
    assert run.load_state("walk") is None
    assert run.load_state("walk_again") is None
    assert run.done("walk") == {"metrics": {}}
    assert run.done("other") is None
