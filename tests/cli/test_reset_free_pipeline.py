"""The pipeline of a task and the one that undoes it, small, up to practice without resets that is killed."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from robot_rl.agents.policy import ActorPolicy
from robot_rl.cli.main import EXIT_USER_ERROR, main
from robot_rl.cli.play import PICTURE, Wish
from robot_rl.data.store import EpisodeStore
from tests.cli.test_pipeline import finish, kill_when, start

SMALL = [
    "preset=smoke",
    "task=widowx/drawer_open",
    "practice=reset_free",
    "collect={policy: 2, perturbed: 2, random: 2, refined: 2, num_envs: 2, workers: 0}",
    "evaluation.episodes=2",
    "world_model.total_updates=5",
    "online.practice={episodes: 8, episodes_per_update: 2, warmup_episodes: 2}",
    "online.reset_free={stuck_after: 2, hard_reset_every: 100}",
    "loop={checkpoint_every_s: 0, log_every_s: 0}",
    "threads=1",
]
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("reset_free")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("reset_free") / "whole"
    assert "backward" in finish(start(f"run={run}", *SMALL))
    return run


def test_both_directions_are_recorded_learned_practised_and_judged(whole: Path) -> None:
    tasks = {
        "": ("widowx/drawer_open", "open the drawer"),
        "_backward": ("widowx/drawer_close", "close the drawer"),
    }
    for suffix, (task, instruction) in tasks.items():
        for name, number in (("demos", 6), ("policy", 2), ("perturbed", 2), ("random", 2), ("refined", 2)):
            store = EpisodeStore(whole / "data" / f"{name}{suffix}")
            assert len(store) == number
            assert (store.metadata(0).task, store.metadata(0).instruction) == (task, instruction)
        for stage in ("bc", "refine", "offline", "online"):
            assert len(json.loads((whole / f"stages/{stage}/eval{suffix}.json").read_text())["seeds"]) == 2
    policy = ActorPolicy.load(whole / "stages/online/policy")
    assert (policy.config.language_dim, policy.config.instruction) == (32, "open the drawer")
    reward = json.loads((whole / "stages/reward/model/manifest.json").read_text())["metadata"]
    assert reward["instructions"] == ["close the drawer", "open the drawer"]
    stages = json.loads((whole / "summary.json").read_text())["stages"]
    assert all(stage["success_backward"]["n"] == 2 for stage in stages.values())
    online = stages["online"]["metrics"]
    assert online["forward_trials"] + online["backward_trials"] == 8
    assert {
        "manual_resets_per_1000_steps",
        "forward_predicted",
        "backward_true",
        "intervention_steps",
    } <= set(online)


def test_practice_that_was_killed_ends_like_practice_that_was_not(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "stages/online")
    kill_when(start(f"resume={run}"), run / "stages/online/state.pt", signal.SIGKILL)
    assert not (run / "stages/online/done.json").exists()
    finish(start(f"resume={run}"))
    weights = Path("stages/online/policy/model.safetensors")
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()
    metrics = [json.loads((each / "stages/online/done.json").read_text())["metrics"] for each in (whole, run)]
    assert metrics[0] == metrics[1]


def test_the_policy_is_judged_at_either_task_and_at_no_other(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["episodes=2", "collect.num_envs=2", "collect.workers=0", "threads=1"]
    checkpoint = f"checkpoint={whole / 'stages/online/policy'}"
    for suffix, task in (("", "widowx/drawer_open"), ("_backward", "widowx/drawer_close")):
        result = tmp_path / "result.json"
        assert main(["eval", checkpoint, f"task={task}", f"json={result}", *quick]) == 0
        expected = json.loads((whole / f"stages/online/eval{suffix}.json").read_text())
        assert json.loads(result.read_text())["episodes"] == expected
    assert main(["eval", checkpoint, "task=widowx/lift", *quick]) == EXIT_USER_ERROR
    assert "drawer_open" in capsys.readouterr().err


class Helper:
    """Somebody at the keys who lifts the arm now and then."""

    def __init__(self, title: str, period_s: float) -> None:
        self.steps = 0

    def show(self, picture: Any, lines: tuple[str, ...]) -> None:
        assert picture.shape == (PICTURE, PICTURE, 3)

    def wish(self) -> Wish:
        self.steps += 1
        return Wish(np.array([0, 0, 0.5 * (self.steps % 20 == 5), 0, 0, 0], np.float32))


def test_a_person_at_the_keys_teaches_both_buffers_and_is_kept(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "helped"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "stages/online")
    config = OmegaConf.load(run / "config.yaml")
    config.online.person, config.online.agent.offline_ratio = "keys", 0.5
    OmegaConf.save(config, run / "config.yaml")
    monkeypatch.setattr("robot_rl.cli.helping.Window", Helper)
    assert main(["train", f"resume={run}"]) == 0
    metrics = json.loads((run / "stages/online/done.json").read_text())["metrics"]
    kept = EpisodeStore(run / "data/interventions").load_all()
    assert metrics["intervention_steps"] == sum(int(episode.is_intervention.sum()) for episode in kept) > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=widowx/push", "practice=reset_free"], "widowx/drawer_open"),
        (["task=widowx/drawer_open", "task.pair=true"], "practice=reset_free sets them"),
        (["task=widowx/drawer_open", "practice=reset_free", "task.pair=false"], "expected task.pair=true"),
        (["practice=reset_fre"], "reset_free"),
        (["task=widowx/maze", "practice=reset_free"], "springs"),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pipeline", f"run={tmp_path / 'run'}", *words]) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
