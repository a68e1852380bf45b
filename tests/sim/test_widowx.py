"""The WidowX environments: contract, repeatability, controller, command filter, experts."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import sim
from robot_rl.data import schema
from robot_rl.errors import ConfigError
from sim.registry import gymnasium_id, register
from sim.widowx import WidowXEnv

TASKS = sim.tasks()


def make(task: str, **options: object) -> WidowXEnv:
    env = sim.make(task, **options)
    assert isinstance(env, WidowXEnv)
    return env


def move(**parts: float) -> np.ndarray:
    action = np.zeros(7, np.float32)
    for name, value in parts.items():
        action[schema.ACTION_NAMES.index(name)] = value
    return action


@pytest.mark.parametrize("task", TASKS)
def test_contract(task: str) -> None:
    env = make(task)
    check_env(env, skip_render_check=True)
    observation, info = env.reset(seed=3)
    assert set(observation) == {schema.STATE, schema.IMAGE}
    assert info == {"instruction": env.task_spec.instruction, "success": False}
    _, reward, terminated, truncated, info = env.step(env.expert_action())
    contract = {"success", "action", "filter_reason", "cost", "reward_terms", "instruction"}
    assert set(info) == contract | set(env.task.measurements(env.scene))
    assert reward == pytest.approx(sum(info["reward_terms"].values()))
    assert (terminated, truncated) == (False, False)
    assert env.unwrapped.task_spec.name == task
    assert env.task_spec.control_hz == 5
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_knows_the_task(task: str) -> None:
    register()  # a second time does no harm
    env = gymnasium.make(gymnasium_id(task.removeprefix("widowx/")), cameras=())
    assert env.unwrapped.task_spec.name == task


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_episode_whatever_came_before(task: str) -> None:
    def episode(env: WidowXEnv, seed: int) -> list[np.ndarray]:
        size = env.action_space.shape[0]
        actions = np.random.default_rng(0).uniform(-1, 1, (6, size)).astype(np.float32)
        observation, _ = env.reset(seed=seed)
        trace = [observation[schema.STATE], observation[schema.IMAGE]]
        for action in actions:
            observation, reward, *_ = env.step(action)
            trace += [observation[schema.STATE], observation[schema.IMAGE], np.array(reward)]
        return trace

    fresh, used = make(task), make(task)
    episode(used, seed=1)
    for a, b in zip(episode(fresh, seed=2), episode(used, seed=2), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(episode(fresh, 2), episode(fresh, 3), strict=True))


@pytest.mark.parametrize("task", ["widowx/reach", "widowx/push", "widowx/pick_place"])
def test_expert_succeeds(task: str) -> None:
    """Held at the documented levels: .97 without noise, .85 with a noise of .2."""
    env = sim.ParallelVectorEnv(task, 16, workers=0, cameras=())
    for noise, least in ((0.0, 0.97), (0.2, 0.85)):
        policy = sim.ExpertPolicy(env, noise)
        seeds = np.arange(32).reshape(-1, 16)
        successes = []
        for batch in seeds:
            observations, _ = env.reset(seed=batch.tolist())
            policy.reset(np.ones(16, bool), batch)
            ended = np.zeros(16, bool)
            while not ended.all():
                observations, _, terminated, truncated, _ = env.step(policy.act(observations))
                ended = terminated | truncated
            successes += terminated.tolist()
        assert np.mean(successes) >= least
    env.close()


def test_expert_rests_after_success() -> None:
    env = make("widowx/push", cameras=(), hold_steps=3)
    env.reset(seed=0)
    for _ in range(40):
        *_, terminated, truncated, info = env.step(env.expert_action())
        if info["success"] and not terminated:
            assert np.abs(env.expert_action()[:2]).max() < 1e-6
        if terminated or truncated:
            break
    assert terminated


def test_truncated_by_the_clock_alone() -> None:
    env = make("widowx/push", cameras=(), max_steps=3)
    env.reset(seed=0)
    flags = [env.step(np.zeros(7, np.float32))[2:4] for _ in range(3)]
    assert flags == [(False, False), (False, False), (False, True)]


def test_action_moves_the_tool_by_its_scale() -> None:
    env = make("widowx/pick_place", cameras=())
    start = env.reset(seed=0)[0][schema.STATE]
    env.step(move(dz=1.0, gripper=1.0))
    for action in (move(dy=0.8, gripper=1.0), *[move(gripper=1.0)] * 5):
        state = env.step(action)[0][schema.STATE]
    np.testing.assert_allclose(state[:3] - start[:3], [0, 0.04, 0.05], atol=0.004)
    np.testing.assert_allclose(state[3:6], 0, atol=0.02)
    for action in (move(dyaw=1.0), *[move()] * 5):
        state = env.step(action)[0][schema.STATE]
    assert state[5] == pytest.approx(schema.DELTA_ROTATION_RAD, abs=0.02)
    assert state[6] == pytest.approx(0.0, abs=0.05)  # closed by the last actions, open before


@pytest.mark.parametrize("task", [task for task in TASKS if not task.startswith("widowx/maze")])
def test_tool_stays_in_the_workspace(task: str) -> None:
    """But for what joint interpolation bulges out. (The maze has springs, and no joint setpoints.)"""
    env = make(task, cameras=())
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    workspace = env.task.workspace
    for _ in range(12):
        action = rng.choice([-1.0, 1.0], 7).astype(np.float32)
        for _ in range(6):
            env.step(action)
        pose = env.scene.arm.kinematics.forward(env.scene.arm.setpoint[:6])
        assert (pose.position >= np.array(workspace.low) - 0.008).all()
        assert (pose.position <= np.array(workspace.high) + 0.008).all()


@pytest.mark.parametrize("bad", [np.full(7, np.nan), np.zeros(6), np.array([0, 0, 0, 0, 0, 0, np.inf])])
def test_bad_actions_are_refused(bad: np.ndarray) -> None:
    env = make("widowx/reach", cameras=())
    env.reset(seed=0)
    with pytest.raises(sim.SimulationError, match="action"):
        env.step(bad.astype(np.float32))


class Recorder:
    """Passes setpoints on, through an optional change."""

    def __init__(self, keep: float = 1.0, reason: int = 0) -> None:
        self.keep, self.reason = keep, reason
        self.reset()

    def reset(self) -> None:
        self.times: list[float] = []
        self.requests: list[np.ndarray] = []
        self.first: np.ndarray | None = None

    def __call__(self, requested: np.ndarray, measured: np.ndarray, time_s: float) -> tuple[np.ndarray, int]:
        assert requested.shape == measured.shape == (7,)
        self.times.append(time_s)
        self.requests.append(requested)
        if self.first is None:
            self.first = measured.copy()
        return self.first + self.keep * (requested - self.first), self.reason


def test_filter_sees_every_setpoint_at_50_hz_and_is_reset() -> None:
    env, watcher = make("widowx/reach", cameras=()), Recorder()
    env.set_command_filter(watcher)
    env.reset(seed=0)
    env.step(move(dx=0.5))
    env.step(move(dx=0.5))
    assert len(watcher.times) == 20
    np.testing.assert_allclose(np.diff(watcher.times), 1 / schema.SETPOINT_HZ, atol=1e-9)
    assert np.abs(np.diff(watcher.requests, axis=0)[:, :6]).max() <= np.pi / schema.SETPOINT_HZ + 1e-9
    env.reset(seed=0)
    assert watcher.times == []


def test_filter_that_changes_nothing_changes_nothing() -> None:
    plain, watched = make("widowx/push"), make("widowx/push")
    watched.set_command_filter(lambda requested, measured, time_s: (requested, 0))
    plain.reset(seed=5)
    watched.reset(seed=5)
    for action in np.random.default_rng(1).uniform(-2, 2, (5, 7)).astype(np.float32):
        (a, *_, info), (b, *_, watched_info) = plain.step(action), watched.step(action)
        np.testing.assert_array_equal(a[schema.IMAGE], b[schema.IMAGE])
        np.testing.assert_array_equal(info["action"], np.clip(action, -1, 1))
        np.testing.assert_array_equal(watched_info["action"], info["action"])
        assert info["filter_reason"] == watched_info["filter_reason"] == 0


@pytest.mark.parametrize(("keep", "expected"), [(0.5, 0.4), (0.0, 0.0)])
def test_executed_action_is_what_the_filter_left(keep: float, expected: float) -> None:
    env = make("widowx/reach", cameras=())
    env.set_command_filter(Recorder(keep, reason=schema.FILTER_REASONS.index("energy")))
    env.reset(seed=0)
    *_, info = env.step(move(dx=0.8))
    assert schema.FILTER_REASONS[info["filter_reason"]] == "energy"
    assert info["action"][0] == pytest.approx(expected, abs=0.03)
    np.testing.assert_allclose(info["action"][1:6], 0, atol=0.05)


def test_executed_action_replays_to_the_same_setpoint() -> None:
    filtered, plain = make("widowx/reach", cameras=()), make("widowx/reach", cameras=())
    filtered.set_command_filter(Recorder(0.6, reason=9))
    filtered.reset(seed=0)
    plain.reset(seed=0)
    *_, info = filtered.step(move(dx=0.5, dy=-0.7, dz=0.3, dyaw=0.6))
    plain.step(info["action"])
    np.testing.assert_allclose(plain.scene.arm.setpoint, filtered.scene.arm.setpoint, atol=2e-3)


def test_more_cameras_and_sizes() -> None:
    env = make("widowx/push", cameras=("front", "side", "top"), image_size=32)
    observation, _ = env.reset(seed=0)
    pictures = [observation[schema.image_key(camera)] for camera in ("front", "side", "top")]
    assert all(picture.shape == (32, 32, 3) for picture in pictures)
    assert (pictures[0] != pictures[2]).any()
    env.close()


def test_the_camera_sees_block_plate_and_gripper() -> None:
    env = make("widowx/push")
    for seed in range(4):
        picture = env.reset(seed=seed)[0][schema.IMAGE].astype(int)
        red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
        assert ((red > 2 * green) & (red > 2 * blue)).sum() >= 15
        assert ((green > 2 * red) & (green > 2 * blue)).sum() >= 15
        assert ((red > 1.2 * green) & (green > 2 * blue)).sum() >= 4
    env.close()


def test_reward_weights_by_name() -> None:
    env = make("widowx/push", cameras=(), reward_weights={"block_to_plate": 0.0, "tool_to_block": 0.0})
    env.reset(seed=0)
    assert env.step(np.zeros(7, np.float32))[1] == 0.0
    with pytest.raises(ConfigError, match="block_to_plate"):
        make("widowx/push", reward_weights={"block_to_plat": 1.0})


@pytest.mark.parametrize(
    ("task", "options", "text"),
    [
        ("widowx/pussh", {}, "did you mean widowx/push"),
        ("push", {}, "widowx/push"),
        ("widowx/push", {"imagesize": 3}, "image_size"),
        ("widowx/push", {"image_size": 3}, "image_size=3"),
        ("widowx/push", {"cameras": ("frnt",)}, "did you mean front"),
        ("widowx/push", {"hold_steps": 0}, "hold_steps=0"),
    ],
)
def test_errors_name_the_remedy(task: str, options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        sim.make(task, **options)
