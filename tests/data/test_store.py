from __future__ import annotations

import os
import random
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl.data.store import EpisodeStore, read_episode
from robot_rl.errors import DataError
from tests.data.make import episode, fill_disk, kill_while, same


@given(seed=st.integers(0, 2**32), steps=st.integers(1, 20), size=st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_round_trip_is_exact(
    tmp_path_factory: pytest.TempPathFactory, seed: int, steps: int, size: int
) -> None:
    store = EpisodeStore(tmp_path_factory.mktemp("store"))
    original = episode(seed, steps, size=size)
    assert store.append(original) == 0
    loaded = EpisodeStore(store.path)[0]
    assert same(original, loaded)
    assert loaded.content_hash() == original.content_hash()


def test_non_contiguous_arrays_are_stored_by_value(tmp_path: Path) -> None:
    original = episode(0)
    original.observations["observation.extra"] = np.asfortranarray(np.arange(24.0).reshape(6, 4))[:, ::2]
    store = EpisodeStore(tmp_path)
    store.append(original)
    assert same(original, store[0])


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "int16", "int64", "uint16", "uint32", "float16", "float64"]
)
def test_every_kind_of_number_is_stored(tmp_path: Path, dtype: str) -> None:
    original = episode(0)
    original.observations["observation.extra"] = np.arange(6 * 3).reshape(6, 3).astype(dtype)
    original.observations["observation.empty"] = np.zeros((6, 0), dtype)
    store = EpisodeStore(tmp_path)
    store.append(original)
    assert same(original, store[0])


@pytest.mark.parametrize("dtype", [">f4", "complex64", "U3"])
def test_other_kinds_are_refused(tmp_path: Path, dtype: str) -> None:
    original = episode(0)
    original.observations["observation.extra"] = np.zeros((6, 3), dtype)
    with pytest.raises(DataError, match=r"'observation.extra' is .*expected bool, or native floats"):
        EpisodeStore(tmp_path).append(original)


def test_is_a_sequence_in_order_of_appending(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "new" / "store", create=True)
    assert len(store) == 0
    store.extend(episode(seed) for seed in range(12))
    assert [e.metadata.seed for e in store] == list(range(12))
    assert store[-1].metadata.seed == 11
    assert [e.metadata.seed for e in store[3:5]] == [3, 4]
    with pytest.raises(IndexError):
        store[12]


def test_selects_by_metadata_and_reports_progress(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    store.extend(episode(seed, source="expert" if seed % 3 else "random") for seed in range(7))
    seen: list[tuple[int, int]] = []
    chosen = store.load_all(lambda *count: seen.append(count), lambda m: m.source == "random")
    assert [e.metadata.seed for e in chosen] == [0, 3, 6]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert store.select(lambda m: m.seed > 4) == [5, 6]


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    children = []
    for first in (0, 100, 200):
        child = os.fork()
        if child == 0:
            try:
                EpisodeStore(tmp_path).extend(episode(first + i) for i in range(8))
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    seeds = [e.metadata.seed for e in EpisodeStore(tmp_path)]
    assert sorted(seeds) == [first + i for first in (0, 100, 200) for i in range(8)]
    assert all(sorted(part) == part for part in ([s for s in seeds if s // 100 == k] for k in range(3)))


def written(folder: Path) -> Path:
    """The file of a small episode in a store at `folder`."""
    store = EpisodeStore(folder)
    store.append(episode(1, steps=2, size=2))
    return store.files[0]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = written(tmp_path_factory.mktemp("store"))
    raw = bytearray(file.read_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(raw)
    with pytest.raises(DataError, match=r"episode-000000\.safetensors.*restore") as caught:
        read_episode(file)
    assert "\n" not in str(caught.value)


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_truncated_file_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = written(tmp_path_factory.mktemp("store"))
    raw = file.read_bytes()
    file.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(DataError, match=r"episode-000000\.safetensors.*restore"):
        read_episode(file)


def test_validate_names_every_damaged_file_and_the_rest_goes_on_without_them(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    store.extend(episode(seed) for seed in range(4))
    store.validate()
    for number in (1, 2):
        file = tmp_path / f"episode-{number:06d}.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"2 damaged.*episode-000001.*episode-000002"):
        store.validate()
    for number in (1, 2):  # the remedy that the error offers
        (tmp_path / f"episode-{number:06d}.safetensors").unlink()
    store.refresh()
    assert store.append(episode(4)) == 2
    assert [e.metadata.seed for e in store] == [0, 3, 4]


def test_missing_store_and_vanished_episode(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no episode store at .*nowhere.*collect"):
        EpisodeStore(tmp_path / "nowhere")
    store = EpisodeStore(tmp_path)
    store.append(episode(0))
    (tmp_path / "episode-000000.safetensors").unlink()
    with pytest.raises(DataError, match=r"episode-000000.safetensors is gone"):
        store[0]


def test_a_kill_loses_only_the_episode_in_progress(tmp_path: Path) -> None:
    delays = random.Random(0)
    total = 0
    for _ in range(20):

        def work(number: int, first: int = total) -> None:
            EpisodeStore(tmp_path).append(episode(first + number, size=64))

        acknowledged = kill_while(work, delays)
        store = EpisodeStore(tmp_path)
        assert total + acknowledged <= len(store) <= total + acknowledged + 1
        assert all(same(store[i], episode(i, size=64)) for i in range(total, len(store)))
        total = len(store)
    assert total > 0
    (tmp_path / ".episode-999999.safetensors.tmp").write_bytes(b"half an episode")
    assert len(EpisodeStore(tmp_path)) == total
    EpisodeStore(tmp_path).append(episode(total, size=64))
    assert not list(tmp_path.glob(".*.tmp"))


def test_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EpisodeStore(tmp_path)
    store.append(episode(0))
    with monkeypatch.context() as patch:
        fill_disk(patch)
        with pytest.raises(
            DataError, match=r"disk full while writing .*episode-000001.*free space and resume"
        ):
            store.append(episode(1))
    assert len(store) == 1
    assert not list(tmp_path.glob(".*.tmp"))
    assert store.append(episode(1)) == 1
    assert same(EpisodeStore(tmp_path)[1], episode(1))


def test_a_write_that_stops_half_way_leaves_nothing(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    store.append(episode(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(DataError, match=r"cannot write .*episode-000001"):
            store.append(episode(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(f.name for f in tmp_path.iterdir()) == [".lock", "episode-000000.safetensors"]
