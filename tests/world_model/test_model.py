from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from robot_rl.errors import DataError
from tests.world_model import toy
from world_model.metrics import evaluate_world_model, psnr, ssim
from world_model.model import WorldModel, WorldModelSpec
from world_model.pictures import side_by_side
from world_model.windows import FrameTable


def test_learns_to_follow_actions_on_the_toy(trained: WorldModel) -> None:
    metrics = evaluate_world_model(trained, toy.episodes(1000, 24), (1, 5))
    assert metrics["psnr_h1"] > metrics["copy_psnr_h1"] + 1
    assert metrics["psnr_h1"] > metrics["shuffled_psnr_h1"] + 0.8
    assert metrics["psnr_h5"] > metrics["copy_psnr_h5"] + 0.8
    assert metrics["psnr_h5"] > metrics["shuffled_psnr_h5"] + 0.2
    assert metrics["state_error_h1"] < 0.2
    assert metrics["success_fpr"] < 0.15
    assert metrics["success_recall"] > 0.8


def test_saved_model_predicts_the_same(untrained: WorldModel, tmp_path: Path) -> None:
    untrained.save(tmp_path / "model")
    loaded = WorldModel.load(tmp_path / "model", untrained.spec)
    table = FrameTable(toy.episodes(50, 2))
    index = table.steps[:3]
    arguments = table.history(index, 2), table.states[index], table.previous(index), table.actions[index]
    one = untrained.predict(*arguments, torch.Generator().manual_seed(1))
    two = loaded.predict(*arguments, torch.Generator().manual_seed(1))
    assert torch.equal(one.frame, two.frame)
    assert torch.equal(one.state, two.state)
    assert torch.equal(one.success, two.success)
    assert one.frame.dtype == torch.uint8
    assert one.frame.shape == (3, 32, 32, 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("task", "toy/other"), ("camera", "observation.images.wrist"), ("height", 64), ("action_dim", 7)],
)
def test_model_of_something_else_is_refused_by_name(
    untrained: WorldModel, tmp_path: Path, field: str, value: object
) -> None:
    untrained.save(tmp_path / "model")
    wanted = dataclasses.replace(untrained.spec, **{field: value})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"{field}.*{getattr(untrained.spec, field)}"):
        WorldModel.load(tmp_path / "model", wanted)


def test_changed_byte_is_refused(untrained: WorldModel, tmp_path: Path) -> None:
    untrained.save(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"model.safetensors"):
        WorldModel.load(tmp_path / "model")


def test_predicted_state_stays_in_the_range_of_the_data(untrained: WorldModel) -> None:
    history = torch.zeros(1, 2, 3, 32, 32)
    far = torch.full((1, 2), 100.0)
    action = torch.zeros(1, 2)
    assert torch.equal(untrained.predict_state(history, far, far, action)[0], untrained.state_high)


@pytest.mark.parametrize(("size", "state", "action"), [(48, 4, 4), (64, 7, 7)])
def test_fits_other_sizes(size: int, state: int, action: int) -> None:
    spec = WorldModelSpec("x", "y", 10.0, "observation.images.front", size, size, state, action)
    model = WorldModel(spec, toy.tiny_config().model)
    frames = torch.zeros(2, 2, size, size, 3, dtype=torch.uint8)
    prediction = model.predict(frames, *torch.zeros(2, 2, state), torch.zeros(2, action), torch.Generator())
    assert prediction.frame.shape == (2, size, size, 3)
    assert prediction.state.shape == (2, state)


def test_psnr_and_ssim_are_those_of_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 256, (3, 32, 32, 3), generator=generator, dtype=torch.uint8)
    noise = torch.randint(-40, 41, truth.shape, generator=generator)
    images = (truth.int() + noise).clamp(0, 255).to(torch.uint8)
    similarity, ratio = ssim(images, truth), psnr(images, truth)
    for i in range(3):
        a, b = images[i].numpy(), truth[i].numpy()
        assert float(ratio[i]) == pytest.approx(metrics.peak_signal_noise_ratio(b, a), abs=1e-3)
        expected = metrics.structural_similarity(
            b,
            a,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
        )
        assert float(similarity[i]) == pytest.approx(expected, abs=1e-3)
    assert float(ssim(truth, truth).min()) == pytest.approx(1)


def test_video_shows_the_real_episode_on_the_left(untrained: WorldModel) -> None:
    episode = toy.episode(70)
    video = side_by_side(untrained, episode)
    assert video.shape == (11, 32, 64, 3)
    assert (video[:, :, :32] == episode.observations["observation.images.front"]).all()
    assert (video[0, :, 32:] == video[0, :, :32]).all()


def test_evaluation_of_too_short_episodes_is_refused(untrained: WorldModel) -> None:
    with pytest.raises(DataError, match="20 steps"):
        evaluate_world_model(untrained, toy.episodes(0, 3), (20,))
