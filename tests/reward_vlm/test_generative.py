"""The generative back end on a tiny random model of a real class, built from a config."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from reward_vlm import Frames, RewardConfig, SuccessClassifier
from reward_vlm.calibration import Calibration
from reward_vlm.generative import GenerativeConfig, GenerativeScorer
from robot_rl.data import schema
from robot_rl.errors import ConfigError, DataError
from tests.reward_vlm import toy

transformers = pytest.importorskip("transformers", reason="the extra vlm is not installed")

WORDS = "has robot managed to put red block into green bin answer yes no or Yes 1 2 in which picture nearer"
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} answer{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA with two layers, a word-level tokenizer and random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    path = tmp_path_factory.mktemp("vlm")
    vocabulary = {
        word: i for i, word in enumerate(["<unk>", "<pad>", "<image>", *dict.fromkeys(WORDS.split())])
    }
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=32, patch_size=16, projection_dim=16,
    )  # fmt: skip
    text = transformers.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=128,
        pad_token_id=1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=2, image_seq_length=4
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(path)
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )
    processor.save_pretrained(path)
    return path


def test_score_is_the_log_odds_of_yes_over_all_spellings(folder: Path) -> None:
    scorer = GenerativeScorer(GenerativeConfig(str(folder), batch=4))
    pictures = toy.episode(0, True).observations[schema.IMAGE][:6, None]
    scores = scorer.score(pictures, toy.INSTRUCTION)
    assert scores.shape == (6,)
    tokenizer = scorer.processor.tokenizer
    prompt = scorer._prompt(scorer.config.question.format(toy.INSTRUCTION), 1)
    inputs = scorer.processor(images=[pictures[3, 0]], text=[prompt], return_tensors="pt")
    with torch.no_grad():
        probability = scorer.model(**inputs).logits[0, -1].softmax(-1)
    yes, Yes, no = (probability[tokenizer.convert_tokens_to_ids(word)] for word in ("yes", "Yes", "no"))
    assert scores[3] == pytest.approx(float(((yes + Yes) / no).log()), abs=1e-4)
    one_by_one = np.concatenate([scorer.score(each[None], toy.INSTRUCTION) for each in pictures])
    np.testing.assert_allclose(scores, one_by_one, atol=1e-4)
    assert np.ptp(scores) > 0  # it looks at the pictures


def test_preference_has_no_habit_of_a_side(folder: Path) -> None:
    scorer = GenerativeScorer(GenerativeConfig(str(folder), batch=4))
    a = toy.episode(0, True).observations[schema.IMAGE][-4:, None]
    b = toy.episode(1, False).observations[schema.IMAGE][-4:, None]
    ask = scorer.prefer(0.0)
    there, back = ask(a, b, toy.INSTRUCTION), ask(b, a, toy.INSTRUCTION)
    np.testing.assert_array_equal(there + back, 1)
    assert (scorer.prefer(1e9)(a, b, toy.INSTRUCTION) == -1).all()


def test_an_artifact_names_the_weights_and_refuses_others(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "vlm"
    shutil.copytree(folder, path)
    scorer = GenerativeScorer(GenerativeConfig(str(path)))
    classifier = SuccessClassifier(scorer, ["toy/bin"], [toy.INSTRUCTION], Calibration(threshold=0.4))
    classifier.save(tmp_path / "reward")
    frames = Frames.of(toy.episode(3, False))
    loaded = SuccessClassifier.load(tmp_path / "reward")
    np.testing.assert_allclose(loaded.judge(frames), classifier.judge(frames), atol=1e-6)
    weights = next(path.glob("*.safetensors"))
    other = {name: value + 1 for name, value in safetensors.torch.load_file(weights).items()}
    safetensors.torch.save_file(other, weights, {"format": "pt"})
    with pytest.raises(DataError, match=r"not those that .* was calibrated with"):
        SuccessClassifier.load(tmp_path / "reward")
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(DataError, match="holds no image-text-to-text model"):
        SuccessClassifier.load(tmp_path / "reward")


def test_bad_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="generative path is empty"):
        GenerativeScorer(GenerativeConfig())
    with pytest.raises(DataError, match="holds no image-text-to-text model"):
        GenerativeScorer(GenerativeConfig(str(tmp_path)))
    with pytest.raises(ConfigError, match="question is 'done"):
        dataclasses.replace(RewardConfig().generative, question="done?")
