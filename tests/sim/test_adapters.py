"""The environment contract, held by the adapters of Meta-World and robosuite."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import sim
from robot_rl.data import schema
from robot_rl.errors import ConfigError, MissingExtraError
from sim.spec import SimulationError

METAWORLD = ("metaworld/drawer-open-v3", "metaworld/button-press-topdown-v3")
LIFT = "robosuite/Lift"
INSTALLED = {name: importlib.util.find_spec(name) is not None for name in ("metaworld", "robosuite")}

pytestmark = pytest.mark.adapters


def needs(task: str) -> None:
    package = task.partition("/")[0]
    if not INSTALLED[package]:
        pytest.skip(f"{package} is not installed")


@pytest.fixture(scope="module")
def environments() -> Iterator[dict[str, Any]]:
    made: dict[str, Any] = {}
    yield made
    for env in made.values():
        env.close()


@pytest.fixture(params=[*METAWORLD, LIFT])
def env(request: pytest.FixtureRequest, environments: dict[str, Any]) -> Any:
    """One environment a task for the whole module: robosuite takes seconds to build."""
    task: str = request.param
    needs(task)
    if task not in environments:
        environments[task] = sim.make(task, hold_steps=2, max_steps=25)
    return environments[task].unwrapped


def rollout(env: Any, seed: int, steps: int) -> list[Any]:
    """Observations, rewards and infos under a fixed, seeded sequence of actions."""
    observation, info = env.reset(seed=seed)
    record = [observation, info]
    generator = np.random.default_rng(0)
    for _ in range(steps):
        action = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        record += env.step(action)
    return record


def equal(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    return bool(np.array_equal(left, right))


def test_spaces_and_info(env: Any) -> None:
    observation, info = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    assert observation[schema.IMAGE].shape == (64, 64, 3)
    assert info["success"] is False
    assert info["instruction"] == env.task_spec.instruction
    assert env.task_spec.control_hz > 0
    action = env.expert_action()
    assert env.action_space.contains(action)
    observation, reward, terminated, truncated, info = env.step(2 * np.sign(action).astype(np.float32))
    assert env.observation_space.contains(observation)
    assert {"success", "action", "filter_reason", "cost", "reward_terms", "instruction"} <= info.keys()
    assert reward == pytest.approx(sum(info["reward_terms"].values()))
    assert not terminated
    assert not truncated
    assert np.array_equal(info["action"], np.sign(action))  # what was executed lies in [-1, 1]


def test_same_seed_same_episode_whatever_came_before(env: Any) -> None:
    first = rollout(env, seed=11, steps=6)
    rollout(env, seed=12, steps=3)
    again = rollout(env, seed=11, steps=6)
    assert all(equal(left, right) for left, right in zip(first, again, strict=True))


def test_each_seed_places_the_objects_anew(env: Any) -> None:
    pictures = [env.reset(seed=seed)[0][schema.IMAGE] for seed in range(3)]
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[1], pictures[2])
    assert all(picture.std() > 10 for picture in pictures)


def test_expert_solves_it_and_success_is_held(env: Any) -> None:
    seeds = 1 if env.task_spec.name == LIFT else 3
    for seed in range(seeds):
        env.reset(seed=seed)
        successes: list[bool] = []
        for step in range(env.task_spec.max_steps):
            *_, terminated, truncated, info = env.step(env.expert_action())
            successes.append(info["success"])
            assert terminated == (successes[-2:] == [True, True])
            assert truncated == (step + 1 == env.task_spec.max_steps)
            if terminated or truncated:
                break
        assert terminated


def test_clock_truncates() -> None:
    needs(METAWORLD[0])
    env = sim.make(METAWORLD[0], max_steps=4)
    env.reset(seed=0)
    idle = np.zeros(4, np.float32)
    assert [env.step(idle)[2:4] for _ in range(4)] == [(False, False)] * 3 + [(False, True)]
    env.close()


def test_shadows_are_off(env: Any) -> None:
    env.reset(seed=0)
    model, _ = env._physics()
    assert model.vis.quality.shadowsize == 0
    assert model.vis.quality.offsamples == 0
    renderer = next(iter(env._renderers.values()))
    assert renderer._mjr_context.shadowSize == 0
    assert renderer._mjr_context.offSamples == 0


def test_non_finite_action_is_refused(env: Any) -> None:
    env.reset(seed=0)
    with pytest.raises(SimulationError, match="non-finite"):
        env.step(np.full(env.action_space.shape, np.nan, np.float32))


@pytest.mark.parametrize(
    ("task", "options", "text"),
    [
        ("metaworld/drawer-opne-v3", {}, "drawer-open-v3"),
        ("metaworld/drawer-open-v3", {"frame_skipp": 3}, "frame_skip"),
        ("metaworld/drawer-open-v3", {"frame_skip": 0}, "frame_skip=0"),
        ("metaworld/drawer-open-v3", {"camera": "corner9"}, "corner"),
        ("robosuite/Lfit", {}, "Lift"),
        ("robosuite/Lift", {"robot": "Pandda"}, "Panda"),
        ("robosuite/Lift", {"hold_steps": 0}, "hold_steps=0"),
    ],
)
def test_bad_input_names_the_alternatives(task: str, options: dict[str, Any], text: str) -> None:
    needs(task)
    with pytest.raises(ConfigError, match=text):
        sim.make(task, **options)


def test_every_metaworld_task_has_an_instruction() -> None:
    needs("metaworld/")
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    from sim.adapters.metaworld import INSTRUCTIONS

    assert set(INSTRUCTIONS) == set(ALL_V3_ENVIRONMENTS)
    assert len(set(INSTRUCTIONS.values())) == len(INSTRUCTIONS)


@pytest.mark.parametrize(("task", "package"), [(METAWORLD[0], "metaworld"), (LIFT, "robosuite")])
def test_missing_package_names_the_extra(task: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"robot-rl\[{package}\]"):
        sim.make(task)
