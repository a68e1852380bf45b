from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch

from robot_rl.data.augmentation import AugmentationConfig
from robot_rl.errors import ConfigError, DataError
from robot_rl.trainers.protocols import Learner
from tests.world_model import toy
from world_model.config import WorldModelLearnerConfig
from world_model.heads import choose_threshold
from world_model.learner import DivergenceError, WorldModelLearner
from world_model.losses import pixel_weight
from world_model.windows import FrameTable


def _learner(**changes: object) -> WorldModelLearner:
    return WorldModelLearner(toy.episodes(0, 6), toy.tiny_config(**changes))


def test_is_a_learner_and_reports_finite_metrics() -> None:
    learner = _learner()
    assert isinstance(learner, Learner)
    metrics = [learner.update() for _ in range(learner.total_updates)]
    assert all(np.isfinite(list(row.values())).all() for row in metrics)
    assert metrics[-1]["success_threshold"] >= 0.5


def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit() -> None:
    whole, first, second = _learner(), _learner(), _learner()
    expected = [whole.update() for _ in range(6)]
    for _ in range(3):
        first.update()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert [second.update() for _ in range(3)] == expected[3:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_saved_state_does_not_change_with_later_updates() -> None:
    learner = _learner()
    learner.update()
    state = learner.state_dict()
    (walk,) = state["walks"]
    cursor, history = walk["cursor"].clone(), walk["history"].clone()
    learner.update()
    assert torch.equal(walk["cursor"], cursor)
    assert torch.equal(walk["history"], history)


def test_loss_that_is_not_finite_leaves_everything_as_it_was() -> None:
    learner = _learner()
    learner.update()
    before = {name: value.clone() for name, value in learner.online.state_dict().items()}
    learner.walks[0].table.actions[:] = torch.nan
    with pytest.raises(DivergenceError, match=r"update 1; the last checkpoint is good"):
        learner.update()
    for name, value in learner.online.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_gradient_that_is_not_finite_leaves_everything_as_it_was() -> None:
    learner = _learner()
    learner.update()
    before = {name: value.clone() for name, value in learner.online.state_dict().items()}
    next(learner.online.next_state.parameters()).register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(DivergenceError, match=r"nan.* at update 1; the last checkpoint is good"):
        learner.update()
    for name, value in learner.online.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_windows_go_on_from_own_predictions_only_when_asked() -> None:
    real = _learner(own_context=0.0)
    walk = real.walks[0]
    for _ in range(3):
        walk.advance(0.0)
        assert torch.equal(walk.history, walk.table.history(walk.cursor, 2))
        real.update()
    own = _learner(own_context=0.99, own_context_ramp=(0.0, 0.1))
    own.update()
    walk = own.walks[0]
    cursor, newest = walk.cursor.clone(), walk.history[:, -1].clone()
    walk.advance(0.99)
    going_on = walk.cursor == cursor
    assert going_on.float().mean() > 0.5
    assert torch.equal(walk.history[going_on, -1], newest[going_on])


def test_moving_pixels_weigh_more() -> None:
    learner = _learner(motion_weight=10.0)
    last = torch.zeros(2, 3, 32, 32)
    target = last.clone()
    target[:, 0, :4, :4] = 1.0
    weight = pixel_weight(learner.config, learner.walks[0], target, last)
    assert weight.mean() == pytest.approx(1)
    assert weight[0, 0, 0, 0] / weight[0, 0, 20, 20] == pytest.approx(11)


def test_other_episodes_are_refused_by_name() -> None:
    good = toy.episodes(0, 3)
    with pytest.raises(
        DataError, match=r"episode 3 has task 'toy/other'; the world model expects 'toy/push'"
    ):
        WorldModelLearner([*good, toy.episode(9, task="toy/other")], toy.tiny_config())
    with pytest.raises(DataError, match="episode 3 has height 24"):
        WorldModelLearner([*good, toy.episode(9, size=24)], toy.tiny_config())
    with pytest.raises(DataError, match="at least 2"):
        WorldModelLearner(good[:1], toy.tiny_config())
    with pytest.raises(DataError, match=r"lacks the camera 'observation.images.wrist'"):
        WorldModelLearner(good, toy.tiny_config(), camera="observation.images.wrist")


@pytest.mark.parametrize("name", ["total_updates", "own_context", "learning_rate", "motion_weight"])
def test_bad_configuration_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        dataclasses.replace(WorldModelLearnerConfig(), **{name: -1})


def test_history_repeats_the_first_frame_and_never_crosses_episodes() -> None:
    episodes = toy.episodes(0, 2, steps=5)
    table = FrameTable(episodes)
    start = torch.tensor([6, 7, 11])  # the second episode's frames 0, 1 and 5
    history = table.history(start, 4)
    images = torch.from_numpy(episodes[1].observations["observation.images.front"])
    assert torch.equal(history[0], images[[0, 0, 0, 0]])
    assert torch.equal(history[1], images[[0, 0, 0, 1]])
    assert torch.equal(history[2], images[[2, 3, 4, 5]])
    assert table.steps.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]


def test_threshold_lets_through_no_more_failures_than_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(1000, generator=generator)
    success = torch.rand(1000, generator=generator) < 0.3
    threshold = choose_threshold(probability, success, 0.02)
    assert 0 < float((probability[~success] > threshold).float().mean()) <= 0.02
    assert choose_threshold(0.1 * probability, success, 0.02) == 0.5
    assert choose_threshold(probability, torch.ones(1000, dtype=torch.bool), 0.02) == 0.5


def test_relative_weight_makes_equal_shares_of_an_error_count_alike() -> None:
    learner = _learner(relative_floor=1e-6, motion_weight=0.0)
    last = torch.zeros(2, 3, 32, 32)
    change = torch.stack([torch.full((3, 32, 32), 0.1), torch.full((3, 32, 32), 0.4)])
    weight = pixel_weight(learner.config, learner.walks[0], last + change, last)
    # Half of each change missed: 25 % of each window's squared change.
    share = (weight * (0.5 * change) ** 2).flatten(1).mean(1)
    assert float(share[0]) == pytest.approx(float(share[1]), rel=1e-3)


def test_augmented_windows_train_and_exclude_own_context() -> None:
    augmentation = AugmentationConfig(shift=4, brightness=0.2)
    learner = _learner(augmentation=augmentation, own_context=0.0)
    plain = _learner(own_context=0.0)
    assert learner.update()["frame_loss"] != plain.update()["frame_loss"]
    with pytest.raises(ConfigError, match="own_context"):
        _learner(augmentation=augmentation, own_context=0.5)
