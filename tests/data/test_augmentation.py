from __future__ import annotations

import numpy as np
import pytest
import torch

from robot_rl.data.augmentation import (
    AugmentationConfig,
    augment,
    augment_images,
    augment_windows,
    colour_jitter,
    random_shift,
    shift_images,
)
from robot_rl.errors import ConfigError


def _pixels(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_nothing_asked_for_changes_nothing_and_draws_no_shift() -> None:
    pixels, generator = _pixels(3, 3, 8, 8), torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert random_shift(pixels, 0, generator) is pixels
    assert torch.equal(generator.get_state(), before)
    assert not AugmentationConfig()
    assert torch.allclose(augment(pixels, AugmentationConfig(), generator), pixels)


def test_shift_moves_whole_pictures_within_its_range() -> None:
    pixels = _pixels(64, 3, 8, 8)
    shifted = random_shift(pixels, 2, torch.Generator().manual_seed(1))
    inside = shifted[:, :, 2:-2, 2:-2]
    moves = [
        (y, x)
        for one, whole in zip(inside, pixels, strict=True)
        for y in range(5)
        for x in range(5)
        if torch.equal(one, whole[:, y : y + 4, x : x + 4])
    ]
    assert len(moves) == 64
    assert len(set(moves)) > 10


def test_recorded_pictures_are_moved_whole_within_the_pad() -> None:
    images = torch.randint(
        0, 256, (20, 9, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    shifted = shift_images(images, 2, torch.Generator().manual_seed(1))
    assert shifted.dtype == torch.uint8
    padded = np.pad(images.numpy(), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    seen = set()
    for i in range(20):
        crops = {(y, x): padded[i, y : y + 9, x : x + 7] for y in range(5) for x in range(5)}
        found = [corner for corner, crop in crops.items() if (crop == shifted[i].numpy()).all()]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 8
    assert shift_images(images, 0, torch.Generator()) is images


def test_recorded_pictures_are_changed_as_their_pixels_are() -> None:
    images = torch.randint(
        0, 256, (4, 9, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    only_moved = augment_images(images, AugmentationConfig(shift=2), torch.Generator().manual_seed(1))
    assert torch.equal(only_moved, shift_images(images, 2, torch.Generator().manual_seed(1)))
    changed = augment_images(images, AugmentationConfig(brightness=0.2), torch.Generator().manual_seed(1))
    pixels = colour_jitter(images.permute(0, 3, 1, 2) / 255, 0.2, 0, 0, torch.Generator().manual_seed(1))
    assert changed.dtype == torch.uint8
    assert torch.allclose(changed.permute(0, 3, 1, 2) / 255, pixels, atol=0.5001 / 255)


def test_frames_of_a_window_are_changed_alike_and_windows_differently() -> None:
    config = AugmentationConfig(shift=3, brightness=0.3, contrast=0.3, colour=0.3)
    still = _pixels(5, 1, 3, 16, 16).expand(-1, 4, -1, -1, -1)
    changed = augment_windows(still, config, torch.Generator().manual_seed(1))
    assert changed.shape == still.shape
    assert all(torch.equal(changed[:, 0], changed[:, t]) for t in range(4))
    assert not torch.allclose(changed, still, atol=0.02)
    same = augment_windows(still[:1].expand(5, -1, -1, -1, -1), config, torch.Generator().manual_seed(1))
    assert not torch.allclose(same[0], same[1], atol=0.02)


@pytest.mark.parametrize("changes", [{"shift": -1}, {"brightness": 1.0}, {"colour": -0.1}])
def test_impossible_ranges_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        AugmentationConfig(**changes)  # type: ignore[arg-type]
