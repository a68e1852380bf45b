"""What we write, opened by the loaders of the projects whose formats these are.

Run by `make test-formats`, in an environment of its own; elsewhere these tests skip.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import numpy as np
import pytest

import robot_rl.torchvision_compat  # noqa: F401 - before lerobot imports torchvision
from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.data.formats import convert, lerobot, open_dataset
from tests.data.make import episode, same
from tests.data.test_interchange import rich

os.environ.setdefault("HF_HUB_OFFLINE", "1")
COUNT = 4
CAMERAS = (schema.IMAGE, schema.image_key("wrist"))


@pytest.fixture
def episodes() -> list[Episode]:
    return [rich(seed, 3 + seed) for seed in range(COUNT)]


def test_lerobot_opens_images(tmp_path: Path, episodes: list[Episode]) -> None:
    module = pytest.importorskip(
        "lerobot.datasets.lerobot_dataset", reason="make test-formats installs lerobot"
    )
    convert(episodes, tmp_path / "set", "lerobot_v3")
    opened = module.LeRobotDataset("ours/set", root=tmp_path / "set")
    assert opened.num_episodes == COUNT
    assert len(opened) == sum(map(len, episodes))
    index = 0
    for number, original in enumerate(episodes):
        for t in range(len(original)):
            item = opened[index]
            index += 1
            assert (item["episode_index"], item["frame_index"]) == (number, t)
            assert item["task"] == original.metadata.instruction
            assert np.array_equal(item["action"].numpy(), original.action[t])
            assert np.array_equal(
                item["complementary_info.policy_action"].numpy(), original.action_requested[t]
            )
            assert bool(item["next.terminated"]) == original.terminated[t]
            assert float(item["next.reward"]) == original.reward[t]
            for key in CAMERAS:
                picture = (item[key] * 255).round().numpy().astype(np.uint8).transpose(1, 2, 0)
                assert np.array_equal(picture, original.observations[key][t])
            for key in (schema.STATE, "observation.grid", "observation.contact", "observation.force"):
                assert np.allclose(np.asarray(item[key]), original.observations[key][t]), key


def test_lerobot_opens_chunks_of_actions(tmp_path: Path, episodes: list[Episode]) -> None:
    module = pytest.importorskip(
        "lerobot.datasets.lerobot_dataset", reason="make test-formats installs lerobot"
    )
    convert(episodes, tmp_path / "set", "lerobot_v3")
    deltas = {"action": [i / 5 for i in range(4)]}
    opened = module.LeRobotDataset("ours/set", root=tmp_path / "set", delta_timestamps=deltas)
    item = opened[1]
    first = episodes[0].action
    assert np.array_equal(item["action"].numpy(), first[[1, 2, 2, 2]])
    assert item["action_is_pad"].tolist() == [False, False, True, True]
    assert opened.meta.stats["action"]["mean"].shape == (7,)
    assert opened.meta.stats[schema.IMAGE]["mean"].shape == (3, 1, 1)


def test_lerobot_opens_video(tmp_path: Path) -> None:
    module = pytest.importorskip(
        "lerobot.datasets.lerobot_dataset", reason="make test-formats installs lerobot"
    )
    smooth = [episode(seed, 6, size=64) for seed in range(2)]
    for each in smooth:
        ramp = np.linspace(0, 220, 7 * 64 * 64 * 3).reshape(7, 64, 64, 3)
        each.observations[schema.IMAGE] = ramp.astype(np.uint8)
    lerobot.write(tmp_path / "set", smooth, video=True)
    opened = module.LeRobotDataset("ours/set", root=tmp_path / "set", video_backend="torchcodec")
    assert opened.meta.video_keys == [schema.IMAGE]
    for number in range(2):
        assert (tmp_path / "set" / opened.meta.get_video_file_path(number, schema.IMAGE)).is_file()
    try:
        importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError):
        pytest.skip("torchcodec does not load here: no frame was decoded")
    for index in (0, 5, 6, 11):
        picture = opened[index][schema.IMAGE].numpy().transpose(1, 2, 0) * 255
        assert np.abs(picture - smooth[0].observations[schema.IMAGE][index % 6]).mean() < 6


def test_we_open_what_lerobot_records(tmp_path: Path) -> None:
    module = pytest.importorskip(
        "lerobot.datasets.lerobot_dataset", reason="make test-formats installs lerobot"
    )
    features = {
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["a", "b", "c"]},
        "observation.images.top": {
            "dtype": "image",
            "shape": (8, 8, 3),
            "names": ["height", "width", "channels"],
        },
        "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
    }
    recorded = module.LeRobotDataset.create(
        "theirs/set", 10, features, root=tmp_path / "set", use_videos=False
    )
    rng = np.random.default_rng(0)
    frames = [
        {
            "observation.state": rng.normal(size=3).astype(np.float32),
            "observation.images.top": rng.integers(0, 256, (8, 8, 3), np.uint8),
            "action": rng.normal(size=2).astype(np.float32),
        }
        for _ in range(9)
    ]
    for number, frame in enumerate(frames):
        recorded.add_frame({**frame, "task": "put it there"})
        if number in (3, 8):
            recorded.save_episode()
    recorded.finalize()
    first, second = open_dataset(str(tmp_path / "set"))
    assert (len(first), len(second)) == (4, 5)
    assert first.metadata.instruction == "put it there"
    assert first.metadata.control_hz == 10
    for t, frame in enumerate(frames[4:]):
        assert np.array_equal(second.action[t], frame["action"])
        assert np.array_equal(second.observations[schema.STATE][t], frame["observation.state"])
        assert np.array_equal(
            second.observations["observation.images.top"][t], frame["observation.images.top"]
        )


def test_minari_opens_ours_and_we_open_what_it_copies(tmp_path: Path, episodes: list[Episode]) -> None:
    minari = pytest.importorskip("minari", reason="make test-formats installs minari")
    convert(episodes, tmp_path / "robot" / "push-v0", "minari")
    opened = minari.MinariDataset(tmp_path / "robot" / "push-v0" / "data")
    assert opened.total_episodes == COUNT
    assert opened.total_steps == sum(map(len, episodes))
    assert opened.action_space.shape == (7,)
    for theirs, ours in zip(opened, episodes, strict=True):
        assert theirs.observations.keys() == ours.observations.keys()
        for key, value in ours.observations.items():
            assert np.array_equal(theirs.observations[key], value), key
        for name, field in (("actions", "action"), ("rewards", "reward"), ("terminations", "terminated")):
            assert np.array_equal(getattr(theirs, name), getattr(ours, field))
        assert np.array_equal(theirs.infos["action_requested"], ours.action_requested)
    space = opened.observation_space
    assert space[schema.STATE].contains(episodes[0].observations[schema.STATE][0])


def test_robomimic_trains_from_ours(tmp_path: Path, episodes: list[Episode]) -> None:
    module = pytest.importorskip("robomimic.utils.dataset", reason="make test-formats installs robomimic")
    obs_utils = pytest.importorskip("robomimic.utils.obs_utils")
    convert(episodes, tmp_path / "set.hdf5", "robomimic")
    obs_utils.initialize_obs_utils_with_obs_specs(
        {"obs": {"low_dim": [schema.STATE], "rgb": [schema.IMAGE], "depth": [], "scan": []}}
    )
    opened = module.SequenceDataset(
        str(tmp_path / "set.hdf5"),
        obs_keys=(schema.STATE, schema.IMAGE),
        dataset_keys=("actions", "rewards", "dones"),
        seq_length=2,
        hdf5_use_swmr=False,
    )
    assert opened.n_demos == COUNT
    assert len(opened) == sum(map(len, episodes))
    item = opened[0]
    assert np.array_equal(item["actions"][0], episodes[0].action[0])
    assert np.array_equal(item["obs"][schema.STATE][1], episodes[0].observations[schema.STATE][1])
    assert np.array_equal(item["next_obs"][schema.STATE][1], episodes[0].observations[schema.STATE][2])
    assert np.array_equal(item["obs"][schema.IMAGE][0], episodes[0].observations[schema.IMAGE][0])
    assert all(same(*pair) for pair in zip(open_dataset(str(tmp_path / "set.hdf5")), episodes, strict=True))
