"""Every back end behind the one face: what it computes, and that a saved one answers the same."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from reward_vlm import Frames, RewardConfig, SuccessClassifier, evaluate, make_learner
from reward_vlm.backbone import Backbone
from reward_vlm.backends import Untrained
from reward_vlm.calibration import Calibration
from reward_vlm.clip import ClipScorer
from reward_vlm.evaluation import judge_episodes
from reward_vlm.learner import RewardLearner
from reward_vlm.preference import PreferenceConfig, bradley_terry_loss, preferences_of
from reward_vlm.preference_learner import PreferenceLearner
from reward_vlm.projection import ProjectionConfig, ProjectionScorer, projected_reward
from reward_vlm.vice import ViceLearner
from robot_rl.data import schema
from robot_rl.errors import ConfigError, DataError
from robot_rl.trainers.protocols import Learner
from tests.reward_vlm import toy

BASE = RewardConfig(updates=60, batch_size=32, learning_rate=2e-3)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A quarter of the shipped model with weights: what a fine-tuning starts from."""
    return toy.quarter_model(tmp_path_factory.mktemp("model"))


def same_after_loading(classifier: SuccessClassifier, path: Path) -> None:
    classifier.save(path)
    loaded = SuccessClassifier.load(path, task="toy/bin", instruction=toy.INSTRUCTION)
    episodes = toy.episodes(4, first_seed=500)
    for a, b in zip(
        judge_episodes(classifier.judge, episodes), judge_episodes(loaded.judge, episodes), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert loaded.calibration == classifier.calibration
    assert loaded.fingerprint == classifier.fingerprint


@pytest.mark.parametrize("backend", ["cnn", "vice", "preference"])
def test_networks_without_language_learn_the_toy(backend: str, tmp_path: Path) -> None:
    learner = make_learner(toy.episodes(50), dataclasses.replace(BASE, backend=backend))
    assert isinstance(learner, Learner)
    for _ in range(learner.total_updates):
        learner.update()
    classifier, _ = learner.finish()
    assert evaluate(classifier, toy.episodes(30, first_seed=1000))["auroc"] > 0.9
    same_after_loading(classifier, tmp_path / "reward")


@pytest.mark.parametrize("backend", ["cnn", "vice", "preference", "lora", "probe"])
def test_resume_equals_uninterrupted(backend: str, tiny: str) -> None:
    if backend == "lora":
        pytest.importorskip("peft", reason="the extra vlm is not installed")
    tuned = {"backend": "clip", "tuning": backend} if backend in ("lora", "probe") else {"backend": backend}
    config = dataclasses.replace(BASE, model=tiny, updates=4, batch_size=8, **tuned)
    straight, first, resumed = (make_learner(toy.episodes(8), config) for _ in range(3))
    for _ in range(4):
        wanted = straight.update()
    for _ in range(2):
        first.update()
    resumed.load_state_dict(first.state_dict())
    for _ in range(2):
        found = resumed.update()
    assert found == wanted


def test_lora_moves_the_picture_tower_alone_and_merges_to_plain_weights(tiny: str, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra vlm is not installed")
    config = dataclasses.replace(BASE, model=tiny, tuning="lora", updates=6, batch_size=8)
    learner = RewardLearner(toy.episodes(12), config)
    before = {name: value.clone() for name, value in Backbone(tiny).state_dict().items()}
    assert {"lora" in name for name, p in learner.module.named_parameters() if p.requires_grad} == {
        True,
        False,
    }
    for _ in range(6):
        learner.update()
    pixels = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    adapted = learner.module.eval().embedding(pixels)
    classifier, _ = learner.finish()
    assert isinstance(classifier.scorer, ClipScorer)
    plain = classifier.scorer.backbone
    torch.testing.assert_close(plain.embedding(pixels), adapted, atol=1e-5, rtol=1e-4)
    after = plain.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert changed
    assert all(name.startswith("clip.visual.") or name == "clip.logit_scale" for name in changed)
    same_after_loading(classifier, tmp_path / "reward")


def test_probe_learns_directions_and_leaves_clip_alone(tiny: str, tmp_path: Path) -> None:
    config = dataclasses.replace(BASE, model=tiny, tuning="probe", updates=40, learning_rate=0.05)
    learner = RewardLearner(toy.episodes(40), config)
    before = {name: value.clone() for name, value in Backbone(tiny).state_dict().items()}
    losses = [learner.update()["loss"] for _ in range(40)]
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    classifier, _ = learner.finish()
    assert isinstance(classifier.scorer, ClipScorer)
    for name, value in classifier.scorer.backbone.state_dict().items():
        assert torch.equal(value, before[name]) or name == "clip.logit_scale", name
    same_after_loading(classifier, tmp_path / "reward")


def test_projection_is_the_papers_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    x, goal, baseline = (
        torch.nn.functional.normalize(torch.randn(5, 8, generator=generator, dtype=torch.float64), dim=-1)
        for _ in range(3)
    )
    g, b, alpha = goal[0], baseline[0], 0.3
    d = g - b
    matrix = alpha * torch.outer(d, d) / d.square().sum() + (1 - alpha) * torch.eye(8, dtype=torch.float64)
    wanted = 1 - 0.5 * ((x - g) @ matrix).square().sum(-1)
    torch.testing.assert_close(projected_reward(x, g, b, alpha), wanted)
    # Without projection it is the cosine similarity; on the way from baseline to goal it rises to 1.
    torch.testing.assert_close(projected_reward(x, g, b, 0.0), x @ g)
    assert projected_reward(torch.stack([b, (b + g) / 2, g]), g, b, 1.0).diff().gt(0).all()
    with pytest.raises(ConfigError, match=r"alpha is 1\.5"):
        ProjectionConfig(alpha=1.5)


class GreenArea:
    """The block covers the green bin where it lies in it: a score without training."""

    backend = "projection"

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def score(self, pictures: np.ndarray, instruction: str) -> np.ndarray:
        green = (pictures[..., 1] > 140) & (pictures[..., 0] < 80)
        return np.float32(self.sign * green.sum((1, 2, 3)))

    def files(self) -> dict[str, bytes]:
        return {}

    def facts(self) -> dict[str, float]:
        return {}


def test_a_model_without_training_finds_its_threshold_and_a_wrong_sign_is_refused() -> None:
    learner = Untrained(GreenArea(-1.0), toy.episodes(40), BASE)
    assert learner.total_updates == 0
    assert isinstance(learner, Learner)
    classifier, figures = learner.finish()
    assert figures["auroc"] > 0.8
    assert figures["fpr"] <= BASE.target_fpr
    assert classifier.threshold < 1
    with pytest.raises(DataError, match=r"ranks failures above successes \(AUROC 0\.\d+.*wrong sign"):
        Untrained(GreenArea(1.0), toy.episodes(40), BASE).finish()


def test_projection_is_saved_with_its_prompts(tiny: str, tmp_path: Path) -> None:
    scorer = ProjectionScorer(Backbone(tiny), ProjectionConfig(alpha=0.7, baseline="a table"))
    classifier = SuccessClassifier(scorer, ["toy/bin"], [toy.INSTRUCTION], Calibration(threshold=0.4))
    same_after_loading(classifier, tmp_path / "reward")


def test_preferences_and_their_loss() -> None:
    first, second = np.float32([0, 1, 1]), np.float32([1, 0, 1.05])
    assert preferences_of(first, second, 0.1).tolist() == [1, 0, -1]
    rewards0, rewards1 = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.5]])
    wanted = -torch.log(
        torch.stack([rewards1.exp()[0, 0], rewards0.exp()[0, 1]]) / (rewards0.exp() + rewards1.exp())[0]
    )
    torch.testing.assert_close(bradley_terry_loss(rewards0, rewards1, torch.tensor([1, 0])), wanted.mean())


