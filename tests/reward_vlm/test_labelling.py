"""Oracle, pose check, wordings, mistakes, and the relabelling of datasets."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from reward_vlm import Frames, Oracle, OracleConfig, RewardWrapperConfig
from reward_vlm.calibration import Calibration, fit_isotonic
from reward_vlm.labelling import LABEL, LabelCache, LabelConfig, judged_in_batches, label_dataset
from reward_vlm.metrics import frame_order_correlation
from reward_vlm.mistakes import mistakes_page, worst_mistakes
from reward_vlm.pose import PoseCheck
from robot_rl.cli.main import main
from robot_rl.data import Episode, schema
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError, DataError
from tests.reward_vlm import toy


class Counting:
    """Says the truth of the toy from its pictures' red block, and counts what it is asked."""

    threshold, debounce = 0.5, 2

    def __init__(self, fingerprint: str = "counting") -> None:
        self.fingerprint, self.calls, self.frames = fingerprint, 0, 0

    def judge(self, frames: Frames) -> np.ndarray:
        assert frames.truth is not None
        self.calls += 1
        self.frames += len(frames)
        return np.where(frames.truth, np.float32(0.9), np.float32(0.1))


def test_batches_change_no_answer_and_the_cache_answers_what_it_knows(tmp_path: Path) -> None:
    episodes = [*toy.episodes(6), toy.episode(9, True, instruction="other")]
    judge, cache = Counting(), LabelCache(tmp_path)
    found = list(judged_in_batches(episodes, judge, batch=10_000, cache=cache))
    assert judge.calls == 2  # one a wording
    assert [e for e, _ in found] == episodes
    for episode, probability in found:
        np.testing.assert_array_equal(probability >= 0.5, episode.success)
    again = Counting()
    for (_, a), (_, b) in zip(found, judged_in_batches(episodes, again, 1, cache), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.frames == 0
    other = Counting("another model")
    list(judged_in_batches(episodes, other, 20, cache))
    assert other.frames == sum(map(len, episodes))


def test_an_interrupted_labelling_goes_on_and_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    episodes = toy.episodes(9)

    def stop(done: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    half = EpisodeStore(tmp_path / "half", create=True)
    config = LabelConfig(batch=24)
    with pytest.raises(KeyboardInterrupt):
        label_dataset(episodes, half, Counting(), config, progress=stop)
    assert len(half) == 4
    label_dataset(episodes, half, Counting(), config)
    whole = EpisodeStore(tmp_path / "whole", create=True)
    figures = label_dataset(episodes, whole, Counting(), config)
    assert figures == {"episodes": 9.0, "frames": 9 * 12.0, "judged_successes": 5.0}
    assert [e.content_hash() for e in half] == [e.content_hash() for e in whole]
    for told, episode in zip(whole, episodes, strict=True):
        assert told.terminated.any() == episode.succeeded
        assert told.metadata.extra[LABEL]["success"] == episode.succeeded
    with pytest.raises(DataError, match="choose another place"):
        label_dataset(episodes, whole, Counting("another"), config)
    with pytest.raises(DataError, match="choose another place"):
        label_dataset(episodes[:3], whole, Counting(), config)


def test_kept_episodes_stay_whole_and_reward_every_success(tmp_path: Path) -> None:
    episodes = toy.episodes(4)
    out = EpisodeStore(tmp_path / "out", create=True)
    label_dataset(episodes, out, Counting(), LabelConfig("keep", rewards=RewardWrapperConfig(0.0, 1.0)))
    for told, episode in zip(out, episodes, strict=True):
        assert len(told) == len(episode)
        np.testing.assert_array_equal(told.truncated, episode.truncated)
        twice = episode.success & np.append(False, episode.success[:-1])
        np.testing.assert_array_equal(told.reward, twice.astype(np.float32))
    with pytest.raises(ConfigError, match="unknown ends 'kept': did you mean keep"):
        LabelConfig("kept")  # type: ignore[arg-type]


def test_the_verb_labels_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    EpisodeStore(tmp_path / "in", create=True).extend(toy.episodes(4))
    words = ["dataset", "label", f"src={tmp_path / 'in'}", "reward=oracle", f"dst={tmp_path / 'out'}"]
    assert main(words) == 0
    assert "4 episodes" in capsys.readouterr().out
    assert [e.terminated.any() for e in EpisodeStore(tmp_path / "out")] == [True, False, True, False]
    assert main([*words[:-1], f"dst={tmp_path / 'o2'}", "step_reward=1"]) == 2
    assert "expected more than step_reward" in capsys.readouterr().err
    assert main([*words[:3], words[-1]]) == 2
    assert "dataset label needs reward=" in capsys.readouterr().err
    assert main([*words[:3], "reward=no/such", words[-1]]) == 2
    assert "no artifact at no/such" in capsys.readouterr().err


def test_oracle_errs_at_the_rates_it_is_given() -> None:
    truth = np.arange(20_000) % 2 == 0
    frames = Frames({"x": np.arange(len(truth))}, "any", truth)
    assert (Oracle().judge(frames) >= 0.5).tolist() == truth.tolist()
    noisy = Oracle(OracleConfig(false_positive=0.06, false_negative=0.8, seed=1)).judge(frames) >= 0.5
    assert noisy[~truth].mean() == pytest.approx(0.06, abs=0.01)
    assert noisy[truth].mean() == pytest.approx(0.2, abs=0.02)
    order = np.random.default_rng(0).permutation(len(truth))
    again = Oracle(OracleConfig(false_positive=0.06, false_negative=0.8, seed=1)).judge(frames.where(order))
    np.testing.assert_array_equal(again >= 0.5, noisy[order])
    other = Oracle(OracleConfig(false_positive=0.06, false_negative=0.8, seed=2)).judge(frames) >= 0.5
    assert (other != noisy).any()
    with pytest.raises(DataError, match="without their truth"):
        Oracle().judge(dataclasses.replace(frames, truth=None))
    with pytest.raises(ConfigError, match=r"false_negative is 1\.2"):
        OracleConfig(false_negative=1.2)


def with_states(episode: Episode, states: np.ndarray) -> Episode:
    observations = episode.observations | {schema.STATE: states.astype(np.float32)}
    return dataclasses.replace(episode, observations=observations)


def test_pose_check_allows_every_trained_success_and_nothing_far_from_it() -> None:
    rng = np.random.default_rng(0)
    episodes = [with_states(each, rng.uniform(0, 1, (13, 7))) for each in toy.episodes(10)]
    check = PoseCheck.of(episodes, margin=0.0)
    for episode in episodes:
        allowed = check.allows(Frames.of(episode), toy.INSTRUCTION)
        assert allowed[episode.success].all()
        beyond = with_states(episode, episode.observations[schema.STATE] + 2)
        assert not check.allows(Frames.of(beyond), toy.INSTRUCTION).any()
        wide = PoseCheck.of(episodes, margin=5.0).allows(Frames.of(beyond), toy.INSTRUCTION)
        assert wide.all()


def test_isotonic_calibration_is_monotone_and_near_the_truth() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 20_000).astype(np.float32)
    chance = 0.2 + 0.6 * (logits > 1)  # no sigmoid
    curve = fit_isotonic(logits, rng.random(20_000) < chance)
    calibration = Calibration.from_json(dataclasses.asdict(Calibration(curve=curve)))
    assert calibration == Calibration(curve=curve)
    grid = calibration.probability(np.linspace(-20, 20, 400).astype(np.float32))
    assert (np.diff(grid) >= 0).all()
    assert 0 < grid[0] < grid[-1] < 1
    assert np.abs(calibration.probability(logits) - chance).mean() < 0.03


def test_frame_order_is_one_where_scores_rise_with_time() -> None:
    labels = [np.array([0, 0, 0, 1, 1], bool), np.zeros(5, bool)]
    rising = [np.float32([0.1, 0.2, 0.3, 0.9, 0.0])] * 2
    assert frame_order_correlation(labels, rising) == pytest.approx(1.0)
    assert frame_order_correlation(labels, [1 - each for each in rising]) == pytest.approx(-1.0)
    assert np.isnan(frame_order_correlation(labels[1:], rising[1:]))


def test_the_worst_mistakes_come_first_and_are_drawn(tmp_path: Path) -> None:
    episodes = toy.episodes(4)
    answers = [np.where(e.success, 0.9, 0.1).astype(np.float32) for e in episodes]
    answers[1][4], answers[3][5], answers[0][-1] = 0.7, 0.95, 0.2
    found = worst_mistakes(Counting(), episodes, [schema.DEFAULT_CAMERA], 10, answers)
    assert [(m.truth, m.step, round(m.probability, 2)) for m in found] == [
        (False, 6, 0.95), (True, 12, 0.2), (False, 5, 0.7)
    ]  # fmt: skip
    mistakes_page(tmp_path / "page.png", found, "toy")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
