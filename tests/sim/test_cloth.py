"""The cloth: its geometry, that it is inextensible and held by friction alone, and the tasks on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mujoco
import numpy as np
import pytest

import sim
from robot_rl.data import schema
from sim import cloth
from sim.cloth import Cloth
from sim.tasks.base import action_towards
from sim.widowx import WidowXEnv

PAIRS = [("cloth_fold", "cloth_unfold"), ("cloth_cover", "cloth_uncover")]
STATE = mujoco.mjtState.mjSTATE_INTEGRATION


@pytest.fixture(scope="module")
def make() -> Iterator[Callable[[str], WidowXEnv]]:
    """State-only environments by task, each compiled once."""
    made: dict[str, WidowXEnv] = {}

    def environment(name: str) -> WidowXEnv:
        if name not in made:
            made[name] = sim.make(f"widowx/{name}", cameras=())  # type: ignore[assignment]
        return made[name]

    yield environment
    for env in made.values():
        env.close()


def play(env: WidowXEnv, watch: Callable[[], None] = lambda: None) -> bool:
    """Let the expert act until the episode ends; whether it succeeded."""
    while True:
        _, _, terminated, truncated, _ = env.step(env.expert_action())
        watch()
        if terminated or truncated:
            return terminated


def stretch(env: WidowXEnv) -> float:
    """The longest edge of the cloth by its length at rest."""
    return float((env.scene.data.flexedge_length / env.scene.model.flexedge_length0).max())


def test_mirror_swaps_the_halves() -> None:
    np.testing.assert_array_equal(cloth.MIRROR[cloth.MIRROR], np.arange(len(cloth.REST)))
    np.testing.assert_allclose(cloth.REST[cloth.MIRROR], cloth.REST * [1, -1], atol=1e-12)
    assert cloth.MIRROR[cloth.KNOT] == cloth.OPPOSITE


@pytest.mark.parametrize(("share", "angle"), [(1.0, 0.0), (1.0, 0.4), (0.5, 0.0), (0.3, -0.7)])
def test_folding_stretches_no_triangle(share: float, angle: float) -> None:
    flat = cloth.flat((0.3, -0.1), yaw=0.3)
    turned = cloth.folded(flat, share, angle, height=flat[0, 2])
    for a, b in ((0, 1), (1, 2), (2, 0)):
        ends = cloth.ELEMENTS[:, [a, b]]
        before = np.linalg.norm(flat[ends[:, 0]] - flat[ends[:, 1]], axis=1)
        after = np.linalg.norm(turned[ends[:, 0]] - turned[ends[:, 1]], axis=1)
        assert (after <= before + 1e-12).all()
    assert (turned != flat).any()
    if (share, angle) == (1.0, 0.0):
        moved = cloth.REST[:, 1] < 0
        np.testing.assert_allclose(turned[moved], flat[cloth.MIRROR[moved]], atol=1e-12)


def test_spread_of_a_flat_and_of_a_folded_cloth() -> None:
    flat = cloth.flat((0.3, 0.0), yaw=-0.4)
    np.testing.assert_allclose(cloth.spread(flat), 1.0)
    along, across = cloth.spread(cloth.folded(flat))
    assert along < 0.05
    assert across == pytest.approx(1.0)


def test_hidden_are_the_points_under_the_cloth() -> None:
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-0.15, 0.15, (400, 2)), np.zeros(400)])
    under = np.abs(points[:, :2]).sum(1) < cloth.DIAGONAL / 2  # the diamond, by its definition
    flat = cloth.flat((0.0, 0.0), height=0.03)
    for point, expected in zip(points, under, strict=True):
        assert cloth.hidden(flat, point[None]) == expected
    assert cloth.hidden(flat, points) == pytest.approx(under.mean())
    assert cloth.hidden(flat, points + np.array([0, 0, 0.1])) == 0.0  # cloth below them hides nothing


@pytest.mark.parametrize(("forward", "backward"), PAIRS)
def test_forward_and_backward_without_a_reset(
    forward: str, backward: str, make: Callable[[str], WidowXEnv]
) -> None:
    env = make(forward)
    _, info = env.reset(seed=0)
    assert info["success"] is False
    longest: list[float] = []
    for name in (forward, backward, forward):
        if name != forward or longest:
            _, info = env.reset(options={"keep_scene": True, "task": f"widowx/{name}"})
            assert info["success"] is False
        assert play(env, lambda: longest.append(stretch(env)))
    assert max(longest) < 1.15
    assert env.scene.data.warning[mujoco.mjtWarning.mjWARN_BADQACC].number == 0


@pytest.mark.parametrize("name", ["cloth_unfold", "cloth_uncover"])
def test_backward_from_its_own_start(name: str, make: Callable[[str], WidowXEnv]) -> None:
    _, info = make(name).reset(seed=3)
    assert info["success"] is False
    assert play(make(name))


@pytest.mark.parametrize("name", ["cloth_fold", "cloth_cover"])
def test_same_seed_same_cloth_and_a_saved_state_goes_on_alike(
    name: str, make: Callable[[str], WidowXEnv]
) -> None:
    env, nudge = make(name), np.array([0.1, 0.2, 0, 0, 0, 0, 0])
    ends = []
    for _ in range(2):
        env.reset(seed=7)
        model, data = env.scene.model, env.scene.data
        saved, setpoint = np.zeros(mujoco.mj_stateSize(model, STATE)), env.scene.arm.setpoint
        mujoco.mj_getState(model, data, saved, STATE)
        for _ in range(2):
            env.scene.arm.drive(setpoint + nudge, 50)
        ends.append(data.qpos.copy())
        mujoco.mj_setState(model, data, saved, STATE)
        for _ in range(2):
            env.scene.arm.drive(setpoint + nudge, 50)
        ends.append(data.qpos.copy())
    for end in ends[1:]:
        np.testing.assert_array_equal(end, ends[0])
    env.reset(seed=8)
    assert (env.scene.data.qpos != ends[0]).any()


def test_nothing_sticks(make: Callable[[str], WidowXEnv]) -> None:
    """The knot comes up between closed fingers, and stays down between open or frictionless ones."""
    env = make("cloth_fold")
    friction = env.scene.model.geom_friction.copy()
    heights = []
    for opening, slippery in ((0.0, False), (1.0, False), (0.0, True)):
        env.reset(seed=0)
        knot = Cloth(env.scene).knot
        if slippery:
            env.scene.model.geom_friction[:] = 1e-5
        for height, gripper, steps in (
            (0.07, 1.0, 8),
            (0.026, 1.0, 4),
            (0.026, opening, 3),
            (0.08, opening, 6),
        ):
            for _ in range(steps):
                action = action_towards(env.scene, np.array([*knot[:2], height]), gripper, 0.6)
                env.step(np.clip(action, -1, 1).astype(np.float32))
        heights.append(Cloth(env.scene).knot[2])
        env.scene.model.geom_friction[:] = friction
    assert heights[0] > 0.05
    assert max(heights[1:]) < 0.02


def test_a_held_cloth_and_a_heap_are_no_fold(make: Callable[[str], WidowXEnv]) -> None:
    env = make("cloth_fold")
    env.reset(seed=0)
    scene, task = env.scene, env.task
    surface = Cloth(scene)
    flat = surface.vertices
    surface.lay(cloth.folded(flat))
    scene.forward()
    assert task.success(scene)
    surface.lay(flat.mean(0) + 0.1 * (flat - flat.mean(0)))  # all vertices near their mirror images
    scene.forward()
    assert not task.success(scene)
    surface.lay(cloth.folded(flat) + np.array([0, 0, 0.1]))
    scene.forward()
    assert not task.success(scene)
    surface.lay(cloth.folded(flat))
    scene.arm.drive(np.append(scene.arm.setpoint[:6], 0.015), 100)
    scene.forward()
    assert not task.success(scene)  # the gripper is closed


def test_the_picture_shows_the_cloth_where_it_is_laid() -> None:
    env = sim.make("widowx/cloth_fold", cameras=(schema.DEFAULT_CAMERA,), image_size=64)
    observation, _ = env.reset(seed=0)
    scene = env.unwrapped.scene  # type: ignore[attr-defined]

    def blue() -> int:
        picture = scene.render(schema.DEFAULT_CAMERA, 64).astype(int)
        return int((picture[..., 2] > picture[..., 0] + 60).sum())

    flat = blue()
    Cloth(scene).lay(cloth.folded(Cloth(scene).vertices))
    scene.forward()
    assert observation[schema.image_key(schema.DEFAULT_CAMERA)].shape == (64, 64, 3)
    assert 0.35 * flat < blue() < 0.65 * flat
    env.close()
