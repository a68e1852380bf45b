"""`robot-rl collect`: noise levels in equal parts, a share of failures, one line for what it cannot do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robot_rl.cli.collect import Portion, portions
from robot_rl.cli.config import resolve
from robot_rl.cli.main import main
from robot_rl.cli.recordings import random_policy
from robot_rl.cli.simulation import Simulation
from robot_rl.data.store import EpisodeStore

QUICK = ["collect.num_envs=4", "collect.workers=0", "task.env.image_size=16"]


def test_noise_levels_share_the_episodes() -> None:
    assert portions(5, [0.0, 0.3], None, (), 1.0) == [Portion(3, 0.0), Portion(2, 0.3)]


def test_failures_are_half_near_misses_of_every_kind() -> None:
    plan = portions(20, [0.2], 0.4, ("beside", "held"), 1.0)
    assert plan == [
        Portion(12, 0.2, success=True),
        Portion(4, 1.0, success=False),
        Portion(2, 0.0, "beside", success=False),
        Portion(2, 0.0, "held", success=False),
    ]
    assert portions(4, [0.2], 1.0, (), 1.0) == [Portion(4, 1.0, success=False)]


def test_the_share_of_failures_is_exact_and_seeds_are_used_once(tmp_path: Path) -> None:
    words = ["collect", f"out={tmp_path}", "task=widowx/reach", "episodes=8", "failures=0.5", "noise=0"]
    assert main([*words, *QUICK]) == 0
    episodes = EpisodeStore(tmp_path).load_all()
    assert [episode.succeeded for episode in episodes] == [True] * 4 + [False] * 4
    sources = [episode.metadata.source for episode in episodes]
    assert sources == ["expert"] * 6 + ["near_miss beside", "near_miss above"]
    seeds = [episode.metadata.seed for episode in episodes]
    assert len(set(seeds)) == 8


def test_what_cannot_be_had_is_given_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["collect", f"out={tmp_path}", "task=widowx/reach", "episodes=1", "failures=1"]
    assert main([*words, *QUICK, "collect.perturbed_noise=0", "task.env.cameras=[]"]) == 2
    assert "0 of 24 episodes of widowx/reach were failures (1 wanted" in capsys.readouterr().err


@pytest.mark.parametrize(("task", "drawn"), [("widowx/maze", False), ("widowx/reach", True)])
def test_random_motion_fits_the_task_s_actions(task: str, drawn: bool) -> None:
    """It is drawn to the middle of the table where actions move a tool; in the maze they move a spring."""
    env = Simulation(resolve([f"task={task}", "collect.workers=0", "task.env.cameras=[]"])).vector_env(2)
    policy = random_policy(task, env)
    observations, _ = env.reset(seed=[0, 1])
    policy.reset(np.ones(2, bool), np.arange(2))
    for _ in range(10):
        actions = policy.act(observations)
        assert env.action_space.contains(actions)
        observations, *_ = env.step(actions)
    assert (policy.config.pull > 0) == drawn
    env.close()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("noise=0,loud", "noise='loud'; expected a number of at least 0"),
        ("noise=-1", "noise='-1'; expected a number of at least 0"),
        ("failures=2", "failures='2'; expected a number of 0 .. 1"),
        ("workers=many", "workers='many'; expected a whole number of at least 0"),
        ("task=widowx/pusch", "unknown task 'widowx/pusch': did you mean widowx/push"),
        ("task.env.cameras=[frnt]", "unknown camera 'frnt': did you mean front"),
        ("task.env.robot=widowx", "unknown robot 'widowx'"),
        ("task.env.control_mode=torque", "unknown control mode 'torque'"),
        pytest.param(
            "task=metaworld/drawer-opn-v3",
            "unknown Meta-World task 'drawer-opn-v3': did you mean drawer-open-v3",
            marks=pytest.mark.adapters,
        ),
        pytest.param(
            "task=robosuite/Lft",
            "unknown robosuite task 'Lft': did you mean Lift",
            marks=pytest.mark.adapters,
        ),
    ],
)
def test_bad_input_is_one_line_with_the_valid_choices(
    word: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["collect", f"out={tmp_path / 'store'}", word]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "store").exists()
