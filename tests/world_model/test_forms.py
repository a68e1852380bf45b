"""Every form that a world model can take trains, resumes from its artifact and imagines."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from robot_rl.errors import ConfigError, DataError
from tests.world_model import toy
from world_model.config import WorldModelConfig, WorldModelLearnerConfig
from world_model.denoiser import ActionEncoder
from world_model.distil import ConsistencyDistiller
from world_model.env import WorldModelEnv, WorldModelEnvConfig
from world_model.language import HashedWords
from world_model.learner import WorldModelLearner
from world_model.model import WorldModel, disagreement
from world_model.pictures import annotated, imagine_episode

FORMS: dict[str, dict[str, object]] = {
    "tiny latents": {"space": "tiny", "patch": 1, "latent_widths": (8, 8), "channels": (16,)},
    "kl latents": {"space": "kl", "patch": 1, "latent_widths": (8, 8), "channels": (16,)},
    "plain pixels": {"patch": 2, "channels": (16,), "steps": 2, "spatial_channels": 0},
    "one-hot": {"action_encoding": "one_hot"},
    "linear": {"action_encoding": "linear"},
    "ensemble": {"members": 2},
    "end head": {"end_head": True},
    "channels last": {"channels_last": True},
}


def _learner(model: dict[str, object], **changes: object) -> WorldModelLearner:
    config = toy.tiny_config(**changes)
    sizes = dataclasses.replace(config.model, **model)  # type: ignore[arg-type]
    codec = 2 if sizes.space != "pixel" else 0
    config = dataclasses.replace(config, model=WorldModelConfig(), codec_updates=0)
    return WorldModelLearner(
        toy.episodes(0, 6), dataclasses.replace(config, model=sizes, codec_updates=codec, total_updates=3)
    )


@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_saves_and_imagines(form: str, tmp_path: Path) -> None:
    learner = _learner(FORMS[form])
    for _ in range(learner.total_updates):
        metrics = learner.update()
    assert all(np.isfinite(list(metrics.values())))
    learner.model.save(tmp_path / "model")
    loaded = WorldModel.load(tmp_path / "model")
    observations = []
    for model in (learner.model, loaded):
        env = WorldModelEnv(model, toy.episodes(20, 2), WorldModelEnvConfig(num_envs=2, horizon=3))
        env.reset(seed=[0, 1])
        observation, *_, info = env.step(np.full((2, 2), 0.5, np.float32))
        observations.append(observation["observation.images.front"])
        assert (info["uncertainty"] > 0).all() == (form == "ensemble")
    np.testing.assert_array_equal(*observations)


def test_a_latent_model_freezes_its_autoencoder_and_scales_its_latents() -> None:
    learner = _learner(FORMS["tiny latents"])
    before = [parameter.clone() for parameter in learner.online.codec.parameters()]
    learner.update()
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.online.codec.parameters(), strict=True))
    learner.update()
    frozen = [parameter.clone() for parameter in learner.online.codec.parameters()]
    learner.update()
    assert all(torch.equal(a, b) for a, b in zip(frozen, learner.online.codec.parameters(), strict=True))
    for a, b in zip(learner.online.codec.parameters(), learner.model.codec.parameters(), strict=True):
        assert torch.equal(a, b)
    pixels = torch.rand(64, 3, 32, 32) * 2 - 1
    learner.online.codec.fit_scale(pixels)  # type: ignore[operator]
    latents = learner.online.codec.encode(pixels)
    assert latents.std() == pytest.approx(0.5, rel=0.2)
    assert learner.online.codec.decode(latents).shape == pixels.shape


def test_one_hot_takes_the_nearest_bin_and_two_hot_both_neighbours() -> None:
    action = torch.tensor([[0.03, -1.0]])
    bins = WorldModelConfig(action_bins=21)
    one = ActionEncoder(dataclasses.replace(bins, action_encoding="one_hot"), 2)(action).view(2, 21)
    two = ActionEncoder(bins, 2)(action).view(2, 21)
    assert one.argmax(1).tolist() == [10, 0]
    assert one.sum() == 2
    assert two[0, 10] == pytest.approx(0.7, abs=1e-5)
    assert two[0, 11] == pytest.approx(0.3, abs=1e-5)


def test_disagreement_is_the_deviation_over_members() -> None:
    frames = [torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)]
    frames[1][1] += 0.2
    assert disagreement(frames).tolist() == pytest.approx([0.0, 0.1])


def test_uncertainty_cuts_episodes_only_past_its_limit_and_only_when_asked() -> None:
    learner = _learner({"members": 2})
    for _ in range(learner.total_updates):
        learner.update()
    model = learner.model
    assert torch.isfinite(model.uncertainty_limit)
    config = WorldModelEnvConfig(num_envs=2, horizon=9, cut_uncertain=True)
    env = WorldModelEnv(model, toy.episodes(20, 2), config)
    model.success.threshold.fill_(2.0)
    for limit, cut in ((-1.0, True), (1e9, False)):
        model.uncertainty_limit.fill_(limit)
        env.reset(seed=[0, 1])
        _, _, terminated, truncated, _ = env.step(np.zeros((2, 2), np.float32))
        assert truncated.all() == cut
        assert not terminated.any()
    with pytest.raises(ConfigError, match="cut_uncertain=True with a model of 1 member"):
        WorldModelEnv(_learner({}).model, toy.episodes(20, 2), config)


def test_the_end_head_ends_an_episode_without_reward() -> None:
    model = _learner({"end_head": True}).model
    model.success.threshold.fill_(2.0)
    torch.nn.init.constant_(model.ending.classify[-1].bias, 50.0)
    env = WorldModelEnv(model, toy.episodes(20, 2), WorldModelEnvConfig(num_envs=2, horizon=9))
    env.reset(seed=[0, 1])
    _, reward, terminated, _, info = env.step(np.zeros((2, 2), np.float32))
    assert terminated.all()
    assert not reward.any()
    assert not info["success"].any()


def test_another_judge_takes_the_place_of_the_head(untrained: WorldModel) -> None:
    class Judge:
        threshold = 0.5
        asked: list[str]

        def __init__(self) -> None:
            self.asked = []

        def success_probability(self, images: np.ndarray, instruction: str) -> np.ndarray:
            self.asked.append(instruction)
            return np.full(len(images), 0.9, np.float32)

    judge = Judge()
    config = WorldModelEnvConfig(num_envs=3, horizon=5, debounce=2)
    env = WorldModelEnv(untrained, toy.episodes(20, 2), config, judge)
    env.reset(seed=0)
    env.step(np.zeros((3, 2), np.float32))
    *_, info = env.step(np.zeros((3, 2), np.float32))
    assert info["success"].all()
    assert set(judge.asked) == {"push the block to the right"}


def test_hashed_instructions_repeat_and_lie_near_those_that_share_words() -> None:
    words = HashedWords(4096)
    a, b, c, again = words.embed(
        ["open the drawer", "close the drawer", "push a red block", "Open the drawer!"]
    )
    assert torch.equal(a, again)
    assert torch.cosine_similarity(a, b, 0) > torch.cosine_similarity(a, c, 0) + 0.2


def test_one_model_of_two_tasks_is_told_which_and_refines_to_one() -> None:
    episodes = [toy.episode(seed, task=f"toy/{'push' if seed % 2 else 'other'}") for seed in range(8)]
    config = toy.tiny_config(total_updates=2)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, language="hashed"))
    learner = WorldModelLearner(episodes, config)
    assert learner.model.spec.tasks == ("toy/other", "toy/push")
    learner.update()
    model = learner.model
    model.spec.check([toy.episode(0, task="toy/push")])
    with pytest.raises(DataError, match="toy/third"):
        model.spec.check([toy.episode(0, task="toy/third")])
    told = [model.embed([text]) for text in ("push the block", "pull the lever")]
    torch.nn.init.normal_(model.success.classify[-1].weight)
    frames = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    assert model.success_probability(frames, told[0]) != model.success_probability(frames, told[1])
    with pytest.raises(DataError, match="toy/other"):
        WorldModelLearner(episodes, toy.tiny_config())

    start = WorldModelLearner([toy.episode(seed) for seed in range(5)], toy.tiny_config(), start=model)
    assert start.model.spec == model.spec
    assert torch.equal(start.model.denoiser.canvas.weight, model.denoiser.canvas.weight)
    start.update()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"space": "latent"}, "space"),
        ({"members": 0}, "members is 0"),
        ({"language": "clip"}, "clip_model"),
        ({"action_encoding": "fast"}, "action_encoding"),
        ({"latent_widths": ()}, "latent_widths"),
    ],
)
def test_bad_forms_are_named(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        dataclasses.replace(WorldModelConfig(), **changes)  # type: ignore[arg-type]


def test_bad_training_is_named() -> None:
    with pytest.raises(ConfigError, match="codec_updates is 0 with space=tiny"):
        WorldModelLearnerConfig(model=WorldModelConfig(space="tiny"))
    with pytest.raises(ConfigError, match="multiple of shards=3"):
        WorldModelLearnerConfig(shards=3)


@pytest.mark.parametrize("form", ["plain pixels", "ensemble", "one-hot"])
def test_every_tensor_of_a_step_follows_the_models_device(form: str) -> None:
    """`meta` holds no numbers, and refuses to be mixed with the processor's tensors as a GPU would."""
    model = _learner(FORMS[form]).model.to("meta")
    frames = torch.zeros(2, 2, 32, 32, 3, dtype=torch.uint8, device="meta")
    state, action = torch.zeros(2, 2, 2, device="meta")
    step = model.predict(frames, state, state, action, torch.Generator())
    assert {value.device.type for value in vars(step).values()} == {"meta"}


