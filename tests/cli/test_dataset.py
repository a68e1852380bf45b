"""`robot-rl dataset` and the shadow forms of `robot-rl replay`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robot_rl.agents.policy import ActorPolicy, PolicyConfig
from robot_rl.cli.dataset import condition
from robot_rl.cli.main import EXIT_USER_ERROR, main
from robot_rl.cli.replay import Options, Shadow
from robot_rl.data import schema
from robot_rl.data.formats import open_dataset
from robot_rl.data.store import EpisodeStore
from tests.data.make import episode, same

COUNT = 6


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    EpisodeStore(path, create=True).extend(episode(seed, 3 + seed, size=32) for seed in range(COUNT))
    return path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line that must succeed; returns what it printed."""

    def call(*words: str) -> str:
        code = main(list(words))
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return call


def test_info(store: Path, tmp_path: Path, cli: Callable[..., str]) -> None:
    files = [f"sheet={tmp_path / 'sheet.png'}", f"json={tmp_path / 'info.json'}"]
    text = cli("dataset", "info", f"src={store}", "returns=-5,5", *files)
    assert f"{COUNT} episodes, {sum(range(3, 9))} steps" in text
    assert "observation.images.front: uint8 (32, 32, 3)" in text
    assert "TQ" in text
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    assert json.loads((tmp_path / "info.json").read_text())["lengths"] == list(range(3, 9))


def test_split_filter_merge_and_convert(store: Path, tmp_path: Path, cli: Callable[..., str]) -> None:
    pytest.importorskip("h5py")
    parts = tmp_path / "parts"
    cli("dataset", "split", f"src={store}", f"dst={parts}", "shares=train:0.7,test:0.3", "seed=1")
    assert (len(EpisodeStore(parts / "train")), len(EpisodeStore(parts / "test"))) == (4, 2)
    both = tmp_path / "both.hdf5"
    text = cli("dataset", "merge", f"src={parts}/train,{parts}/test", f"dst={both}", "format=robomimic")
    assert "for robot-rl alone: action_requested" in text
    merged = {e.metadata.seed: e for e in open_dataset(str(both))}
    assert all(same(merged[seed], episode(seed, 3 + seed, size=32)) for seed in range(COUNT))
    cli("dataset", "filter", f"src={both}", f"dst={tmp_path / 'few'}", "steps=5-7")
    assert sorted(len(e) for e in EpisodeStore(tmp_path / "few")) == [5, 6, 7]
    cli("dataset", "convert", f"src={both}", f"dst={tmp_path / 'again'}", "format=store")
    assert f"{COUNT} episodes, every hash right" in cli("dataset", "validate", f"src={tmp_path / 'again'}")
    assert "all readable (robomimic)" in cli("dataset", "validate", f"src={both}")
    assert "action  (33 rows)" in cli("dataset", "stats", f"src={both}")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dataset"], "dataset needs a subject: info, validate, convert"),
        (["dataset", "info"], "dataset info needs src="),
        (["dataset", "convert", "src={store}", "dst={store}x"], "dataset convert needs format="),
        (["dataset", "convert", "src={store}", "dst={store}", "format=store"], "exists already"),
        (["dataset", "convert", "src={store}", "dst={store}x", "format=rlds"], "is only read"),
        (["dataset", "filter", "src={store}", "dst={store}x"], "dataset filter needs success="),
        (
            ["dataset", "filter", "src={store}", "dst={store}x", "steps=a"],
            "steps='a'; expected a number or a range",
        ),
        (["dataset", "filter", "src={store}", "dst={store}x", "steps=90-"], "no episodes to write"),
        (["dataset", "split", "src={store}", "dst={store}x", "shares=a:1"], "expected two or more shares"),
        (["dataset", "info", "src={store}", "returns=1"], "expected two numbers"),
        (
            ["replay", "dataset={store}", "start=3", "checkpoint=x", "stop=2"],
            "stop='2'; expected a whole number",
        ),
        (["replay", "dataset={store}", "speed=0"], "speed='0'; expected a factor above 0"),
    ],
)
def test_mistakes(words: list[str], expected: str, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word.format(store=store) for word in words]) == EXIT_USER_ERROR
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1
    assert len(EpisodeStore(store)) == COUNT
    assert not Path(f"{store}x").exists()


def test_conditions_hold_together() -> None:
    keep = condition({"success": "yes", "episodes": "0-2,5", "steps": "-9"})
    for number in range(8):
        assert keep(number, episode(1)) == (episode(1).succeeded and number in (0, 1, 2, 5))
    assert not condition({"instruction": "pull"})(0, episode(1))
    assert condition({"source": "expert", "instruction": "cube"})(0, episode(1))


def test_replay_in_shadow(store: Path, tmp_path: Path, cli: Callable[..., str]) -> None:
    policy = ActorPolicy(PolicyConfig(image_shape=(32, 32), hidden=(16,)))
    policy.save(tmp_path / "policy", {"task": "widowx/push"})
    out = tmp_path / "out"
    words = ["replay", f"dataset={store}", f"checkpoint={tmp_path / 'policy'}", f"out={out}"]
    text = cli(*words, "episode=all", "start=1", "stop=3")
    assert text.count("mean absolute error: dx") == COUNT
    assert f"{COUNT} episodes:" in text
    assert (out / "episode_5.png").exists()
    assert (out / "episode_5.mp4").exists()
    text = cli(*words, "episode=0", "speed=1000")
    assert "step 2" in text
    assert "step 3" not in text


def test_a_window_is_cut_from_all_arrays() -> None:
    options = Options.of({"start": "2", "stop": "4"})
    original = episode(3, 6)
    cut = options.cut(original)
    assert len(cut) == 2
    assert np.array_equal(cut.action_requested, original.action_requested[2:4])
    assert np.array_equal(cut.observations[schema.STATE], original.observations[schema.STATE][2:5])


def test_a_reward_model_looks_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = lambda pictures, _: np.linspace(0, 1, len(pictures), dtype=np.float32)  # noqa: E731
    shadow = Shadow(None, "", judge)
    assert shadow.follow(episode(0, size=32), tmp_path / "a", Options.of({})) == 0
    assert "reward model: 0.00 at first, 1.00 at most" in capsys.readouterr().out
    assert (tmp_path / "a_reward.png").exists()


def test_rerun_file(store: Path, tmp_path: Path, cli: Callable[..., str]) -> None:
    pytest.importorskip("rerun", reason="needs pip install robot-rl[rerun]")
    policy = ActorPolicy(PolicyConfig(image_shape=None, hidden=(16,)))
    policy.save(tmp_path / "policy", {})
    out = tmp_path / "out"
    cli("replay", f"dataset={store}", f"checkpoint={tmp_path / 'policy'}", f"out={out}", "--rerun")
    assert (out / "episode_0.rrd").read_bytes()[:3] == b"RRF"
