from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robot_rl.data import schema
from robot_rl.data.contact_sheet import SheetConfig, write_contact_sheet
from robot_rl.data.episode import Episode, EpisodeMetadata
from robot_rl.data.summary import SummaryConfig, summarise
from robot_rl.errors import ConfigError, DataError
from tests.data.make import episode


def line(start: float, stop: float, steps: int, reward: float) -> Episode:
    """The state moves from `start` to `stop`; the action follows it."""
    state = np.linspace(start, stop, steps + 1, dtype=np.float32)[:, None]
    return Episode.from_steps(
        {schema.STATE: state},
        state[:-1] / 10,
        EpisodeMetadata("toy/line", "go", "toy", 10.0, source="expert"),
        reward=np.full(steps, reward),
    )


def test_coverage_is_against_the_reference() -> None:
    whole, half = line(0, 10, 1000, 1.0), line(0, 5, 1000, 0.0)
    config = SummaryConfig(bins=10)
    assert summarise([whole], config, [whole]).coverage == 1
    assert summarise([half], config, [whole]).coverage == pytest.approx(0.5, abs=0.11)
    assert summarise([whole, whole], config).coverage == summarise([whole], config).coverage / 2


def test_figures_of_a_dataset() -> None:
    found = summarise([line(0, 1, 20, 0.5), line(0, 1, 40, 0.0)], SummaryConfig(return_range=(0, 20)))
    assert found.lengths.tolist() == [20, 40]
    assert found.returns.tolist() == [10, 0]
    assert found.quality == 0.25
    assert found.hours == pytest.approx(6 / 3600)
    assert found.action_counts.sum(1).tolist() == [60]
    assert found.action_counts[0, 5] == 60  # all in [0, .2)
    assert found.instructions == {"go": 2}
    assert found.to_dict()["lengths"] == [20, 40]


def test_refusals() -> None:
    with pytest.raises(DataError, match="no episodes to sum up"):
        summarise([])
    with pytest.raises(DataError, match=r"episode 1 has states \(1,\)"):
        summarise([episode(0), line(0, 1, 3, 0)])
    assert summarise([line(0, 1, 3, 0.0)]).quality == 0  # all returns are the same
    with pytest.raises(ConfigError, match="g_min < g_max"):
        SummaryConfig(return_range=(1, 1))


def test_a_contact_sheet_has_a_row_an_episode(tmp_path: Path) -> None:
    made = [episode(seed, 9, size=16) for seed in range(3)]
    made[1].observations[schema.IMAGE][:] = (0, 0, 255)
    file = tmp_path / "sheet.png"
    write_contact_sheet(file, enumerate(made), SheetConfig(moments=4, height=32))
    sheet = np.asarray(Image.open(file))
    assert sheet.shape[0] == 3 * (32 + 16 + 4)
    middle = sheet[52 + 20 : 52 + 40, 8:140].reshape(-1, 3)
    assert (middle == (0, 0, 255)).all(axis=1).mean() > 0.8
    with pytest.raises(ConfigError, match=r"camera='wrist'; the episode has observation.images.front"):
        write_contact_sheet(file, enumerate(made), SheetConfig(camera="wrist"))
    del made[0].observations[schema.IMAGE]
    with pytest.raises(DataError, match="needs cameras"):
        write_contact_sheet(file, [(0, made[0])])
    with pytest.raises(ConfigError, match="expected a name such as sheet"):
        write_contact_sheet(tmp_path / "sheet.nonsense", enumerate(made))
