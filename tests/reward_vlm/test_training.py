"""One short training on toy pictures, shared by everything that needs a trained model."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch

from reward_vlm import RewardConfig, RewardLearner, SuccessClassifier, evaluate, relabel
from reward_vlm.backbone import Backbone
from reward_vlm.clip import ClipScorer
from reward_vlm.evaluation import judge_episodes
from reward_vlm.frames import FramePool, split_episodes
from reward_vlm.prompts import prompt_pairs
from robot_rl.data import schema
from robot_rl.errors import ConfigError, DataError
from robot_rl.trainers.protocols import Learner
from tests.reward_vlm import toy

Trained = tuple[SuccessClassifier, dict[str, float]]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RewardConfig:
    """A quarter of the shipped model, as a local directory of open_clip's."""
    model = toy.quarter_model(tmp_path_factory.mktemp("model"))
    return RewardConfig(model=model, updates=70, batch_size=32, learning_rate=2e-3)


@pytest.fixture(scope="module")
def trained(config: RewardConfig) -> Trained:
    learner = RewardLearner(toy.episodes(60), config)
    for _ in range(learner.total_updates):
        learner.update()
    return learner.finish()


def clip(classifier: SuccessClassifier) -> Backbone:
    assert isinstance(classifier.scorer, ClipScorer)
    return classifier.scorer.backbone


def test_learns_to_tell_success_on_new_episodes(trained: Trained, config: RewardConfig) -> None:
    classifier, validation = trained
    figures = evaluate(classifier, toy.episodes(40, first_seed=1000))
    assert figures["auroc"] > 0.95
    assert validation["fpr"] <= config.target_fpr
    assert validation["episode_false_success"] <= config.target_episode_false_success
    assert figures["episode_recall"] > 0.5


@pytest.mark.parametrize("seed", [1, 2])
def test_no_seed_stays_at_the_loss_of_guessing(config: RewardConfig, seed: int) -> None:
    learner = RewardLearner(toy.episodes(60), dataclasses.replace(config, updates=40, seed=seed))
    losses = [learner.update()["loss"] for _ in range(learner.total_updates)]
    assert np.mean(losses[-10:]) < 0.45  # log 2 = .69


def test_is_a_learner(config: RewardConfig) -> None:
    assert isinstance(RewardLearner(toy.episodes(8), config), Learner)


def test_resumed_training_equals_uninterrupted_bit_for_bit(config: RewardConfig) -> None:
    config = dataclasses.replace(config, updates=4, batch_size=8)
    straight, first = RewardLearner(toy.episodes(8), config), RewardLearner(toy.episodes(8), config)
    for _ in range(4):
        straight.update()
    for _ in range(2):
        first.update()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed = RewardLearner(toy.episodes(8), config)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        resumed.update()
    for name, value in straight.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name]), name


def test_saved_classifier_answers_the_same(trained: Trained, tmp_path: Path) -> None:
    classifier, _ = trained
    classifier.save(tmp_path / "reward")
    loaded = SuccessClassifier.load(tmp_path / "reward", task="toy/bin", instruction=toy.INSTRUCTION)
    episodes = toy.episodes(4, first_seed=500)
    for before, after in zip(
        judge_episodes(classifier.judge, episodes),
        judge_episodes(loaded.judge, episodes),
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)
    assert loaded.calibration == classifier.calibration
    assert clip(loaded).preprocessing == clip(classifier).preprocessing
    assert loaded.fingerprint == classifier.fingerprint
    images = episodes[0].observations[schema.IMAGE]
    probability = loaded.success_probability(images, toy.INSTRUCTION)
    np.testing.assert_array_equal(
        loaded.decide(images, toy.INSTRUCTION), probability >= loaded.calibration.threshold
    )


