"""A toy with pictures: a red block moves about a table with a green bin; success = it lies in the bin."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from reward_vlm import backbone
from robot_rl.data import Episode, EpisodeMetadata, schema

INSTRUCTION = "put the red block into the green bin"
SIZE, BLOCK, BIN = 64, 6, 16


def picture(block: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 (64, 64, 3) with the block and the bin centred at the given pixels (2,)."""
    image = np.full((SIZE, SIZE, 3), 150, np.float64)
    for centre, half, colour in ((target, BIN // 2, (20, 170, 40)), (block, BLOCK // 2, (220, 20, 20))):
        x, y = np.round(centre).astype(int)
        image[max(0, y - half) : y + half, max(0, x - half) : x + half] = colour
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def episode(seed: int, succeeds: bool, steps: int = 12, instruction: str = INSTRUCTION) -> Episode:
    """The block walks to the bin and stays there, or to a place beside it."""
    rng = np.random.default_rng(seed)
    target = rng.uniform(20, 44, 2)
    side = rng.choice([-1, 1], 2)
    start = target + side * rng.uniform(10, 18, 2)
    aside = np.zeros(2) if succeeds else side * rng.uniform(8, 10, 2)
    share = np.minimum(1.0, np.linspace(0, 1.5, steps + 1))[:, None]
    path = start + share * (target + aside - start)
    inside = np.abs(path - target).max(-1) < BIN / 2 - 2
    images = np.stack([picture(block, target, rng) for block in path])
    return Episode.from_steps(
        {schema.STATE: np.zeros((steps + 1, 7), np.float32), schema.IMAGE: images},
        np.zeros((steps, 7), np.float32),
        EpisodeMetadata("toy/bin", instruction, "toy", 5.0, seed),
        success=inside[1:],
        truncated=np.arange(steps) == steps - 1,
    )


def episodes(count: int, first_seed: int = 0) -> list[Episode]:
    """Half of them successes."""
    return [episode(first_seed + i, succeeds=i % 2 == 0) for i in range(count)]


def quarter_model(directory: Path) -> str:
    """Write a quarter of the shipped model to `directory`, as open_clip's local directory; its name."""
    description = json.loads(Path(backbone.__file__).with_name("clip_tiny.json").read_text())
    description["embed_dim"] = 64
    description["vision_cfg"] |= {"width": 8}
    description["text_cfg"] |= {"width": 16, "heads": 1, "layers": 1}
    (directory / backbone.CONFIG_FILE).write_text(json.dumps({"model_cfg": description}))
    return f"local-dir:{directory}"
