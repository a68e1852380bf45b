from __future__ import annotations

import io
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robot_rl.data import schema
from robot_rl.data.formats import open_dataset
from robot_rl.data.formats.rlds import from_unit_action, to_unit_action
from robot_rl.data.formats.tfrecord import crc32c, masked_crc, parse_example, read_records
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError, DataError
from tests.data.make import episode, same

REAL = Path(os.environ.get("ROBOT_RL_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
BRIDGE = REAL / "bridge_sample"
needs_bridge = pytest.mark.skipif(
    not BRIDGE.is_dir(), reason=f"no BridgeData sample at {BRIDGE}; set ROBOT_RL_REAL_DATA"
)


def varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(value: list[bytes] | np.ndarray) -> bytes:
    if isinstance(value, list):
        return field(1, b"".join(field(1, item) for item in value))
    if value.dtype.kind == "f":
        return field(2, field(1, value.astype("<f4").tobytes()))
    return field(3, field(1, b"".join(varint(int(number)) for number in value)))


def message(features: dict[str, Any]) -> bytes:
    entries = (field(1, key.encode()) + field(2, feature(value)) for key, value in features.items())
    return field(1, b"".join(field(1, entry) for entry in entries))


def framed(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def jpeg(colour: int, *, blank: bool = False) -> bytes:
    picture = np.full((8, 8, 3), colour, np.uint8)
    picture[:4] = colour if blank else 255
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "jpeg")
    return stream.getvalue()


def bridge_features(n: int, *, terminal: bool = True, flags: tuple[int, ...] = (0, 0)) -> dict[str, Any]:
    """n RLDS steps: camera 0 real, camera 1 blank; step t is (.01 t m, .05 rad), gripper half open."""
    last = np.arange(n) == n - 1
    return {
        "steps/action": np.array([[0.01 * t, 0, 0, 0, 0, 0.05, 0.5] for t in range(n)], np.float32).ravel(),
        "steps/observation/state": np.arange(n * 7, dtype=np.float32),
        "steps/observation/image_0": [jpeg(10 * t) for t in range(n)],
        "steps/observation/image_1": [jpeg(0, blank=True) for _ in range(n)],
        "steps/reward": (last & terminal).astype(np.float32),
        "steps/is_terminal": (last & terminal).astype(np.int64),
        "steps/language_instruction": [b"put it there"] * n,
    } | {f"episode_metadata/has_image_{i}": np.array([flag]) for i, flag in enumerate(flags)}


def write(folder: Path, *examples: dict[str, Any]) -> Path:
    file = folder / "toy-train.tfrecord-00000-of-00001"
    file.write_bytes(b"".join(framed(message(example)) for example in examples))
    return file


def test_crc_is_castagnoli() -> None:
    # the check value of the CRC catalogue, and RFC 3720 B.4
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(b"") == 0


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=2000), cut=st.integers(1, 700))
def test_crc_in_lanes_equals_crc_byte_by_byte(data: bytes, cut: int) -> None:
    def bit_by_bit(text: bytes) -> int:
        state = 0xFFFFFFFF
        for byte in text:
            state ^= byte
            for _ in range(8):
                state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
        return state ^ 0xFFFFFFFF

    assert crc32c(data[:cut]) == bit_by_bit(data[:cut])
    assert crc32c(data) == bit_by_bit(data)


numbers = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9).map(lambda x: np.array(x, np.int64))
floats = st.lists(st.floats(width=32, allow_nan=False), max_size=9).map(lambda x: np.array(x, np.float32))


@settings(max_examples=40, deadline=None)
@given(features=st.dictionaries(st.text(max_size=5), st.one_of(st.lists(st.binary()), numbers, floats)))
def test_examples_are_parsed_exactly(features: dict[str, Any]) -> None:
    parsed = parse_example(message(features))
    assert parsed.keys() == features.keys()
    for name, value in features.items():
        assert np.array_equal(parsed[name], value) if isinstance(value, np.ndarray) else parsed[name] == value


@settings(deadline=None)
@given(data=st.binary(max_size=60))
def test_anything_else_is_no_example(data: bytes) -> None:
    with suppress(ValueError):  # the one way to fail
        parse_example(data)


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_a_damaged_record_is_named_by_its_index(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    records = [b"first", b"second record", b"3"]
    raw = bytearray(b"".join(map(framed, records)))
    ends = np.cumsum([len(framed(record)) for record in records])
    position = data.draw(st.integers(0, len(raw) - 1))
    cut = data.draw(st.booleans())
    damaged = int(np.searchsorted(ends, position, side="right"))
    if cut and position in (0, *ends):
        return  # a cut between records cannot be seen
    file = tmp_path_factory.mktemp("records") / "a.tfrecord"
    raw[position] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(raw[:position] if cut else raw)
    reader = read_records(file)
    assert [next(reader) for _ in range(damaged)] == records[:damaged]
    with pytest.raises(DataError, match=rf"a.tfrecord record {damaged} .*fetch the file again"):
        next(reader)


def test_rlds_steps_become_an_episode(tmp_path: Path) -> None:
    write(tmp_path, bridge_features(4), bridge_features(3, terminal=False))
    first, second = open_dataset(f"rlds:{tmp_path}")
    assert (len(first), len(second)) == (3, 2)
    assert first.observations[schema.STATE].shape == (4, 7)
    assert set(first.observations) == {schema.STATE, schema.IMAGE}
    assert first.observations[schema.IMAGE].shape == (4, 8, 8, 3)
    assert first.action[:, 0].tolist() == pytest.approx([0, 0.2, 0.4])
    assert first.action[0].tolist() == pytest.approx([0, 0, 0, 0, 0, 0.2, 0])
    assert first.reward.tolist() == [0, 0, 1]
    assert first.terminated.tolist() == first.success.tolist() == [False, False, True]
    assert not first.truncated.any()
    assert second.truncated.tolist() == [False, True]
    assert not second.terminated.any()
    assert first.metadata.instruction == "put it there"
    assert first.metadata.control_hz == 5


@pytest.mark.parametrize(("flags", "cameras"), [((0, 0), 1), ((1, 1), 1), ((0, 1), 0), ((1, 0), 1)])
def test_placeholder_cameras_are_left_out(tmp_path: Path, flags: tuple[int, int], cameras: int) -> None:
    write(tmp_path, bridge_features(3, flags=flags))
    (loaded,) = open_dataset(f"rlds:{tmp_path}")
    assert sum(key.startswith(schema.IMAGE_PREFIX) for key in loaded.observations) == cameras


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-1, 1, width=32), min_size=7, max_size=7), min_size=1, max_size=5))
def test_action_mapping_is_inverted(values: list[list[float]]) -> None:
    action = np.array(values, np.float32)
    assert to_unit_action(from_unit_action(action)) == pytest.approx(action, abs=1e-6)


