"""What every WidowX task owes: wordings, a pair in the same scene, near misses at rest, an expert."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import sim
from robot_rl.data import schema
from robot_rl.errors import ConfigError
from sim.registry import gymnasium_id
from sim.tasks import TASKS
from sim.tasks.bin import PRIOR_TASKS
from sim.tasks.carry import Grip
from sim.widowx import WidowXEnv

NEAR_MISSES = [(name, kind) for name, task in TASKS.items() for kind in task.near_misses]
RIGID = [name for name in TASKS if not name.startswith(("cloth", "maze"))]
PAIRED = [name for name, task in TASKS.items() if task.pair]


@pytest.fixture(scope="module")
def environments() -> Iterator[dict[str, WidowXEnv]]:
    """State-only environments by task, each compiled once."""
    yield (made := {})
    for env in made.values():
        env.close()


def environment(environments: dict[str, WidowXEnv], name: str) -> WidowXEnv:
    if name not in environments:
        environments[name] = sim.make(f"widowx/{name}", cameras=())  # type: ignore[assignment]
    return environments[name]


@pytest.mark.parametrize("name", TASKS)
def test_says_what_it_is(name: str) -> None:
    task = TASKS[name]()
    assert task.name == f"widowx/{name}"
    assert len(set(task.instructions)) == len(task.instructions) >= 3
    assert task.instruction == task.instructions[0]
    assert task.near_misses
    assert 0 < task.demo_noise <= task.hard_noise <= 2


@pytest.mark.parametrize("name", PAIRED)
def test_pair_undoes_it_in_the_same_scene(name: str) -> None:
    task = TASKS[name]()
    other = TASKS[task.pair.removeprefix("widowx/")]()
    assert other.pair == task.name
    assert other.objects_xml() == task.objects_xml()
    assert other.workspace == task.workspace
    assert other.instruction != task.instruction


@pytest.mark.parametrize(("name", "kind"), NEAR_MISSES)
def test_near_misses_fail_and_rest(name: str, kind: str, environments: dict[str, WidowXEnv]) -> None:
    env = environment(environments, name)
    for seed in range(3):
        state, info = env.reset(seed=seed, options={"near_miss": kind})
        assert info["success"] is False
        again, _ = env.reset(seed=seed, options={"near_miss": kind})
        np.testing.assert_array_equal(state[schema.STATE], again[schema.STATE])
        before = env.scene.data.xpos.copy()
        env.scene.arm.drive(env.scene.arm.setpoint, 50)
        env.scene.forward()
        assert np.abs(env.scene.data.xpos - before).max() < 1e-3  # m, in a tenth of a second
        assert not env.task.success(env.scene)
    with pytest.raises(ConfigError, match=kind):
        env.reset(options={"near_miss": f"{kind}x"})


def run_expert(env: WidowXEnv) -> bool:
    """Whether the expert succeeds in the episode that has begun."""
    for _ in range(env.task_spec.max_steps):
        *_, terminated, truncated, _ = env.step(env.expert_action())
        if terminated or truncated:
            break
    return terminated


@pytest.mark.parametrize("name", RIGID)
def test_expert_succeeds_and_starts_have_not(name: str, environments: dict[str, WidowXEnv]) -> None:
    env = environment(environments, name)
    for seed in range(2):
        _, info = env.reset(seed=seed)
        assert info["success"] is False
        assert run_expert(env)


@pytest.mark.parametrize("name", [name for name in RIGID if TASKS[name].pair and name not in PRIOR_TASKS])
def test_there_and_back_without_a_reset(name: str, environments: dict[str, WidowXEnv]) -> None:
    env = environment(environments, name)
    env.reset(seed=3)
    for way in (TASKS[name].pair, TASKS[name]().name, TASKS[name].pair):
        assert run_expert(env)
        _, info = env.reset(options={"keep_scene": True, "task": way})
        assert env.task_spec.name == way
        assert info["success"] is False
        assert info["instruction"] == env.task.instruction
    env.reset(seed=3)
    assert env.task_spec.name == f"widowx/{name}"  # a fresh start is the first task again


def test_the_prior_tasks_are_twenty_in_scenes_of_their_own() -> None:
    assert len(PRIOR_TASKS) == 20
    assert len({task().objects_xml() for task in PRIOR_TASKS.values()}) == 10
    assert len({task().instruction for task in PRIOR_TASKS.values()}) == 20


def test_candies_are_counted(environments: dict[str, WidowXEnv]) -> None:
    env = environment(environments, "candy_sweep")
    env.reset(seed=0, options={"near_miss": "half"})
    share = env.task.reward_terms(env.scene)["swept"]
    assert 0.4 <= share <= 0.7
    assert run_expert(env)
    assert env.task.reward_terms(env.scene)["swept"] >= 0.8


def test_grips_fit_the_fingers() -> None:
    with pytest.raises(ConfigError, match=r"width=0\.05"):
        Grip(height=0.03, width=0.05)
    quarter = Grip(height=0.03, width=0.02, period=np.pi / 2)
    assert quarter.turn(np.pi / 2 + 0.1) == pytest.approx(0.1)
    assert quarter.turn(-0.2) == pytest.approx(-0.2)
    np.testing.assert_allclose(
        Grip(0.04, 0.02, reach=-0.1).tool(np.array([0.3, 0.0, 0.0]), np.pi / 2), [0.3, -0.1, 0.04], atol=1e-12
    )


def test_gymnasium_ids() -> None:
    assert gymnasium_id("pick_place") == "robot_rl/WidowXPickPlace-v0"
    assert gymnasium_id("reach") == "robot_rl/WidowXReach-v0"


def test_keep_scene_leaves_the_physics(environments: dict[str, WidowXEnv]) -> None:
    env = environment(environments, "push")
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.expert_action())
    before = [env.scene.data.qpos.copy(), env.scene.data.qvel.copy(), env.scene.arm.setpoint]
    _, info = env.reset(options={"keep_scene": True, "task": "widowx/push"})
    for kept, now in zip(
        before, [env.scene.data.qpos, env.scene.data.qvel, env.scene.arm.setpoint], strict=True
    ):
        np.testing.assert_array_equal(kept, now)
    assert info["instruction"] == env.task_spec.instruction
    flags = [env.step(np.zeros(7, np.float32))[3] for _ in range(env.task_spec.max_steps)]
    assert flags == [False] * (env.task_spec.max_steps - 1) + [True]  # the clock started anew


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"keep_scen": True}, "keep_scene"),
        ({"task": "widowx/reach"}, "widowx/push"),
        ({"keep_scene": True, "near_miss": "short"}, "one of them"),
    ],
)
def test_bad_reset_options(options: dict[str, object], text: str, environments: dict[str, WidowXEnv]) -> None:
    with pytest.raises(ConfigError, match=text):
        environment(environments, "push").reset(options=options)


def test_options_reach_the_members_of_a_vector_environment() -> None:
    env = sim.ParallelVectorEnv("widowx/pick_place", 2, workers=0, cameras=())
    env.reset(seed=[0, 1])
    single = sim.make("widowx/pick_place", cameras=())
    expected, _ = single.reset(seed=5, options={"near_miss": "held"})
    states, _ = env.reset(seed=[5, 5], options={"reset_mask": [False, True], "near_miss": "held"})
    np.testing.assert_array_equal(states[schema.STATE][1], expected[schema.STATE])
    assert (states[schema.STATE][0] != expected[schema.STATE]).any()
    env.close()


@pytest.mark.parametrize("name", ["pot_lid_on", "weight_to_bin", "vase_to_bin", "mushroom_to_bin"])
def test_what_stands_on_a_disc_never_loses_the_table(name: str, environments: dict[str, WidowXEnv]) -> None:
    """At a tilt of 1e-15 rad MuJoCo finds no contact of plane and cylinder: nothing may rest there."""
    env = environment(environments, name)
    body = env.task.body  # type: ignore[attr-defined]
    for seed in range(3):
        env.reset(seed=seed)
        env.scene.arm.drive(env.scene.arm.setpoint, 250)
        tilt = np.hypot(*env.scene.data.body(body).xmat.reshape(3, 3)[:2, 2])
        assert 1e-9 < tilt < 1e-4  # rad
