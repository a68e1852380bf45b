from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl.data.artifact import MANIFEST, atomic_write, load_artifact, peek_artifact, save_artifact
from robot_rl.errors import DataError
from tests.data.make import fill_disk, kill_while

TASK = {"task": "widowx/push"}


def save(path: Path, value: float = 1.0) -> None:
    tensors = {"weight": torch.full((3, 2), value), "flags": np.array([True, False])}
    files = {"model.safetensors": tensors, "config.json": {"layers": [1, 2]}, "note.txt": b"hello"}
    save_artifact(path, "policy", files, TASK | {"version": [1, 2]})


def test_round_trip(tmp_path: Path) -> None:
    save(tmp_path / "policy")
    artifact = load_artifact(tmp_path / "policy", "policy", TASK | {"version": (1, 2)})
    tensors = artifact.tensors("model.safetensors")
    assert torch.equal(tensors["weight"], torch.ones(3, 2))
    assert tensors["flags"].tolist() == [True, False]
    assert artifact.json("config.json") == {"layers": [1, 2]}
    assert artifact.bytes("note.txt") == b"hello"
    assert artifact.metadata["task"] == "widowx/push"
    with pytest.raises(DataError, match=r"no file 'other.json'; it has .*config.json"):
        artifact.json("other.json")


def test_tied_transposed_and_half_precision_tensors_survive(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": shared, "b": shared, "t": shared.T, "half": shared.bfloat16(), "scalar": torch.tensor(7)}
    save_artifact(tmp_path / "x", "policy", {"m.safetensors": tensors}, {})
    loaded = load_artifact(tmp_path / "x", "policy").tensors("m.safetensors")
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_changed_byte_in_any_file_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("artifacts") / "policy"
    save(path)
    file = data.draw(st.sampled_from(sorted(path.iterdir())))
    raw = bytearray(file.read_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    # another letter or digit, so that a manifest stays readable where its text allows it
    raw[position] = ord("0") if raw[position] != ord("0") else ord("1")
    file.write_bytes(raw)
    with pytest.raises(DataError, match=file.name) as caught:
        load_artifact(path, "policy", TASK)
    assert "again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_and_missing_files_are_named(tmp_path: Path) -> None:
    save(tmp_path / "policy")
    file = tmp_path / "policy" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"model.safetensors has \d+ bytes; expected"):
        load_artifact(tmp_path / "policy", "policy")
    file.unlink()
    with pytest.raises(DataError, match=r"model.safetensors is missing"):
        load_artifact(tmp_path / "policy", "policy")
    (tmp_path / "policy" / MANIFEST).unlink()
    with pytest.raises(DataError, match=f"lacks {MANIFEST}"):
        load_artifact(tmp_path / "policy", "policy")
    with pytest.raises(DataError, match=r"no artifact at .*nowhere"):
        load_artifact(tmp_path / "nowhere", "policy")


def test_another_kind_or_task_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "policy")
    with pytest.raises(DataError, match="is a 'policy'; expected a 'world_model'"):
        load_artifact(tmp_path / "policy", "world_model")
    with pytest.raises(DataError, match=r"has task 'widowx/push'; expected 'widowx/reach'"):
        load_artifact(tmp_path / "policy", "policy", {"task": "widowx/reach"})
    with pytest.raises(DataError, match=r"has schema None; expected 3"):
        load_artifact(tmp_path / "policy", "policy", {"schema": 3})


def test_a_manifest_cannot_point_outside_its_directory(tmp_path: Path) -> None:
    for name in ("../secret", "a/b", MANIFEST, "..", ""):
        with pytest.raises(ValueError, match="plain name"):
            save_artifact(tmp_path / "policy", "policy", {name: b""}, {})
    assert not (tmp_path / "policy").exists()


def test_replacing_leaves_no_rest(tmp_path: Path) -> None:
    for value in (1.0, 2.0, 3.0):
        save(tmp_path / "policy", value)
        assert (
            load_artifact(tmp_path / "policy", "policy").tensors("model.safetensors")["weight"][0, 0] == value
        )
    assert [f.name for f in tmp_path.iterdir()] == ["policy"]


def test_a_kill_leaves_the_old_or_the_new_artifact(tmp_path: Path) -> None:
    delays = random.Random(1)
    save(tmp_path / "policy", -1.0)
    last = -1.0
    for _ in range(20):

        def work(number: int, first: float = last + 1) -> None:
            save(tmp_path / "policy", first + number)

        acknowledged = kill_while(work, delays)
        value = float(
            load_artifact(tmp_path / "policy", "policy").tensors("model.safetensors")["weight"][0, 0]
        )
        assert last + acknowledged <= value <= last + acknowledged + 1
        last = value
    assert last > 0
    save(tmp_path / "policy", 0.0)
    assert [f.name for f in tmp_path.iterdir()] == ["policy"]


def test_killed_between_the_two_renames(tmp_path: Path) -> None:
    save(tmp_path / "policy", 5.0)
    (tmp_path / "policy").rename(tmp_path / ".policy.old")
    assert load_artifact(tmp_path / "policy", "policy").tensors("model.safetensors")["weight"][0, 0] == 5.0
    assert peek_artifact(tmp_path / "policy") == ("policy", TASK | {"version": [1, 2]})


def test_kind_and_metadata_can_be_read_alone_but_not_of_a_damaged_artifact(tmp_path: Path) -> None:
    save(tmp_path / "policy")
    assert peek_artifact(str(tmp_path / "policy")) == ("policy", TASK | {"version": [1, 2]})
    manifest = tmp_path / "policy" / MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"manifest\.json cannot be read .*make the artifact again"):
        peek_artifact(tmp_path / "policy")
    with pytest.raises(DataError, match="no artifact at"):
        peek_artifact(tmp_path / "nowhere")


def test_full_disk_keeps_the_old_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "policy", 1.0)
    with monkeypatch.context() as patch:
        fill_disk(patch)
        with pytest.raises(DataError, match=r"disk full while writing .*policy; free space and resume"):
            save(tmp_path / "policy", 2.0)
    assert load_artifact(tmp_path / "policy", "policy").tensors("model.safetensors")["weight"][0, 0] == 1.0
    assert [f.name for f in tmp_path.iterdir()] == ["policy"]


def test_atomic_write_replaces_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "deep" / "summary.json"
    atomic_write(file, b"old")
    with monkeypatch.context() as patch:
        fill_disk(patch)
        with pytest.raises(DataError, match=r"disk full while writing .*summary.json"):
            atomic_write(file, b"new")
    assert file.read_bytes() == b"old"
    atomic_write(file, b"new")
    assert file.read_bytes() == b"new"
    assert [f.name for f in file.parent.iterdir()] == ["summary.json"]
    with pytest.raises(DataError, match="cannot write"):
        atomic_write(file / "below_a_file", b"")
