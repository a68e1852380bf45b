"""`dataset=`: what no stage can learn from is refused in one line, and nothing is simulated."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from robot_rl.cli.context import Context
from robot_rl.cli.main import EXIT_USER_ERROR, main
from robot_rl.data import Episode, schema
from robot_rl.data.episode import ACTION_FREE
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError
from tests.world_model import toy

QUICK = [
    "threads=1",
    "bc.updates=2",
    "world_model.total_updates=2",
    "world_model.batch_size=4",
    "world_model.model.channels=[32]",
]


def stored(path: Path, episodes: list[Episode]) -> str:
    EpisodeStore(path, create=True).extend(episodes)
    return f"store:{path}"


def blind(episode: Episode) -> Episode:
    return dataclasses.replace(episode, observations={schema.STATE: episode.observations[schema.STATE]})


def without_actions(episode: Episode) -> Episode:
    facts = dataclasses.replace(episode.metadata, extra={ACTION_FREE: True})
    return dataclasses.replace(episode, metadata=facts)


@pytest.mark.parametrize("stage", ["bc", "world_model"])
@pytest.mark.parametrize(
    ("episodes", "expected"),
    [
        ([*toy.episodes(0, 4), blind(toy.episode(4))], "episode 4 lacks 'observation.images.front'"),
        (toy.episodes(0, 1), "1 episodes to learn from and to judge on; expected at least 2"),
        (
            [*toy.episodes(0, 4), toy.episode(4, size=24)],
            "episode 4 has 'observation.images.front' of shape (24, 24, 3) a step; expected (32, 32, 3)",
        ),
        (
            [*toy.episodes(0, 3), *map(without_actions, toy.episodes(3, 2))],
            "2 of 5 episodes of store:STORE have no actions; label them first: robot-rl label-actions",
        ),
    ],
    ids=["no camera", "one episode", "two sizes", "no actions"],
)
def test_episodes_that_cannot_be_learned_from_get_one_line(
    stage: str, episodes: list[Episode], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = stored(tmp_path / "store", episodes)
    words = ["train", f"stage={stage}", f"dataset={spec}", f"run={tmp_path / 'run'}", *QUICK]
    assert main(words) == EXIT_USER_ERROR
    message = capsys.readouterr().err
    assert expected.replace("STORE", str(tmp_path / "store")) in message
    assert message.count("\n") == 1


def test_a_run_on_recorded_data_is_examined_on_them_and_simulates_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, run = stored(tmp_path / "store", toy.episodes(0, 6)), tmp_path / "run"
    for stage in ("bc", "world_model"):
        assert main(["train", f"stage={stage}", f"dataset={spec}", f"run={run}", *QUICK]) == 0
    assert main(["examine", f"run={run}", "episodes=2"]) == 0
    assert "PSNR" in capsys.readouterr().out
    assert not (run / "data").exists()
    with pytest.raises(ConfigError, match=r"dataset=store:.*nothing simulates"):
        _ = Context.open({"resume": str(run)}, []).simulation
