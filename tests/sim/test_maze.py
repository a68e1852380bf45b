"""The maze: its walls hold, its springs are the springs they claim to be, and its accounts balance."""

from __future__ import annotations

import functools

import gymnasium
import mujoco
import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.utils.env_checker import check_env

import sim
from robot_rl.data import schema
from robot_rl.safety import PassivityConfig, PassivityFilter
from sim.peg import REACH, PegArm, action_of, damping_of, stiffness_of
from sim.tasks.maze import MazeTask, layout, peg_arm
from sim.widowx import WidowXEnv


def maze(task: str = "maze", **options: object) -> WidowXEnv:
    env = sim.make(f"widowx/{task}", cameras=(), **options)
    assert isinstance(env, WidowXEnv)
    return env


def play(env: WidowXEnv, seed: int, noise: float = 0.0) -> dict[str, float]:
    """One episode of the expert; the last step's info, with the largest peak force."""
    rng, force = np.random.default_rng([seed, 1]), 0.0
    env.reset(seed=seed)
    while True:
        action = env.expert_action() + noise * rng.standard_normal(4).astype(np.float32)
        _, _, terminated, truncated, info = env.step(np.clip(action, -1, 1))
        force = max(force, info["peak_force"])
        if terminated or truncated:
            return info | {"force": force, "success": float(terminated)}


@pytest.mark.parametrize("task", ["maze", "maze_back"])
def test_the_expert_finds_the_way_gently(task: str) -> None:
    env = maze(task)
    results = [play(env, schema.SEED_HELD_OUT + i) for i in range(4)]
    assert all(result["success"] for result in results)
    assert max(result["force"] for result in results) < 10


def test_the_drawing_alone_does_not_lead_to_the_goal() -> None:
    """Following the drawn way with stiff springs fails in most mazes: that is why it takes contact."""
    env, wins = maze(), 0
    for seed in range(6):
        env.reset(seed=seed)
        arm = peg_arm(env.scene)
        drawn = [(0.24, -0.05), (0.282, -0.05), (0.282, 0.0), (0.324, 0.0), (0.324, 0.07 * arm.hint)]
        step = -1
        for point in drawn:
            for _ in range(9):
                step += 1
                offset = np.clip((np.array(point) - arm.position) / REACH, -0.7, 0.7)
                *_, terminated, _, _ = env.step(np.array([*offset, 1, 1], np.float32))
                if terminated:
                    break
        wins += env.task.success(env.scene)
    assert wins <= 3


def test_fits_the_contract() -> None:
    env = maze()
    check_env(env, skip_render_check=True)
    observation, _ = env.reset(seed=0)
    assert observation[schema.STATE].shape == (len(PegArm.state_names),)
    assert gymnasium.spec("robot_rl/WidowXMaze-v0")
    *_, info = env.step(np.zeros(4, np.float32))
    assert {"cost", "energy", "net_energy", "peak_net_energy", "peak_force"} <= info.keys()


def test_forth_and_back_without_a_reset() -> None:
    env = maze()
    env.reset(seed=5)
    for name in ("maze_back", "maze", "maze_back"):
        for _ in range(60):
            *_, terminated, _, _ = env.step(env.expert_action())
            if terminated:
                break
        assert terminated
        _, info = env.reset(options={"keep_scene": True, "task": f"widowx/{name}"})
        assert not info["success"]
        assert peg_arm(env.scene).ledger.peak == 0


@pytest.mark.parametrize("task", ["maze", "maze_back"])
@pytest.mark.parametrize("kind", MazeTask.near_misses)
def test_near_misses_are_settled_and_are_none(task: str, kind: str) -> None:
    env = maze(task)
    for seed in range(3):
        _, info = env.reset(seed=seed, options={"near_miss": kind})
        assert not info["success"]
        before = peg_arm(env.scene).tip
        for _ in range(3):
            *_, terminated, _, info = env.step(np.zeros(4, np.float32))
        assert not terminated
        assert np.linalg.norm(peg_arm(env.scene).tip - before) < 0.003
        assert info["peak_force"] < 2


def test_walls_differ_between_episodes_and_repeat_with_the_seed() -> None:
    env = maze()
    found = []
    for seed in (1, 2, 1):
        env.reset(seed=seed)
        here = layout(env.scene)
        found.append(np.concatenate([here.start, *here.gaps, here.goal]))
    assert np.array_equal(found[0], found[2])
    assert np.abs(found[0] - found[1]).max() > 0.002


