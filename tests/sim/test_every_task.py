"""Every registered task: Gymnasium's own check, and random episodes that stay physical.

The short form runs here; `make check-tasks` runs 1,000 episodes a task (`benchmarks.check_tasks`).
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import sim
from benchmarks import check_tasks
from benchmarks.check_tasks import Outcome
from sim.registry import ALIASES, gymnasium_id
from sim.tasks import TASKS

EPISODES = 2


@pytest.mark.parametrize("name", sorted(TASKS))
def test_gymnasium_accepts_it(name: str) -> None:
    env = gymnasium.make(gymnasium_id(name), image_size=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the render mode was not given, and the like
        check_env(env.unwrapped, skip_render_check=True)
    env.close()


@pytest.mark.parametrize("identifier", ALIASES)
def test_aliases_are_tasks(identifier: str) -> None:
    env: Any = gymnasium.make(identifier, cameras=()).unwrapped
    assert env.task_spec.name == f"widowx/{ALIASES[identifier]}"


@pytest.mark.parametrize("name", sorted(TASKS))
def test_random_episodes_stay_physical(name: str) -> None:
    outcome = check_tasks.random_episodes(name, range(EPISODES))
    assert not outcome.faults
    assert outcome.episodes == EPISODES


@pytest.mark.parametrize(
    ("name", "episode"),
    [("pot_lid_off", 564), ("pot_lid_on", 689), ("hammer_to_table", 152), ("maze_back", 73)],
)
def test_what_went_wrong_once_in_thousands(name: str, episode: int) -> None:
    """Pressed through the pot's wall, in the table, jammed in the bin's wall; a joint past its stop."""
    assert not check_tasks.random_episodes(name, [episode]).faults


def test_what_is_unphysical_is_found() -> None:
    env: Any = sim.make("widowx/push", cameras=()).unwrapped
    env.reset(seed=0)
    assert check_tasks.unphysical(env) == []
    kinematics, first = env.scene.arm.kinematics, env.scene.model.joint("waist").qposadr[0]
    env.scene.data.qpos[first] = kinematics.upper[0] + 0.05
    assert check_tasks.unphysical(env) == ["a joint is 0.050 rad beyond its limit"]
    env.scene.data.qvel[0] = np.nan
    assert "qvel holds a non-finite number" in check_tasks.unphysical(env)
    env.reset(seed=0)
    block = env.scene.position("block")
    env.scene.place("block", block - [0, 0, 0.012])
    env.scene.arm.drive(env.scene.arm.setpoint, 1)
    depth, between = check_tasks.penetration(env)
    assert depth > check_tasks.PENETRATION_M
    assert "table" in between


def test_an_interrupted_check_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_tasks, "CHUNK", 1)
    file = tmp_path / "check.json"
    whole = check_tasks.check(["reach"], 3, 0, tmp_path / "whole.json")["reach"]
    first = check_tasks.chunk("reach", 1, 3)
    check_tasks.write(file, {"reach": first}, {})
    assert check_tasks.check(["reach"], 3, 0, file)["reach"] == whole
    assert Outcome(**json.loads(file.read_text())["tasks"]["reach"]) == whole
    assert whole.chunks == [0, 1, 2]