def test_actions_out_of_range_are_clipped_and_counted(tmp_path: Path) -> None:
    features = bridge_features(3)
    features["steps/action"] = np.tile(np.array([0.2, 0, 0, -0.3, 0, 0, 1], np.float32), 3)
    write(tmp_path, features)
    (loaded,) = open_dataset(f"rlds:{tmp_path}")
    assert loaded.action[0].tolist() == [1, 0, 0, -1, 0, 0, 1]
    assert loaded.metadata.extra["clipped"] == 4


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"steps/action": None}, "lacks numbers 'steps/action'"),
        ({"steps/action": np.zeros(20, np.float32)}, "cannot reshape"),
        ({"steps/action": np.full(21, np.nan, np.float32)}, "'action' holds a non-finite"),
        ({"steps/is_terminal": np.zeros(2, np.int64)}, "'steps/is_terminal' has length 2; expected 3"),
        ({"steps/observation/image_0": [b"no jpeg"] * 3}, "image_0' holds a picture that cannot be decoded"),
        ({"steps/observation/image_0": np.zeros(3)}, "'steps/observation/image_0' holds no pictures"),
    ],
)
def test_unusable_records_are_named(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    features = {k: v for k, v in (bridge_features(3) | change).items() if v is not None}
    write(tmp_path, bridge_features(3), features)
    with pytest.raises(DataError, match=rf"record 1 cannot be used: .*{text}") as caught:
        open_dataset(f"rlds:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_datasets_by_name(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "a:b", create=True)
    with pytest.raises(DataError, match="holds no episodes"):
        open_dataset(f"store:{store.path}")
    store.append(episode(0))
    assert same(open_dataset(f"store:{store.path}")[0], episode(0))
    assert same(open_dataset(str(store.path))[0], episode(0))
    for spec, text in (
        (f"rlds:{tmp_path}/nowhere", "no RLDS dataset at .*nowhere"),
        (f"rlds:{tmp_path}", "no RLDS dataset at"),
        (f"store:{tmp_path}/nowhere", "no episode store at .*nowhere"),
    ):
        with pytest.raises(DataError, match=text):
            open_dataset(spec)
    with pytest.raises(ConfigError, match=r"unknown dataset format 'rdls'.*rlds"):
        open_dataset("rdls:somewhere")
    (tmp_path / "bridge").mkdir()
    write(tmp_path / "bridge", bridge_features(3))
    assert len(open_dataset(str(tmp_path / "bridge"))) == 1  # a bare path, recognised by what it holds
    with pytest.raises(DataError, match="holds no episodes"):
        open_dataset(str(tmp_path))


@needs_bridge
def test_the_bridge_sample() -> None:
    episodes = open_dataset(f"rlds:{BRIDGE}")
    assert [len(e) for e in episodes] == [9] * 25
    assert {e.metadata.instruction for e in episodes} == {
        "put cup from counter or drying rack into sink",
        "flip pot upright which is in sink",
        "turn lever vertical to front",
        "put carrot on plate",
    }
    front = [e.observations[schema.IMAGE] for e in episodes]
    assert all(f.shape == (10, 64, 64, 3) and f.std() > 20 for f in front)
    assert all(schema.image_key("camera_3") not in e.observations for e in episodes)
    assert sum(e.metadata.extra["clipped"] for e in episodes) == 1
    # a step's action is the change that the next state shows: the scale and the alignment are right
    moved = np.concatenate([np.diff(e.observations[schema.STATE], axis=0)[:, :6] for e in episodes])
    asked = np.concatenate([from_unit_action(e.action)[:, :6] for e in episodes])
    for moved_axis, asked_axis in zip(moved.T, asked.T, strict=True):
        slope = float(moved_axis @ asked_axis / (asked_axis @ asked_axis))
        assert 0.5 < slope < 1.1
        assert np.corrcoef(moved_axis, asked_axis)[0, 1] > 0.7
    # the gripper reads 1 when open, before it first closes
    assert np.mean([e.observations[schema.STATE][0, 6] for e in episodes]) == pytest.approx(1.0, abs=0.1)
    assert np.mean([e.action[0, 6] for e in episodes]) == pytest.approx(1.0, abs=0.2)


@needs_bridge
def test_the_bridge_sample_survives_a_store(tmp_path: Path) -> None:
    episodes = open_dataset(f"rlds:{BRIDGE}")[:3]
    store = EpisodeStore(tmp_path)
    store.extend(episodes)
    assert all(same(*pair) for pair in zip(store, episodes, strict=True))
