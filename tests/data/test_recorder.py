from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import numpy as np
import pytest

from robot_rl.data import schema
from robot_rl.data.episode import Episode, EpisodeMetadata
from robot_rl.data.recorder import EpisodeRecorder
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError, DataError
from tests.data.make import episode, fill_disk, kill_while, same

METADATA = EpisodeMetadata("widowx/push", "push it", "wx250s", 5.0)


def observation(value: float = 0.0) -> dict[str, np.ndarray]:
    return {schema.STATE: np.full(7, value, np.float32)}


def play_into(recorder: EpisodeRecorder, original: Episode) -> None:
    """Record an episode step by step, as a robot would."""
    at = lambda t: {key: value[t] for key, value in original.observations.items()}  # noqa: E731
    recorder.start(at(0), original.metadata)
    fields = ("reward", "cost", "terminated", "truncated", "success", "is_intervention")
    for t in range(len(original)):
        recorder.step(
            at(t + 1),
            requested=original.action_requested[t],
            executed=original.action[t],
            filter_reason=int(original.filter_reason[t]),
            **{name: getattr(original, name)[t].item() for name in fields},
        )


def test_replaying_an_episode_through_the_recorder_gives_it_back(tmp_path: Path) -> None:
    original = episode(3, 6)
    recorder = EpisodeRecorder(EpisodeStore(tmp_path))
    play_into(recorder, original)
    assert recorder.commit() == 0
    assert not recorder.recording
    assert same(EpisodeStore(tmp_path)[0], original)


