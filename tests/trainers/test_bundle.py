"""A bundle gives back the policy and its limits exactly, or says by name why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from robot_rl.agents.policy import ActorPolicy, PolicyConfig, PolicyRunner
from robot_rl.data import schema
from robot_rl.data.artifact import load_artifact, save_artifact
from robot_rl.data.statistics import Feature, Statistics
from robot_rl.errors import ConfigError, DataError
from robot_rl.safety import ActionGuardConfig, GuardConfig
from robot_rl.trainers.bundle import KIND, export_bundle, load_bundle

FACTS = {"task": "widowx/push", "robot": "widowx_250s", "instruction": "push the block to the target"}


@pytest.fixture
def policy(tmp_path: Path) -> ActorPolicy:
    states = np.random.default_rng(0).normal(1.0, 3.0, (50, 7)).astype(np.float32)
    policy = ActorPolicy(
        PolicyConfig(7, 7, image_shape=(64, 64), hidden=(16,), seed=3),
        Statistics({schema.STATE: Feature.of(states)}),
    )
    policy.save(tmp_path / "policy", {"task": "widowx/push", "stage": "bc"})
    return policy


@pytest.fixture
def bundle(policy: ActorPolicy, tmp_path: Path) -> Path:
    guard = GuardConfig.widowx_250s(max_command_age_s=0.123)
    action_guard = ActionGuardConfig(max_change=1.1)
    export_bundle(
        tmp_path / "policy", tmp_path / "bundle", **FACTS, guard=guard, action_guard=action_guard,
        metadata={"run": "mine"},
    )  # fmt: skip
    return tmp_path / "bundle"


def test_a_bundle_acts_as_the_policy_it_was_made_from(policy: ActorPolicy, bundle: Path) -> None:
    loaded = load_bundle(bundle, expect={"task": "widowx/push"})
    rng = np.random.default_rng(1)
    observation = {
        schema.STATE: rng.normal(size=(5, 7)).astype(np.float32),
        schema.IMAGE: rng.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8),
    }
    np.testing.assert_array_equal(
        PolicyRunner(loaded.policy).act(observation), PolicyRunner(policy).act(observation)
    )
    assert not loaded.policy.training
    assert loaded.guard == GuardConfig.widowx_250s(max_command_age_s=0.123)
    assert loaded.action_guard == ActionGuardConfig(max_change=1.1)
    assert {"task": loaded.task, "robot": loaded.robot, "instruction": loaded.instruction} == FACTS
    assert loaded.control_hz == schema.CONTROL_HZ
    assert loaded.metadata["run"] == "mine"
    assert loaded.metadata["stage"] == "bc"


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "statistics.json", "schema.json", "safety.json"]
)
def test_one_changed_byte_is_refused_by_the_name_of_its_file(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(DataError, match=name):
        load_bundle(bundle)


def test_a_changed_manifest_or_a_missing_file_is_refused(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["metadata"]["task"] = "widowx/reach"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="manifest"):
        load_bundle(bundle)
    with pytest.raises(DataError, match="no artifact at"):
        load_bundle(bundle.parent / "nowhere")


def test_what_does_not_fit_is_refused_by_name(policy: ActorPolicy, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="task 'widowx/push'; expected 'widowx/reach'"):
        load_bundle(bundle, expect={"task": "widowx/reach"})
    with pytest.raises(DataError, match="is a 'policy'"):
        load_bundle(tmp_path / "policy")
    with pytest.raises(DataError, match="is for task 'widowx/push'"):
        export_bundle(tmp_path / "policy", tmp_path / "other", **FACTS | {"task": "widowx/reach"})
    with pytest.raises(ConfigError, match="instruction is empty"):
        export_bundle(tmp_path / "policy", tmp_path / "other", **FACTS | {"instruction": " "})
    with pytest.raises(ConfigError, match="control_hz is 7"):
        export_bundle(tmp_path / "policy", tmp_path / "other", **FACTS, control_hz=7)
    assert not (tmp_path / "other").exists()


def test_other_units_are_refused(bundle: Path, tmp_path: Path) -> None:
    """A whole and consistent bundle whose actions mean something else."""
    old = load_artifact(bundle, KIND)
    files = {name: old.bytes(name) for name in old.files}
    files["schema.json"] = json.dumps(old.json("schema.json") | {"delta_position_m": 0.1}).encode()
    save_artifact(tmp_path / "strange", KIND, files, old.metadata)
    with pytest.raises(DataError, match=r"delta_position_m 0.1; this version has 0.05"):
        load_bundle(tmp_path / "strange")


def test_weights_are_never_unpickled(bundle: Path) -> None:
    assert not [file for file in bundle.iterdir() if file.suffix in (".pt", ".pkl", ".pth")]
    assert all(
        isinstance(tensor, torch.Tensor) for tensor in load_bundle(bundle).policy.state_dict().values()
    )