def test_distillation_carries_the_end_of_the_teachers_path_to_its_beginning() -> None:
    sizes = {"steps": 3, "initial_noise": 1.0, "target": "absolute", "sigma_max": 2.0}
    learner = _learner(sizes)
    config = dataclasses.replace(
        learner.config, distil_updates=60, batch_size=16, ema=0.8, learning_rate=1e-2
    )
    distiller = ConsistencyDistiller(learner.model, toy.episodes(0, 6), config)
    distiller.walk.table.frames.fill_(204)  # every picture is grey, and the teacher knows it
    distiller.teacher.denoiser.denoise = lambda x, *_: torch.full_like(x, 0.6)  # type: ignore[method-assign]
    before = _grey_error(distiller.model)
    losses = [distiller.update()["consistency_loss"] for _ in range(60)]
    assert np.isfinite(losses).all()
    assert distiller.model.config.steps == 1
    assert _grey_error(distiller.model) < 0.5 * before
    with pytest.raises(ConfigError, match="1 steps and 1 members to distil"):
        ConsistencyDistiller(distiller.model, toy.episodes(0, 6), config)
    with pytest.raises(ConfigError, match=r"initial_noise=0\.0 to distil"):
        ConsistencyDistiller(_learner({"steps": 3}).model, toy.episodes(0, 6), config)