def test_the_way_gets_shorter_without_jumps() -> None:
    env = maze()
    env.reset(seed=3)
    ways = [layout(env.scene).way(peg_arm(env.scene).tip, False)]
    for _ in range(60):
        *_, terminated, _, _ = env.step(env.expert_action())
        ways.append(layout(env.scene).way(peg_arm(env.scene).tip, False))
        if terminated:
            break
    assert np.abs(np.diff(ways)).max() < 0.035
    assert ways[-1] < 0.015


def static_force(arm: PegArm, offset: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The force (3,) [N] that the actuators put on the tool at rest, from their joint torques."""
    jacobian = np.zeros((6, arm.model.nv))
    mujoco.mj_jacSite(arm.model, arm.data, jacobian[:3], jacobian[3:], arm.model.site("tool").id)
    springs = [arm.model.actuator(f"spring_{axis}").id for axis in "xyz"]
    arm.data.ctrl[springs[:2]] += offset
    mujoco.mj_forward(arm.model, arm.data)
    torque = arm.data.qfrc_actuator - arm.data.qfrc_gravcomp
    wrench: npt.NDArray[np.float64] = np.linalg.solve(jacobian[:, :6].T, torque[:6])
    return wrench[:3]


def test_the_springs_pull_with_stiffness_times_offset() -> None:
    env = maze()
    env.reset(seed=0)
    arm = peg_arm(env.scene)
    force = static_force(arm, np.array([0.01, -0.02]))
    assert force[:2] == pytest.approx(arm.stiffness * [0.01, -0.02], abs=1e-3)


def test_stiffness_actions_invert() -> None:
    action = np.array([-1.0, 0.3])
    assert action_of(stiffness_of(action)) == pytest.approx(action)
    assert (damping_of(stiffness_of([1.0, 1.0])) > damping_of(stiffness_of([-1.0, -1.0]))).all()


def test_the_ledger_balances_in_free_space() -> None:
    """Injected = dissipated by our dampers + what is stored + what joints and friction took: no energy from
    nowhere, and most of it accounted for."""
    env = maze()
    env.reset(seed=0)
    arm = peg_arm(env.scene)
    for dy in (-1, 1, -1, 1, 0, 0):
        env.step(np.array([0, dy * 0.3, 0, 0], np.float32))
    stored = 0.5 * float(arm.spring @ (arm.stiffness * arm.spring))
    assert arm.ledger.injected > 0
    assert 0.4 * arm.ledger.injected < arm.ledger.dissipated + stored < arm.ledger.injected + 1e-3


def test_the_filter_keeps_the_ledger_within_the_tank() -> None:
    """What the physics counts against a bang-bang policy that also pumps the stiffness: over the budget
    without the filter, within it with the filter."""
    config = PassivityConfig(tank_max_j=0.6, tank_min_j=0.1)
    peaks = {}
    for name in ("none", "filter"):
        env = maze()
        if name == "filter":
            env.set_command_filter(PassivityFilter(config))
        env.reset(seed=2)
        rng = np.random.default_rng(0)
        reasons = 0
        for _ in range(25):
            action = np.sign(rng.standard_normal(4)).astype(np.float32)
            observation, *_, info = env.step(action)
            reasons += info["filter_reason"] > 0
            if info["filter_reason"] == 0 and name == "filter":
                assert np.array_equal(info["action"], action)
        peaks[name] = info["peak_net_energy"]
        assert (reasons > 0) == (name == "filter")
        if name == "filter":
            tank = observation[schema.STATE][PegArm.state_names.index("tank")]
            assert config.tank_min_j - 1e-6 <= tank <= config.tank_max_j + 1e-6
    assert peaks["none"] > 0.5 + 0.1
    assert peaks["filter"] <= 0.5 + 2e-3


def test_a_vector_of_filtered_mazes() -> None:
    factory = functools.partial(PassivityFilter, PassivityConfig(tank_max_j=0.6))
    env = sim.ParallelVectorEnv("widowx/maze", 2, workers=0, command_filter_factory=factory, cameras=())
    env.reset(seed=[0, 1])
    for _ in range(4):
        _, _, _, _, info = env.step(np.ones((2, 4), np.float32))
    assert (info["filter_reason"] > 0).any()
    assert info["cost"].max() > 0
    env.close()
