"""A toy to learn from: a blue pusher follows the action, and shoves a red block over a grey table."""

from __future__ import annotations

import numpy as np

from robot_rl.data import schema
from robot_rl.data.episode import Episode, EpisodeMetadata
from world_model.config import WorldModelConfig, WorldModelLearnerConfig

SIZE = 32
STEP_PX = 4.0
GOAL_PX = 23.0
"""The block's centre beyond this column is success."""


def picture(pusher: np.ndarray, block: np.ndarray) -> np.ndarray:
    """uint8 (32, 32, 3) of pusher and block centres (x, y) [pixels]."""
    image = np.full((SIZE, SIZE, 3), 180, np.uint8)
    image[:, int(GOAL_PX) :] = (120, 170, 120)
    for centre, half, colour in ((block, 3, (220, 30, 30)), (pusher, 2, (30, 30, 220))):
        x, y = np.round(centre).astype(int)
        image[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1] = colour
    return image


def episode(seed: int, steps: int = 10, task: str = "toy/push", size: int = SIZE) -> Episode:
    """Random walks of the pusher; the block moves out of its way to the right."""
    rng = np.random.default_rng(seed)
    pusher, block = rng.uniform(4, 28, 2), np.array([rng.uniform(10, 20), rng.uniform(8, 24)])
    drift = rng.uniform(-0.7, 0.7, 2)
    actions = np.clip(drift + rng.normal(0, 0.6, (steps, 2)), -1, 1).astype(np.float32)
    images, states, success = [picture(pusher, block)], [pusher / SIZE], []
    for action in actions:
        pusher = np.clip(pusher + STEP_PX * action, 2, SIZE - 3)
        if abs(pusher[1] - block[1]) <= 5 and 0 < block[0] - pusher[0] < 6:
            block = np.array([min(pusher[0] + 6, SIZE - 4), block[1]])
        images.append(picture(pusher, block))
        states.append(pusher / SIZE)
        success.append(block[0] > GOAL_PX)
    frames = np.stack(images)
    if size != SIZE:
        frames = frames[:, :size, :size]
    return Episode.from_steps(
        {schema.STATE: np.asarray(states, np.float32), schema.IMAGE: np.ascontiguousarray(frames)},
        actions,
        EpisodeMetadata(task, "push the block to the right", "toy", 5.0, seed, "random"),
        success=np.asarray(success),
    )


def episodes(first: int, count: int, steps: int = 10) -> list[Episode]:
    return [episode(first + i, steps) for i in range(count)]


def tiny_config(**changes: object) -> WorldModelLearnerConfig:
    """A learner small enough for tests."""
    model = WorldModelConfig(
        history=2, channels=(32,), spatial_channels=4, head_width=32, precision="float32"
    )
    values = {"model": model, "total_updates": 6, "batch_size": 8, "warmup_updates": 2} | changes
    return WorldModelLearnerConfig(**values)  # type: ignore[arg-type]