def test_artifact_refuses_a_mismatch_by_name(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "reward"
    trained[0].save(path)
    with pytest.raises(DataError, match=r"judges task 'toy/bin'; expected 'widowx/push'"):
        SuccessClassifier.load(path, task="widowx/push")
    with pytest.raises(DataError, match="green bin'; expected 'open the drawer'"):
        SuccessClassifier.load(path, instruction="open the drawer")
    with pytest.raises(DataError, match="green bin' was asked about 'open the drawer'"):
        trained[0].success_probability(np.zeros((1, 64, 64, 3), np.uint8), "open the drawer")
    weights = path / "open_clip_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DataError, match=r"open_clip_model\.safetensors has SHA-256"):
        SuccessClassifier.load(path)


def test_instruction_is_the_same_whatever_its_writing(
    trained: Trained,
) -> None:
    images = toy.episode(7, True).observations[schema.IMAGE]
    np.testing.assert_array_equal(
        trained[0].success_probability(images, toy.INSTRUCTION),
        trained[0].success_probability(images, f"  {toy.INSTRUCTION.capitalize()}. "),
    )


def test_pictures_of_a_wrong_kind_are_refused(trained: Trained) -> None:
    with pytest.raises(DataError, match=r"pictures are float32 \(1, 64, 64, 3\); expected uint8"):
        trained[0].decide(np.zeros((1, 64, 64, 3), np.float32), toy.INSTRUCTION)  # type: ignore[arg-type]


def test_pictures_of_another_size_are_resized(trained: Trained) -> None:
    images = toy.episode(7, True).observations[schema.IMAGE]
    larger = images.repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(clip(trained[0]).pixels(larger), clip(trained[0]).pixels(images), atol=0.35)
    assert trained[0].success_probability(larger, toy.INSTRUCTION).shape == (len(images),)


def test_relabel_ends_at_the_judged_success_and_keeps_the_truth(
    trained: Trained,
) -> None:
    classifier, _ = trained
    for episode in toy.episodes(10, first_seed=2000):
        told = relabel(episode, classifier)
        steps = len(told)
        np.testing.assert_array_equal(told.success, episode.success[:steps])
        assert not (told.terminated & told.truncated).any()
        assert (told.terminated | told.truncated).nonzero()[0].tolist() == [steps - 1]
        positive = classifier.decide(episode.observations[schema.IMAGE][1:], toy.INSTRUCTION)
        runs = [t for t in range(1, len(positive)) if positive[t - 1] and positive[t]]
        assert bool(told.terminated[-1]) == bool(runs)
        assert steps == (runs[0] + 1 if runs else len(episode))
        np.testing.assert_array_equal(told.reward, np.where(told.terminated, 0, -1))


def test_another_tasks_instruction_is_a_negative_for_the_same_pictures(config: RewardConfig) -> None:
    other = "tip the bin over"
    mixed = [*toy.episodes(30), *(toy.episode(900 + i, i % 2 == 0, instruction=other) for i in range(30))]
    learner = RewardLearner(mixed, dataclasses.replace(config, counterfactual_fraction=0.5, hard_fraction=0))
    seen = set()
    for _ in range(4):
        _, instruction, label = learner._batch()
        seen |= set(zip(instruction.tolist(), label.tolist(), strict=True))
    assert seen == {(0, 0.0), (0, 1.0), (1, 0.0), (1, 1.0)}
    _, instruction, label = learner._batch()
    assert label.mean() < 0.45  # half the positives were asked about the other task


def test_split_is_by_episode_and_keeps_both_kinds_on_both_sides() -> None:
    episodes = toy.episodes(20)
    train, validation = split_episodes(episodes, 0.25, torch.Generator().manual_seed(0))
    assert {id(each) for each in train}.isdisjoint(id(each) for each in validation)
    assert len(train) + len(validation) == len(episodes)
    for side in (train, validation):
        assert {each.succeeded for each in side} == {True, False}


def test_draws_are_balanced_and_stress_the_hard_negatives() -> None:
    pool = FramePool.of(toy.episodes(20), [toy.INSTRUCTION], [schema.DEFAULT_CAMERA], window=2)
    assert set(pool.hard) < set(pool.negatives)
    index, label = pool.draw(400, 0.5, 0.0, torch.Generator().manual_seed(0))
    assert label.mean() == 0.5
    assert np.isin(index[label], pool.positives).all()
    assert np.isin(index[~label], pool.negatives).all()
    assert np.isin(index[~label], pool.hard).mean() >= 0.5
    success = toy.episode(0, True)
    assert success.succeeded
    only = FramePool.of(
        [success, toy.episode(1, False)], [toy.INSTRUCTION], [schema.DEFAULT_CAMERA], window=2
    )
    first = int(success.success.argmax()) + 1  # the frame that the first true step led to
    failure_end = len(success) + 1 + len(toy.episode(1, False))
    assert set(only.hard) == {first - 2, first - 1, failure_end - 1, failure_end}


def test_too_little_data_is_named(config: RewardConfig) -> None:
    with pytest.raises(DataError, match="none of the 2 episodes succeeds"):
        RewardLearner([toy.episode(1, False), toy.episode(3, False)], config)
    with pytest.raises(DataError, match=r"green bin' has no failed episode.*failures=0\.5"):
        RewardLearner([toy.episode(0, True), toy.episode(2, True)], config)
    with pytest.raises(DataError, match="has 1 successful episode"):
        RewardLearner([toy.episode(0, True), toy.episode(1, False)], config)
    with pytest.raises(DataError, match=r"no pictures 'observation\.images\.wrist'"):
        RewardLearner(toy.episodes(8), dataclasses.replace(config, cameras=("wrist",)))


def test_bad_configs_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="updates is 0; expected at least 1"):
        RewardConfig(updates=0)
    with pytest.raises(ConfigError, match="target_fpr is 1"):
        RewardConfig(target_fpr=1)
    with pytest.raises(ConfigError, match="unknown open_clip model 'clip_tyny': did you mean clip_tiny"):
        Backbone("clip_tyny")
    with pytest.raises(ConfigError, match=r"pretrained='no/such\.pt'"):
        Backbone(pretrained="no/such.pt")


def test_a_weights_file_is_where_training_starts(tmp_path: Path) -> None:
    source = Backbone(seed=3)
    torch.save(source.clip.state_dict(), tmp_path / "weights.pt")
    loaded = Backbone(pretrained=str(tmp_path / "weights.pt"), seed=0)
    pairs = prompt_pairs(toy.INSTRUCTION)
    assert torch.equal(source.eval().directions(pairs), loaded.eval().directions(pairs))
    assert not torch.equal(Backbone(seed=0).eval().directions(pairs), loaded.directions(pairs))


def test_prompts_of_a_pair_differ_and_carry_the_instruction() -> None:
    pairs = prompt_pairs("Lift the lid.")
    assert len(pairs) >= 3
    for pair in pairs:
        assert "lift the lid" in pair.done
        assert "lift the lid" in pair.not_done
        assert pair.done != pair.not_done
