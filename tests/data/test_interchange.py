"""Round trips through the formats of other projects."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.data.formats import FORMATS, Dataset, convert, lerobot, open_dataset
from robot_rl.data.formats.format import LEFT_OUT, REPEATED
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError, DataError
from tests.data.make import episode, same

NEEDS = {"lerobot_v3": "pyarrow", "minari": "h5py", "robomimic": "h5py", "store": "numpy"}
SUFFIX = {"robomimic": "data.hdf5"}
REAL = Path(os.environ.get("ROBOT_RL_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
BRIDGE = REAL / "bridge_sample"
formats = pytest.mark.parametrize("name", ["lerobot_v3", "minari", "robomimic", "store"])


def place(folder: Path, name: str) -> Path:
    pytest.importorskip(NEEDS[name], reason=f"needs {NEEDS[name]}: pip install robot-rl[formats]")
    return folder / name / SUFFIX.get(name, "data")


def rich(seed: int, steps: int) -> Episode:
    """An episode with two cameras and observations of other types beside."""
    made = episode(seed, steps, size=6)
    rng = np.random.default_rng(seed)
    made.observations |= {
        schema.image_key("wrist"): rng.integers(0, 256, (steps + 1, 5, 7, 3), np.uint8),
        "observation.force": rng.normal(size=(steps + 1, 6)),
        "observation.grid": rng.normal(size=(steps + 1, 2, 4)).astype(np.float32),
        "observation.contact": rng.random((steps + 1, 2)) < 0.5,
        "observation.counter": np.arange(steps + 1),
        "observation.one": rng.normal(size=(steps + 1, 1)).astype(np.float32),
    }
    return made


@formats
@pytest.mark.parametrize("seeds", [[5], [0, 1, 2, 6], [13, 13]])
def test_round_trips_are_exact(tmp_path: Path, name: str, seeds: list[int]) -> None:
    path = place(tmp_path, name)
    originals = [rich(seed, 1 + seed % 7) for seed in seeds]
    written = convert(originals, path, name)
    assert written.lost == ()
    assert written.episodes == len(seeds)
    assert written.steps == sum(map(len, originals))
    found = Dataset.open(str(path))
    assert found.format is FORMATS[name]
    assert all(same(*pair) for pair in zip(found, originals, strict=True))


@pytest.mark.parametrize("through", ["minari", "robomimic", "lerobot_v3"])
def test_a_chain_of_formats_is_exact(tmp_path: Path, through: str) -> None:
    EpisodeStore(tmp_path / "a", create=True).extend(rich(seed, 4) for seed in range(3))
    convert(str(tmp_path / "a"), place(tmp_path, through), through)
    convert(f"{through}:{place(tmp_path, through)}", tmp_path / "b", "store")
    assert all(
        same(*pair) for pair in zip(EpisodeStore(tmp_path / "a"), EpisodeStore(tmp_path / "b"), strict=True)
    )


@pytest.mark.parametrize("name", ["lerobot_v3", "minari"])
def test_what_not_every_episode_has_is_named(tmp_path: Path, name: str) -> None:
    with_wrist, other = rich(0, 3), rich(1, 3)
    del other.observations[schema.image_key("wrist")]
    other.observations["observation.force"] = np.zeros((4, 2))
    lost = convert([with_wrist, other], place(tmp_path, name), name).lost
    assert lost == (
        "observation.force (its shape or type changes)",
        "observation.images.wrist (in 1 of 2 episodes)",
    )
    for read, original in zip(open_dataset(str(place(tmp_path, name))), [with_wrist, other], strict=True):
        assert read.observations.keys() == original.observations.keys() - {
            "observation.force",
            "observation.images.wrist",
        }
        assert np.array_equal(read.action_requested, original.action_requested)


@formats
def test_refusals(tmp_path: Path, name: str) -> None:
    path = place(tmp_path, name)
    with pytest.raises(DataError, match="no episodes to write"):
        convert([], path, name)
    assert not path.exists()
    assert not list(tmp_path.rglob(".*.new"))
    convert([episode(0)], path, name)
    with pytest.raises(DataError, match=r"exists already; give a new path"):
        convert([episode(0)], path, name)
    assert same(open_dataset(f"{name}:{path}")[0], episode(0))
    with pytest.raises(DataError, match=r"nowhere.*check the path"):
        open_dataset(f"{name}:{tmp_path}/nowhere")


@pytest.mark.parametrize("name", ["lerobot_v3", "minari"])
def test_one_rate_and_one_size_of_actions(tmp_path: Path, name: str) -> None:
    first, slow, small = episode(0), episode(1), episode(2)
    slow.metadata = dataclasses.replace(slow.metadata, control_hz=10.0)
    small.action = small.action[:, :4]
    for other, text in ((slow, r"control_hz: 5.0, 10.0"), (small, r"action size: 4, 7")):
        with pytest.raises(DataError, match=text):
            convert([first, other], place(tmp_path, name), name)


def test_a_format_that_is_only_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"format='rlds' is only read; expected one of store, lerobot_v3"):
        convert([episode(0)], tmp_path / "a", "rlds")
    with pytest.raises(ConfigError, match=r"unknown dataset format 'lerobot'.*lerobot_v3"):
        convert([episode(0)], tmp_path / "a", "lerobot")


# --- LeRobotDataset ---------------------------------------------------------------------------------


ENDS = ("next.done", "next.success", "next.terminated", "next.truncated")


def without_ours(path: Path) -> None:
    """As if lerobot had recorded it."""
    (path / "meta" / "robot_rl.parquet").unlink()


def test_lerobot_columns(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path, originals = tmp_path / "lerobot", [rich(seed, 4) for seed in range(3)]
    convert(originals, path, "lerobot_v3")
    info = json.loads((path / "meta" / "info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["fps"]) == (3, 12, 5)
    assert info["features"]["observation.images.wrist"]["shape"] == [5, 7, 3]
    assert not any("/" in name for name in info["features"])
    rows = pq.read_table(path / "data" / "chunk-000" / "file-000.parquet").to_pydict()
    assert rows["index"] == list(range(12))
    assert rows["frame_index"] == [0, 1, 2, 3] * 3
    assert rows["timestamp"] == pytest.approx([0, 0.2, 0.4, 0.6] * 3)
    done = np.concatenate([e.terminated | e.truncated for e in originals])
    assert rows["next.done"] == done.tolist()
    assert rows["next.truncated"] == np.concatenate([e.truncated for e in originals]).tolist()
    assert np.array_equal(np.array(rows["action"], np.float32), np.concatenate([e.action for e in originals]))
    stats = json.loads((path / "meta" / "stats.json").read_text())
    every = np.concatenate([e.action for e in originals]).astype(np.float64)
    assert np.array(stats["action"]["std"]) == pytest.approx(every.std(0))
    assert np.array(stats["action"]["max"]) == pytest.approx(every.max(0))
    pictures = np.concatenate([e.observations[schema.IMAGE][:-1] for e in originals]) / 255
    assert np.array(stats[schema.IMAGE]["mean"]).shape == (3, 1, 1)
    assert np.array(stats[schema.IMAGE]["mean"]).ravel() == pytest.approx(pictures.mean((0, 1, 2)))
    assert np.array(stats[schema.IMAGE]["std"]).ravel() == pytest.approx(pictures.std((0, 1, 2)))


def test_a_foreign_lerobot_dataset_loses_no_action(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    original = rich(0, 4)
    convert([original], tmp_path / "a", "lerobot_v3")
    without_ours(tmp_path / "a")
    (read,) = open_dataset(str(tmp_path / "a"))
    assert read.metadata.extra[REPEATED]
    assert np.array_equal(read.action, original.action)
    assert np.array_equal(read.terminated, original.terminated)
    assert np.array_equal(read.filter_reason, original.filter_reason)
    for key, value in original.observations.items():
        assert np.array_equal(
            read.observations[key].squeeze(), np.concatenate([value[:-1], value[-2:-1]]).squeeze()
        )
    convert(f"lerobot_v3:{tmp_path}/a", tmp_path / "b", "lerobot_v3")  # there and back: the same columns
    pq = pytest.importorskip("pyarrow.parquet")
    first, second = (pq.read_table(tmp_path / x / "data" / "chunk-000" / "file-000.parquet") for x in "ab")
    assert first.to_pydict() == second.to_pydict()


def test_a_foreign_end_is_the_clock_s_unless_it_is_a_success(tmp_path: Path) -> None:
    """lerobot marks the last frame of every episode as done, whatever ended it."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    convert([rich(0, 4)], tmp_path / "a", "lerobot_v3")
    without_ours(tmp_path / "a")
    (file,) = (tmp_path / "a" / "data").rglob("*.parquet")
    table = pq.read_table(file)
    table = table.drop_columns([name for name in ENDS if name in table.column_names])
    for success in (False, True):
        changed = table.append_column("next.done", pa.array([False, False, False, True]))
        changed = changed.append_column("next.success", pa.array([False, False, False, success]))
        pq.write_table(changed, file)
        (read,) = open_dataset(str(tmp_path / "a"))
        assert read.terminated.tolist() == [False, False, False, success]
        assert read.truncated.tolist() == [False, False, False, not success]