def test_arrays_are_copied_and_an_interrupted_episode_is_truncated(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(EpisodeStore(tmp_path))
    reused, action = observation(0), np.zeros(7, np.float32)
    recorder.start(reused, METADATA)
    for t in (1, 2):
        reused[schema.STATE][:] = t
        action[:] = t / 10
        recorder.step(reused, requested=action, executed=action, filter_reason="energy")
    recorded = recorder.episode()
    assert recorded.observations[schema.STATE][:, 0].tolist() == [0, 1, 2]
    assert recorded.action[:, 0].tolist() == pytest.approx([0.1, 0.2])
    assert recorded.truncated.tolist() == [False, True]
    assert not recorded.terminated.any()
    assert schema.FILTER_REASONS[recorded.filter_reason[0]] == "energy"


def test_a_refused_nan_request_does_not_cost_the_episode(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(EpisodeStore(tmp_path))
    recorder.start(observation(), METADATA)
    bad = np.full(7, np.nan)
    recorder.step(observation(), requested=bad, executed=np.zeros(7), filter_reason="non_finite")
    recorder.commit()
    stored = EpisodeStore(tmp_path)[0]
    assert stored.action_requested.tolist() == [[0.0] * 7]
    assert schema.FILTER_REASONS[stored.filter_reason[0]] == "non_finite"


def test_full_disk_keeps_the_episode_to_be_committed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = EpisodeRecorder(EpisodeStore(tmp_path))
    recorder.start(observation(), METADATA)
    recorder.step(observation(1), requested=np.zeros(7), executed=np.zeros(7))
    with monkeypatch.context() as patch:
        fill_disk(patch)
        with pytest.raises(DataError, match="disk full"):
            recorder.commit()
    assert len(recorder) == 1
    assert recorder.commit() == 0


def record(recorder: EpisodeRecorder, seed: int) -> None:
    recorder.start(observation(seed), METADATA)
    recorder.step(observation(seed + 1), requested=np.zeros(7), executed=np.zeros(7))


def test_the_outcome_may_come_with_the_commit(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(tmp_path / "new" / "store")
    record(recorder, 0)
    recorder.commit(terminated=True, success=True)
    record(recorder, 1)
    recorder.commit_later(success=False)
    recorder.close()
    won, lost = EpisodeStore(tmp_path / "new" / "store")
    assert won.succeeded
    assert won.terminated.tolist() == [True]
    assert won.truncated.tolist() == [False]
    assert not lost.succeeded
    assert lost.truncated.tolist() == [True]


def test_the_next_episode_starts_while_the_last_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = EpisodeRecorder(tmp_path)
    disk, append = threading.Event(), recorder.store.append

    def slow(recorded: Episode) -> int:
        assert disk.wait(10)
        return append(recorded)

    monkeypatch.setattr(recorder.store, "append", slow)
    written = []
    for seed in range(3):
        record(recorder, seed)
        written.append(recorder.commit_later())
    assert not any(future.done() for future in written)
    disk.set()
    recorder.close()
    assert [future.result() for future in written] == [0, 1, 2]
    assert [e.observations[schema.STATE][0, 0] for e in EpisodeStore(tmp_path)] == [0, 1, 2]


def test_what_could_not_be_written_later_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = EpisodeRecorder(tmp_path)
    with monkeypatch.context() as patch:
        fill_disk(patch)
        record(recorder, 0)
        assert isinstance(recorder.commit_later().exception(), DataError)
        record(recorder, 1)
        with pytest.raises(DataError, match="disk full"):
            recorder.commit()
    assert len(recorder) == 1
    recorder.commit()
    assert [e.observations[schema.STATE][0, 0] for e in EpisodeStore(tmp_path)] == [0, 1]
    recorder.close()


def test_out_of_order_calls_are_refused(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(EpisodeStore(tmp_path))
    zeros = np.zeros(7)
    with pytest.raises(DataError, match="call start first"):
        recorder.step(observation(), requested=zeros, executed=zeros)
    recorder.start(observation(), METADATA)
    with pytest.raises(DataError, match="no step was recorded"):
        recorder.commit()
    with pytest.raises(ConfigError, match=r"unknown filter reason 'enery'.*energy"):
        recorder.step(observation(), requested=zeros, executed=zeros, filter_reason="enery")
    recorder.step(observation(), requested=zeros, executed=zeros, terminated=True)
    with pytest.raises(DataError, match="has ended"):
        recorder.step(observation(), requested=zeros, executed=zeros)
    with pytest.raises(DataError, match="episode of 1 steps is in progress"):
        recorder.start(observation(), METADATA)
    recorder.discard()
    assert len(EpisodeStore(tmp_path)) == 0


KILLS = int(os.environ.get("ROBOT_RL_KILLS", "25"))
"""`make test-kills` raises it to 200."""


def recorded_episode(recorder: EpisodeRecorder, number: int, *, later: bool) -> None:
    """Record `episode(number)` and commit it, now or in the background."""
    play_into(recorder, episode(number, size=64))
    if later:
        recorder.commit_later().result()
    else:
        recorder.commit()


def test_kills_at_random_moments_lose_no_committed_episode(tmp_path: Path) -> None:
    moments = random.Random(7)
    total = 0
    for kill in range(KILLS):

        def work(number: int, first: int = total, later: bool = kill % 2 == 1) -> None:
            recorded_episode(EpisodeRecorder(tmp_path), first + number, later=later)

        acknowledged = kill_while(work, moments)
        found = EpisodeStore(tmp_path)
        assert total + acknowledged <= len(found) <= total + acknowledged + 1
        assert all(same(found[i], episode(i, size=64)) for i in range(total, len(found)))
        total = len(found)
    assert total >= KILLS  # each child committed at least one before it died
    EpisodeStore(tmp_path).validate()


def test_a_missing_camera_is_named(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(EpisodeStore(tmp_path))
    recorder.start(observation() | {schema.IMAGE: np.zeros((4, 4, 3), np.uint8)}, METADATA)
    recorder.step(observation(), requested=np.zeros(7), executed=np.zeros(7))
    with pytest.raises(DataError, match=r"'observation.images.front' is missing or changes shape"):
        recorder.commit()
    recorder.discard()
    recorder.start(observation() | {schema.IMAGE: np.zeros((4, 4, 3), np.uint8)}, METADATA)
    recorder.step(observation(), requested=np.zeros(7), executed=np.zeros(7))
    assert isinstance(recorder.commit_later().exception(), DataError)
    with pytest.raises(DataError, match="is missing or changes shape"):
        recorder.flush()
    recorder.close()  # what can never be written does not stand in the way
