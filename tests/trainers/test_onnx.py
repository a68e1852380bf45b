from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robot_rl.agents.policy import ActorPolicy, PolicyConfig
from robot_rl.data import schema
from robot_rl.data.statistics import Feature, Statistics
from robot_rl.errors import DataError
from robot_rl.trainers.onnx import export_onnx

runtime = pytest.importorskip("onnxruntime", reason="needs pip install robot-rl[onnx]")
pytest.importorskip("onnxscript", reason="needs pip install robot-rl[onnx]")


def policy(head: str, image_shape: tuple[int, int] | None) -> ActorPolicy:
    rows = np.random.default_rng(0).normal(3, 2, (50, 7))
    statistics = Statistics({schema.STATE: Feature.of(rows)})
    return ActorPolicy(PolicyConfig(image_shape=image_shape, head=head, hidden=(32,)), statistics).eval()


@pytest.mark.parametrize(("head", "image_shape"), [("gaussian", (24, 32)), ("two_hot", None)])
def test_the_file_acts_as_the_policy(tmp_path: Path, head: str, image_shape: tuple[int, int] | None) -> None:
    actor = policy(head, image_shape)
    assert export_onnx(actor, tmp_path / "policy.onnx", samples=8) <= 1e-4
    session = runtime.InferenceSession(tmp_path / "policy.onnx")
    rng = np.random.default_rng(1)
    observations = {schema.STATE: rng.normal(3, 2, (3, 7)).astype(np.float32)}  # another batch size
    if image_shape:
        observations[schema.IMAGE] = rng.integers(0, 256, (3, *image_shape, 3), np.uint8)
    assert [entry.name for entry in session.get_inputs()] == list(observations)
    (found,) = session.run(["action"], observations)
    with torch.no_grad():
        tensors = {key: torch.from_numpy(value) for key, value in observations.items()}
        expected = actor.act_from_features(actor.features(tensors)).numpy()
    assert found == pytest.approx(expected, abs=1e-4)
    assert found.std() > 0


def test_a_file_that_disagrees_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robot_rl.trainers.onnx.TOLERANCE", -1.0)
    with pytest.raises(DataError, match="nothing was written"):
        export_onnx(policy("gaussian", None), tmp_path / "policy.onnx", samples=4)
    assert not list(tmp_path.iterdir())
