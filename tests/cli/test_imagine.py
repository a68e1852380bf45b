"""`imagine` and `examine`: real beside imagined, a person at the keys, and what can be believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robot_rl.cli.examine import agreement, drift, honesty
from robot_rl.cli.imagine import drive
from robot_rl.cli.main import EXIT_USER_ERROR, main
from robot_rl.cli.play import Wish
from robot_rl.data.store import EpisodeStore
from robot_rl.trainers.run import Run
from tests.world_model import toy
from world_model import WorldModel, WorldModelLearner


@pytest.fixture(scope="module")
def model() -> WorldModel:
    learner = WorldModelLearner(toy.episodes(0, 6), toy.tiny_config(total_updates=2))
    for _ in range(2):
        learner.update()
    return learner.model


@pytest.fixture(scope="module")
def run(model: WorldModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "toy"
    made = Run.create(path, "seed: 0\n", ["robot-rl"])
    EpisodeStore(made.data_dir("demos"), create=True).extend(toy.episodes(0, 2))
    EpisodeStore(made.data_dir("random"), create=True).extend(toy.episodes(10, 2))
    model.save(made.stage_dir("world_model") / "model")
    return path


def test_the_video_stands_in_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["imagine", f"run={run}", "episode=3"]) == 0
    assert (run / "videos" / "imagine_3.mp4").stat().st_size > 1000
    assert (run / "videos" / "imagine_3.png").exists()
    assert "threshold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "imagine needs run= or checkpoint="),
        (["run={run}", "episode=4"], "episode=4; expected a number from 0 to 3"),
        (["checkpoint={run}/stages/world_model/model"], "needs dataset= too"),
        (["run={run}", "checkpoint=nowhere"], "nowhere"),
        (["run=nowhere"], "nowhere is not a run directory"),
    ],
)
def test_mistakes_get_one_line(
    words: list[str], expected: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["imagine", *(word.format(run=run) for word in words)]) == EXIT_USER_ERROR
    text = capsys.readouterr().err
    assert expected in text
    assert text.count("\n") == 1


def test_driving_needs_a_display_and_says_so(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    assert main(["imagine", f"run={run}", "--drive"]) == EXIT_USER_ERROR
    assert capsys.readouterr().err.count("\n") == 1


def test_keys_move_the_imagined_arm(model: WorldModel) -> None:
    class Keys:
        def __init__(self) -> None:
            self.pictures: list[np.ndarray] = []
            self.lines: list[tuple[str, ...]] = []

        def show(self, picture: np.ndarray, lines: tuple[str, ...]) -> None:
            self.pictures.append(picture)
            self.lines.append(lines)

        def wish(self) -> Wish:
            command = {4: "discard", 7: "quit"}.get(len(self.pictures), "")
            return Wish(np.full(6, 0.5, np.float32), command=command)

    screen = Keys()
    assert drive(model, toy.episode(0), screen) == 5
    assert "imagined success" in screen.lines[0][0]
    np.testing.assert_array_equal(screen.pictures[4], screen.pictures[0])  # thrown away: anew
    assert screen.pictures[1].shape == (448, 448, 3)


def test_figures_of_trust_are_finite_and_of_the_right_kind(model: WorldModel) -> None:
    episodes = toy.episodes(50, 6, steps=12)
    curve = drift(model, episodes)
    assert list(curve) == ["1", "2", "5", "10"]
    assert all(np.isfinite(list(row.values())).all() for row in curve.values())
    found = honesty(model, episodes, episodes)
    assert found["held out failures"] == found["all recorded failures"]
    assert 0 <= found["held out failures"]["low"] <= found["held out failures"]["called_success"]


def test_agreement_is_of_ranks_and_of_gaps() -> None:
    rows = {
        str(number): {"imagined": imagined, "simulated": simulated}
        for number, (imagined, simulated) in enumerate([(0.1, 0.3), (0.2, 0.5), (0.4, 0.6)])
    }
    found = agreement(rows)
    assert found["spearman"] == pytest.approx(1)
    assert found["largest_gap"] == pytest.approx(0.3)
    assert "spearman" not in agreement({"0": rows["0"]})
    assert agreement({}) == {}
