"""Imperfect signals and other looks: what they do, that they repeat, and that they leave no trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import sim
from robot_rl.data import schema
from robot_rl.errors import ConfigError
from sim.arm import PHYSICS_STEPS_PER_SETPOINT
from sim.randomisation import Imperfections, Looks, RandomisationConfig
from sim.widowx import WidowXEnv

ALL = {
    "latency_s": (0.0, 0.1),
    "observation_delay_s": (0.02, 0.15),
    "joint_noise_rad": 0.005,
    "finger_noise_m": 0.0005,
    "backlash_rad": 0.01,
    "camera_position_m": 0.03,
    "camera_rotation_rad": 0.05,
    "light": 0.3,
    "colour": 0.2,
}


def make(image_size: int = 16, cameras: tuple[str, ...] = (), **randomisation: Any) -> WidowXEnv:
    env = sim.make("widowx/push", cameras=cameras, image_size=image_size, randomisation=randomisation)
    assert isinstance(env.unwrapped, WidowXEnv)
    return env.unwrapped


def episode(env: WidowXEnv, seed: int, steps: int = 6) -> list[np.ndarray]:
    observation, _ = env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    seen = list(observation.values())
    for _ in range(steps):
        observation, *_ = env.step(rng.uniform(-1, 1, 7).astype(np.float32))
        seen += [*observation.values(), env.scene.data.qpos.copy()]
    return seen


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_same_seed_same_episode_whatever_came_before() -> None:
    env, other = make(cameras=("front",), **ALL), make(cameras=("front",), **ALL)
    first = episode(env, 5)
    episode(other, 9)
    assert same(first, episode(other, 5))
    assert same(first, episode(env, 5))
    assert not same(first, episode(env, 6))


def test_off_by_default_and_without_a_trace() -> None:
    assert not RandomisationConfig().signals
    assert not RandomisationConfig().looks
    plain = make(cameras=("front",))
    assert same(episode(plain, 3), episode(make(cameras=("front",), light=0.0), 3))


def test_the_objects_of_a_seed_stand_where_they_stand_without() -> None:
    plain, random = make(), make(**ALL)
    plain.reset(seed=4)
    random.reset(seed=4)
    np.testing.assert_array_equal(plain.scene.position("block"), random.scene.position("block"))


def test_looks_go_back_and_stay_near() -> None:
    env = make(**ALL)
    model = env.scene.model
    fresh = make().scene.model
    for seed in range(4):
        env.reset(seed=seed)
        assert 0 < np.abs(model.cam_pos - fresh.cam_pos).max() <= 0.03
        change = np.abs(model.geom_rgba - fresh.geom_rgba)
        assert 0 < change.max() <= 0.2 + 1e-6
        assert not change[:, 3].any()  # nothing becomes transparent
        np.testing.assert_allclose(np.linalg.norm(model.cam_quat, axis=1), 1, atol=1e-9)
    Looks(fresh).restore()
    env.scene.randomise(RandomisationConfig(), np.random.default_rng(0))
    np.testing.assert_array_equal(model.geom_rgba, fresh.geom_rgba)
    np.testing.assert_array_equal(model.vis.headlight.diffuse, fresh.vis.headlight.diffuse)


def test_a_late_command_moves_the_arm_later_by_the_latency() -> None:
    action = np.array([1, 0, 0, 0, 0, 0, 0.5], np.float32)
    paths = []
    for latency in (0.0, 0.06):
        env = make(latency_s=(latency, latency))
        env.reset(seed=0)
        path = [env.scene.arm.measured]
        arm = env.scene.arm
        follow = arm.servos.follow

        def watched(setpoint: np.ndarray, steps: int, follow: Any = follow, arm: Any = arm) -> None:
            for _ in range(steps):
                follow(setpoint, 1)
                path.append(arm.measured)  # noqa: B023 - consumed before the next turn

        arm.servos.follow = watched
        for _ in range(2):
            env.step(action)
        paths.append(np.array(path))
    shift = round(0.06 / schema.PHYSICS_STEP_S)
    np.testing.assert_allclose(paths[1][shift:, :6], paths[0][:-shift, :6], atol=2e-3)
    assert np.abs(paths[1][shift] - paths[1][0])[:6].max() < 1e-3


def signals(**terms: Any) -> tuple[Imperfections, WidowXEnv]:
    env = make()
    env.reset(seed=0)
    return Imperfections(RandomisationConfig(**terms), np.random.default_rng(0)), env


def test_latency_has_the_resolution_of_a_physics_step() -> None:
    imperfections, env = signals(latency_s=(0.026, 0.026))  # one tick and three steps
    imperfections.start(np.zeros(7), np.zeros(7), env.scene.data)
    arrived = []
    for tick in range(1, 5):
        for setpoint, steps in imperfections.commands(np.full(7, float(tick))):
            arrived += [setpoint[0]] * steps
    assert len(arrived) == 4 * PHYSICS_STEPS_PER_SETPOINT
    assert arrived.index(1.0) == 13
    assert arrived.index(2.0) == 23


def test_backlash_is_play() -> None:
    imperfections, env = signals(backlash_rad=0.05)
    play = imperfections.backlash[:6]
    assert ((play > 0) & (play <= 0.05)).all()
    imperfections.start(np.zeros(7), np.zeros(7), env.scene.data)

    def command(value: float) -> np.ndarray:
        return next(imperfections.commands(np.full(7, value)))[0][:6]

    np.testing.assert_array_equal(command(0.001 * play.min()), 0)  # inside the play nothing moves
    np.testing.assert_allclose(command(0.2), 0.2 - play / 2)
    np.testing.assert_allclose(command(0.199), 0.2 - play / 2)  # turning back, it stays
    np.testing.assert_allclose(command(0.0), play / 2)


def test_readings_are_late_and_as_noisy_as_said() -> None:
    imperfections, env = signals(observation_delay_s=(0.05, 0.05), joint_noise_rad=0.004)
    imperfections.start(np.zeros(7), np.zeros(7), env.scene.data)
    errors = []
    for tick in range(1, 2000):
        imperfections.record(np.full(7, float(tick)), env.scene.data)
        if tick > 5:
            errors.append(imperfections.reading() - (tick - 2.5))
            np.testing.assert_array_equal(imperfections.reading() - (tick - 2.5), errors[-1])
    spread = np.std(errors, axis=0)
    np.testing.assert_allclose(spread[:6], imperfections.noise[:6], rtol=0.1)
    assert 0 < imperfections.noise[0] <= 0.004
    assert spread[6] < 1e-9


def test_success_and_expert_see_the_truth() -> None:
    env = make(joint_noise_rad=0.05, finger_noise_m=0.005)
    observation, _ = env.reset(seed=1)
    assert not np.allclose(observation[schema.STATE], env.scene.arm.state(), atol=1e-4)
    np.testing.assert_array_equal(env.expert_action(), env.expert_action())


def test_a_late_picture_shows_the_past() -> None:
    late = make(cameras=("front",), observation_delay_s=(0.2, 0.2), image_size=48)
    prompt = make(cameras=("front",), image_size=48)
    action = np.array([1, 0, 0, 0, 0, 0, 0.5], np.float32)
    first, _ = prompt.reset(seed=2)
    late.reset(seed=2)
    prompt.step(action)
    observation, *_ = late.step(action)
    difference = np.abs(observation[schema.IMAGE].astype(int) - first[schema.IMAGE])
    assert difference.max() <= 2  # a step of .2 s later it shows the beginning


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"latency_s": (0.2, 0.1)}, "latency_s"),
        ({"joint_noise_rad": -1.0}, "joint_noise_rad=-1.0"),
        ({"light": 2.0}, "light=2.0"),
        ({"lights": 0.1}, r"unknown randomisation term 'lights'.*light"),
    ],
)
def test_bad_randomisation_is_refused_by_name(bad: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make(**bad)


@pytest.mark.parametrize("mode", ["joint_velocity", "cartesian_impedance", "variable_impedance"])
def test_control_modes_of_the_environment(mode: str) -> None:
    env = sim.make("widowx/reach", cameras=(), control_mode=mode)
    assert env.action_space.shape == ((11,) if mode == "variable_impedance" else (7,))
    for seed in range(2):
        env.reset(seed=seed)
        done = False
        while not done:
            *_, terminated, truncated, info = env.step(env.unwrapped.expert_action())  # type: ignore[attr-defined]
            done = terminated or truncated
        assert info["success"]
        assert info["action"].shape == env.action_space.shape


def test_unknown_control_mode_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown control mode 'velocity'.*joint_velocity"):
        sim.make("widowx/reach", control_mode="velocity")
