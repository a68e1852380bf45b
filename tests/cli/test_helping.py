"""A person who helps out at the keys: when the arm is theirs, and what is kept of it."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from robot_rl.cli.helping import GRIPPING, RELEASE_AFTER, AtTheKeys
from robot_rl.cli.main import EXIT_USER_ERROR, main
from robot_rl.cli.play import Wish
from robot_rl.cli.recordings import keep_practice
from robot_rl.data import schema
from robot_rl.data.store import EpisodeStore
from tests.cli.test_play import Script, motion
from tests.data.make import episode, same

STILL, PUSH = Wish(motion()), Wish(motion(dx=0.5))


def seen(gripper: float) -> dict[str, np.ndarray]:
    state = np.zeros(7, np.float32)
    state[6] = gripper
    return {schema.STATE: state, schema.IMAGE: np.zeros((64, 64, 3), np.uint8)}


def test_the_arm_is_the_persons_from_the_first_key_until_a_while_after_the_last() -> None:
    screen = Script([STILL, PUSH, *[STILL] * RELEASE_AFTER, PUSH])
    keys = AtTheKeys(screen, "widowx/drawer_open", 7)
    theirs = []
    for _ in range(3 + RELEASE_AFTER):
        keys.watch(seen(1.0), "open the drawer")
        theirs.append(keys.poll() is not None)
    assert theirs == [False, *[True] * RELEASE_AFTER, False, True]
    assert "practising" in screen.lines[1]
    assert "yours" in screen.lines[3]


@pytest.mark.parametrize(("opening", "gripper"), [(GRIPPING - 0.2, 0.0), (1.0, 1.0)])
def test_taking_over_leaves_the_gripper_as_it_is(opening: float, gripper: float) -> None:
    keys = AtTheKeys(Script([PUSH, Wish(motion(), toggle=True)]), "widowx/drawer_open", 7)
    keys.watch(seen(opening), "open the drawer")
    first, second = keys.poll(), keys.poll()
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(first, [0.5, 0, 0, 0, 0, 0, gripper])
    assert second[6] == 1 - gripper


def test_quitting_stops_as_ctrl_c_does() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            AtTheKeys(Script([Wish(motion(), command="quit")]), "widowx/drawer_open", 7).poll()
    finally:
        signal.signal(signal.SIGINT, before)


def test_episodes_with_a_persons_steps_are_kept(tmp_path: Path) -> None:
    context: Any = SimpleNamespace(run=SimpleNamespace(data_dir=lambda name: tmp_path / name))
    alone = episode(1)
    alone.is_intervention[:] = False
    helped = episode(2)
    helped.is_intervention[:] = [False, True, True, False, False]
    for _ in range(2):  # the second as after a kill before anything was saved
        keep = keep_practice(context, everything=False)
        for each in (alone, helped):
            keep(each)
    store = EpisodeStore(tmp_path / "interventions")
    assert len(store) == 1
    assert same(store[0], helped)


def test_a_person_needs_the_offline_buffer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pipeline", f"run={tmp_path / 'run'}", "online.person=keys"]
    assert main(words) == EXIT_USER_ERROR
    assert "agent=retained" in capsys.readouterr().err
    assert main([*words[:2], "online.person=me"]) == EXIT_USER_ERROR
    assert "Valid: keys, nobody" in capsys.readouterr().err