def test_undecided_pairs_are_dropped() -> None:
    def half(first: np.ndarray, second: np.ndarray, instruction: str) -> np.ndarray:
        return np.where(np.arange(len(first)) % 2 == 0, 1, -1)

    config = dataclasses.replace(BASE, backend="preference", preference=PreferenceConfig(pairs=40))
    assert PreferenceLearner(toy.episodes(8), config, half).labels.tolist() == [1] * 20
    with pytest.raises(DataError, match="no preference in any of 40 pairs"):
        PreferenceLearner(toy.episodes(8), config, lambda a, b, i: np.full(len(a), -1))


def test_vice_takes_no_failure_labels_and_learns_from_what_it_is_shown() -> None:
    config = dataclasses.replace(BASE, backend="vice", updates=30)
    episodes = toy.episodes(20)
    learner, shown = ViceLearner(episodes, config), ViceLearner(episodes, config)
    goals = episodes[0].observations[schema.IMAGE][-3:, None]
    shown.observe(goals.repeat(200, 0), toy.INSTRUCTION)  # the policy visits this goal picture all the time
    for _ in range(30):
        learner.update()
        shown.update()
    bare, crowded = (
        each.finish()[0].scorer.score(goals, toy.INSTRUCTION).mean() for each in (learner, shown)
    )
    assert crowded < bare


def test_several_cameras_are_averaged(tiny: str) -> None:
    scorer = ClipScorer(Backbone(tiny))
    left, right = (toy.episode(seed, True).observations[schema.IMAGE] for seed in (1, 2))
    both = scorer.score(np.stack([left, right], 1), toy.INSTRUCTION)
    alone = [scorer.score(each[:, None], toy.INSTRUCTION) for each in (left, right)]
    np.testing.assert_allclose(both, (alone[0] + alone[1]) / 2, rtol=1e-4, atol=1e-4)


def test_a_loss_that_is_no_number_moves_nothing() -> None:
    learner = RewardLearner(toy.episodes(8), dataclasses.replace(BASE, backend="cnn", batch_size=8))
    learner.update()
    before = [parameter.detach().clone() for parameter in learner.module.parameters()]
    learner._trainee.logits = lambda pixels, instruction: (  # type: ignore[method-assign]
        next(learner.module.parameters()).sum() * float("nan") * torch.ones(len(pixels))
    )
    assert np.isnan(learner.update()["loss"])
    for old, new in zip(before, learner.module.parameters(), strict=True):
        assert torch.equal(old, new)


def test_unknown_back_ends_and_the_oracle_as_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown reward backend 'clipp': did you mean clip"):
        dataclasses.replace(BASE, backend="clipp")
    with pytest.raises(ConfigError, match="'oracle' learns nothing"):
        make_learner(toy.episodes(8), dataclasses.replace(BASE, backend="oracle"))


def test_frames_know_their_cameras() -> None:
    frames = Frames.of(toy.episode(0, True))
    assert frames.pictures([schema.DEFAULT_CAMERA]).shape == (12, 1, 64, 64, 3)
    with pytest.raises(DataError, match=r"no pictures 'observation\.images\.wrist'; it has"):
        frames.pictures(["wrist"])
