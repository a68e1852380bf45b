"""The study: its arithmetic, its settings, and one run of it in the smallest size."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from robot_rl.cli.main import main
from robot_rl.cli.passivity import PassivityStudyConfig, blinded
from robot_rl.cli.study import markdown, summarise
from robot_rl.data import schema
from robot_rl.errors import ConfigError
from robot_rl.trainers.statistics import nested_interval
from sim.peg import FULL_TANK, PegArm

CONFIG = PassivityStudyConfig(seeds=(0, 1), evaluation=4)


def episodes(success: float, peak: float, energy: float = 2.0) -> dict[str, list[float]]:
    return {
        "seed": [0.0] * 4,
        "success": [success] * 4,
        "steps": [20.0] * 4,
        "curtailed": [1.0] * 4,
        "energy": [energy] * 4,
        "peak_net_energy": [peak] * 4,
        "peak_force": [10.0] * 4,
    }


def test_the_table_says_what_the_episodes_say(tmp_path: Path) -> None:
    for variant, success in (("aware", 1.0), ("agnostic", 0.0)):
        for seed in CONFIG.seeds:
            folder = tmp_path / f"{variant}_{seed}"
            folder.mkdir()
            budget = CONFIG.budget_j
            result = {"filter": episodes(success, budget), "none": episodes(success, budget + 0.01)}
            (folder / "evaluation.json").write_text(json.dumps(result))
    table = summarise(tmp_path, CONFIG)
    assert list(table) == ["aware, filter", "aware, none", "agnostic, filter", "agnostic, none"]
    assert table["aware, filter"]["violations"]["mean"] == 0
    assert table["aware, none"]["violations"]["mean"] == 1
    assert table["aware, filter"]["joules_per_success"] == {"mean": 2.0, "low": 2.0, "high": 2.0}
    assert math.isinf(table["agnostic, none"]["joules_per_success"]["mean"])
    assert table["aware, filter"]["curtailed"]["mean"] == 0.05
    text = markdown(table, CONFIG)
    assert "100 % [100, 100]" in text
    assert "- [-, -]" in text


def test_seeds_that_differ_widen_the_interval() -> None:
    def mean(e: dict[str, list[float]]) -> float:
        return float(np.mean(e["x"]))

    same = nested_interval([{"x": [0.0, 1.0] * 20}] * 4, mean)  # type: ignore[arg-type]
    apart = nested_interval([{"x": [0.0] * 40}, {"x": [1.0] * 40}] * 2, mean)  # type: ignore[arg-type]
    assert same[0] == apart[0] == 0.5
    assert apart[2] - apart[1] > 2 * (same[2] - same[1])
    with pytest.raises(ConfigError, match="0 groups"):
        nested_interval([], mean)  # type: ignore[arg-type]


def test_a_blind_policy_never_sees_the_tank() -> None:
    state = np.zeros((1, len(PegArm.state_names)), np.float32)
    seen = blinded({schema.STATE: state})[schema.STATE]
    assert seen[0, -2:].tolist() == [FULL_TANK, 1.0]
    assert state.sum() == 0


@pytest.mark.parametrize("changes", [{"seeds": ()}, {"episodes": 2}, {"demos": 0}, {"tank_min_j": 1.0}])
def test_bad_settings_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        PassivityStudyConfig(**changes)  # type: ignore[arg-type]


def test_bad_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study"]) == 2
    assert "passivity" in capsys.readouterr().err
    assert main(["study", "passivty"]) == 2
    assert main(["study", "passivity", "--quik"]) == 2
    assert main(["study", "passivity", "seeds=a"]) == 2


@pytest.mark.slow
def test_the_quick_study_runs_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", "passivity", "--quick", "jobs=1", f"out={tmp_path}"]
    assert main(words) == 0
    first = json.loads((tmp_path / "results.json").read_text())["table"]
    assert (tmp_path / "figure.svg").read_text().startswith("<?xml")
    assert first["aware, filter"]["violations"]["mean"] == 0
    assert main(words) == 0  # nothing is trained again
    assert json.loads((tmp_path / "results.json").read_text())["table"] == first
    assert main([*words, "evaluation=3"]) == 2
    assert "other settings" in capsys.readouterr().err