def test_lerobot_names_what_it_leaves_out(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a"
    convert([episode(0, 3)], path, "lerobot_v3")
    without_ours(path)
    info = json.loads((path / "meta" / "info.json").read_text())
    info["features"]["complementary_info.mood"] = {"dtype": "float32", "shape": [1], "names": None}
    (path / "meta" / "info.json").write_text(json.dumps(info))
    file = path / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(
        pq.read_table(file).append_column("complementary_info.mood", pa.array([0.1, 0.2, 0.3])), file
    )
    written = convert(f"lerobot_v3:{path}", tmp_path / "b", "store")
    assert written.lost == ("complementary_info.mood (no place in an Episode)",)


def test_lerobot_video_is_close_and_said_to_be_lossy(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    smooth = episode(0, 6, size=32)
    ramp = np.linspace(0, 200, 7 * 32 * 32 * 3).reshape(7, 32, 32, 3)
    smooth.observations[schema.IMAGE] = ramp.astype(np.uint8)
    written = lerobot.write(tmp_path / "a", [smooth, smooth], video=True)
    assert written.lost == ("observation.images.front (exact pixels: video is lossy)",)
    for read in open_dataset(str(tmp_path / "a")):
        difference = read.observations[schema.IMAGE].astype(int) - smooth.observations[schema.IMAGE]
        assert np.abs(difference).mean() < 6
        assert np.array_equal(difference[-1], np.zeros((32, 32, 3)))  # ours, as PNG


def test_lerobot_files_are_cut_at_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("robot_rl.data.formats.lerobot.writer.FILE_MB", 0.003)
    monkeypatch.setattr("robot_rl.data.formats.lerobot.writer.CHUNK", 2)
    originals = [rich(seed, 5) for seed in range(5)]
    convert(originals, tmp_path / "a", "lerobot_v3")
    assert len(list((tmp_path / "a" / "data").glob("chunk-*/*.parquet"))) > 2
    assert (tmp_path / "a" / "data" / "chunk-001").is_dir()
    assert all(same(*pair) for pair in zip(open_dataset(str(tmp_path / "a")), originals, strict=True))


def test_damaged_lerobot_datasets_are_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "a"
    convert([episode(0)], path, "lerobot_v3")
    info = path / "meta" / "info.json"
    text = info.read_text()
    info.write_text(text.replace('"v3.0"', '"v2.1"'))
    with pytest.raises(DataError, match=r"LeRobotDataset v2.1; expected v3"):
        open_dataset(str(path))
    info.write_text(text[:100])
    with pytest.raises(DataError, match=r"info.json cannot be read"):
        open_dataset(str(path))
    info.write_text(text)
    file = path / "data" / "chunk-000" / "file-000.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a episode 0 cannot be read.*fetch the dataset again") as caught:
        open_dataset(str(path))
    assert "\n" not in str(caught.value)


# --- foreign HDF5 -----------------------------------------------------------------------------------


def robomimic_file(path: Path, rng: np.random.Generator) -> dict[str, Any]:
    """As robosuite records; returns what is in demo_1."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        env_args = {
            "env_name": "Lift",
            "env_type": 1,
            "env_kwargs": {"robots": ["Panda"], "control_freq": 20},
        }
        data.attrs["env_args"], data.attrs["total"] = json.dumps(env_args), 14
        for number in (10, 1):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"], demo.attrs["model_file"] = 7, "<mujoco/>"
            full = {
                "robot0_eef_pos": rng.normal(size=(8, 3)),
                "robot0_eef_quat": rng.normal(size=(8, 4)),
                "robot0_gripper_qpos": rng.normal(size=(8, 2)),
                "agentview_image": rng.integers(0, 256, (8, 9, 9, 3), np.uint8),
            }
            for key, value in full.items():
                demo[f"obs/{key}"], demo[f"next_obs/{key}"] = value[:-1], value[1:]
            demo["actions"] = rng.uniform(-1, 1, (7, 7)).astype(np.float32).astype(np.float64)
            demo["rewards"], demo["dones"] = np.arange(7) == 6.0, np.arange(7) >= 5
            demo["states"] = rng.normal(size=(7, 32))
        file["mask/train"], file["mask/valid"] = np.array([b"demo_1"]), np.array([b"demo_10"])
        return {f"obs/{key}": value[:-1] for key, value in full.items()} | {
            "actions": demo["actions"][()], "rewards": demo["rewards"][()], "dones": demo["dones"][()]
        }  # fmt: skip


def test_a_foreign_robomimic_file(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    content = robomimic_file(tmp_path / "lift.hdf5", np.random.default_rng(0))
    first, _ = open_dataset(str(tmp_path / "lift.hdf5"))
    assert first.observations[schema.STATE].shape == (8, 9)
    assert first.observations[schema.image_key("agentview")].shape == (8, 9, 9, 3)
    assert np.array_equal(
        first.observations["observation.robot0_eef_pos"][:-1], content["obs/robot0_eef_pos"]
    )
    assert first.terminated.tolist() == first.success.tolist() == [False] * 6 + [True]
    assert (first.metadata.task, first.metadata.robot, first.metadata.control_hz) == (
        "robomimic/Lift",
        "Panda",
        20,
    )
    written = convert(str(tmp_path / "lift.hdf5"), tmp_path / "store", "store")
    assert written.lost == ("states (no place in an Episode)",)
    back = convert(str(tmp_path / "store"), tmp_path / "back.hdf5", "robomimic")
    assert "states (the simulator's, which were not kept)" in back.lost
    with h5py.File(tmp_path / "back.hdf5") as file:
        demo = file["data/demo_0"]
        assert set(demo["obs"]) == {key[4:] for key in content if key.startswith("obs/")}
        for name, value in content.items():
            assert np.array_equal(demo[name][()], value), name
        assert demo.attrs["model_file"] == "<mujoco/>"
        assert json.loads(file["data"].attrs["env_args"])["env_name"] == "Lift"
        assert file["mask/train"][()].tolist() == [b"demo_0"]
        assert file["mask/valid"][()].tolist() == [b"demo_1"]
    assert all(
        same(*p)
        for p in zip(open_dataset(str(tmp_path / "back.hdf5")), EpisodeStore(tmp_path / "store"), strict=True)
    )


def test_a_foreign_minari_dataset(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "door" / "data").mkdir(parents=True)
    facts = {"total_episodes": 1, "data_format": "hdf5", "dataset_id": "D4RL/door-v2", "jpeg_encoding": True}
    (tmp_path / "door" / "data" / "metadata.json").write_text(json.dumps(facts))
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "door" / "data" / "main_data.hdf5", "w") as file:
        group = file.create_group("episode_0")
        group.attrs["seed"] = 5
        group["observations/observation"] = rng.normal(size=(4, 3))
        group["observations/goal/position"] = rng.normal(size=(4, 2))
        group["actions"], group["rewards"] = rng.normal(size=(3, 2)), np.ones(3)
        group["terminations"], group["truncations"] = np.zeros(3, bool), np.zeros(3, bool)
        group["infos/speed"] = np.zeros(4)
    (read,) = open_dataset(str(tmp_path / "door"))
    assert read.observations[schema.STATE].shape == (4, 3)
    assert read.observations["observation.goal.position"].shape == (4, 2)
    assert read.truncated.tolist() == [False, False, True]
    assert read.metadata.seed == 5
    assert read.metadata.extra[LEFT_OUT] == ["infos/speed", "actions below float64"]


def test_damaged_hdf5_is_named(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    for name in ("robomimic", "minari"):
        path = place(tmp_path, name)
        convert([episode(0)], path, name)
        file = path / "data" / "main_data.hdf5" if name == "minari" else path
        file.write_bytes(file.read_bytes()[:900])
        with pytest.raises(DataError, match=r"damaged .*fetch"):
            open_dataset(f"{name}:{path}")


@pytest.fixture(scope="module")
def bridge() -> list[Episode]:
    if not BRIDGE.is_dir():
        pytest.skip(f"no BridgeData sample at {BRIDGE}; set ROBOT_RL_REAL_DATA")
    return open_dataset(f"rlds:{BRIDGE}")


@formats
def test_the_bridge_sample_goes_everywhere_and_back(tmp_path: Path, bridge: list[Episode], name: str) -> None:
    path = place(tmp_path, name)
    written = convert(bridge, path, name)
    assert (written.episodes, written.steps) == (25, 225)
    lost = {text.split()[0] for text in written.lost}
    for read, original in zip(Dataset.open(str(path)), bridge, strict=True):
        held = {key: value for key, value in original.observations.items() if key in read.observations}
        assert original.observations.keys() - held.keys() == lost & original.observations.keys()
        assert same(read, dataclasses.replace(original, observations=held))