def test_what_was_distilled_has_a_threshold_of_its_own() -> None:
    learner = _learner({"steps": 3, "initial_noise": 1.0})
    distilled = copy.deepcopy(learner.model)
    learner.model.success.threshold.fill_(0.25)
    distilled.success.threshold.fill_(0.75)
    threshold = learner.calibrate(distilled)
    assert float(distilled.success.threshold) == pytest.approx(threshold) != 0.75
    assert float(learner.model.success.threshold) == 0.25


def _grey_error(model: WorldModel) -> float:
    """Mean squared difference to grey of pictures drawn in one step from noise."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.full((8, 2, 32, 32, 3), 204, dtype=torch.uint8)
    state, action = torch.zeros(2, 8, 2)
    drawn = model.predict(frames, state, state, action, generator).frame
    return float((drawn.float() - 204).square().mean())


def test_a_video_shows_both_pictures_and_what_the_model_thinks(untrained: WorldModel) -> None:
    episode = toy.episode(3)
    video = annotated(untrained, episode, imagine_episode(untrained, episode), height=128)
    assert video.shape[0] == len(episode) + 1
    assert video.shape[2] == 256
    np.testing.assert_array_equal(video[0, :128, :128], video[0, :128, 128:])
    assert (video[-1, :128, :128] != video[-1, :128, 128:]).any()
