"""`robot-rl play`: what is done is recorded, what is thrown away is not, and no display is said plainly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import sim
from robot_rl.cli.main import main
from robot_rl.cli.play import PICTURE, Operator, Window, Wish, drive
from robot_rl.data import schema
from robot_rl.data.recorder import EpisodeRecorder
from robot_rl.data.store import EpisodeStore
from robot_rl.safety import ActionGuard


class Script:
    """A screen whose wishes are given beforehand."""

    def __init__(self, wishes: list[Wish]) -> None:
        self.wishes, self.lines = wishes, [""]

    def show(self, picture: npt.NDArray[np.uint8], lines: tuple[str, ...]) -> None:
        assert picture.shape == (PICTURE, PICTURE, 3)
        self.lines.append(lines[0])

    def wish(self) -> Wish:
        return self.wishes.pop(0)


def motion(**axes: float) -> npt.NDArray[np.float32]:
    return np.array([axes.get(name, 0.0) for name in schema.ACTION_NAMES[:6]], np.float32)


def test_it_records_what_is_kept_and_nothing_else(tmp_path: Path) -> None:
    still = Wish(motion())
    screen = Script(
        [
            Wish(motion(dx=0.5)),
            Wish(motion(dx=0.5), toggle=True),
            Wish(motion(), command="keep"),
            still,
            Wish(motion(), command="discard"),
            *[Wish(motion(dz=0.1))] * 3,  # the clock ends this one
            *[still] * 3,  # and this one, which nobody touched
            Wish(motion(dx=0.5)),
            Wish(motion(), command="quit"),
        ]
    )
    env = sim.make("widowx/reach", max_steps=3, image_size=16)
    store = EpisodeStore(tmp_path, create=True)
    assert drive(env, screen, EpisodeRecorder(store), ActionGuard(1, 7), seed=5) == 2
    env.close()
    kept, timed_out = store[0], store[1]
    assert len(store) == 2
    assert (kept.metadata.source, kept.metadata.seed, timed_out.metadata.seed) == ("operator", 5, 7)
    assert kept.metadata.instruction == "move the gripper to the green ball"
    np.testing.assert_allclose(kept.action_requested[:, 0], 0.5)
    np.testing.assert_array_equal(kept.action_requested[:, 6], [1, 0])
    assert kept.observations[schema.STATE][-1, 0] > kept.observations[schema.STATE][0, 0] + 0.02
    assert kept.truncated.tolist() == [False, True]
    assert len(timed_out) == 3
    assert "kept 2" in screen.lines[-1]


@pytest.mark.parametrize(
    ("task", "size", "expected"),
    [
        ("widowx/push", 7, [1, 0, 0, 0, 0, 0.5, 0]),
        ("metaworld/reach-v3", 4, [1, 0, 0, 1]),
        ("robosuite/Lift", 7, [1, 0, 0, 0, 0, 0.5, 1]),
    ],
)
def test_a_closed_gripper_in_every_family(task: str, size: int, expected: list[float]) -> None:
    operator = Operator(task, size)
    np.testing.assert_allclose(operator.action(Wish(motion(dx=1.0, dyaw=0.5), toggle=True)), expected)
    opened = operator.action(Wish(motion(), toggle=True))[-1]
    assert opened == (1 if task.startswith("widowx") else -1)


def test_keys_reach_the_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    window = Window("a task", 0.001)
    window.show(np.zeros((PICTURE, PICTURE, 3), np.uint8), ("one", "two"))
    for key in (pygame.K_SPACE, pygame.K_RETURN):
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))
    wish = window.wish()
    assert (wish.toggle, wish.command) == (True, "keep")
    np.testing.assert_array_equal(wish.motion, 0)
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    assert window.wish().command == "quit"
    window.close()


def test_no_display_is_one_plain_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    assert main(["play", "task=widowx/reach"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("robot-rl: no display")
    assert said.count("\n") == 1
