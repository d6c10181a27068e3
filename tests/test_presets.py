"""Named models: what they are called, what they are made of, and that released weights arrive unchanged."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from favor import presets
from favor.chat import Chat
from favor.checkpoint import load_folder
from favor.decoding import Decoding
from favor.encoders.eva_vit import LN_VISION_EPS
from favor.errors import CheckpointError, ConfigurationError
from favor.messages import VideoPart, user
from favor.modeling import FavorForConditionalGeneration
from favor.presets import Preset, released
from favor.presets.random_weights import byte_tokenizer, letter_tokenizer
from tests import small_media

TINY = presets.describe("tiny")
QUESTION = [user(VideoPart(small_media.video(6.0)), "What happens?")]

# --- names and files ------------------------------------------------------------------------------------------------


def test_the_presets_are_listed():
    assert presets.names() == ["favor-13b", "favor-7b", "favor-mini", "tiny"]


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_says_in_one_line_what_it_is(name):
    preset = presets.describe(name)
    assert preset.name == name
    assert preset.summary
    assert "\n" not in preset.summary


@pytest.mark.parametrize(
    "given, nearest",
    [("tyni", "tiny"), ("favor7b", "favor-7b"), ("FAVOR-13B", "favor-13b"), ("", ""), ("../tiny", "tiny")],
)
def test_an_unknown_name_suggests_the_nearest(given, nearest):
    for look_up in (presets.describe, presets.config, presets.build, presets.clip_reader):
        with pytest.raises(ConfigurationError, match=f"Did you mean '{nearest}"):
            look_up(given)


def test_an_unknown_name_that_is_a_path_is_told_without_its_folders():
    with pytest.raises(ConfigurationError, match="'gone'") as raised:
        presets.describe("/somewhere/on/this/machine/gone")
    assert "machine" not in str(raised.value)


@pytest.fixture
def write_preset(tmp_path: Path, monkeypatch) -> Callable[..., str]:
    """Makes a preset of one's own and gives its name."""
    monkeypatch.setattr(presets, "_FOLDER", tmp_path)
    presets.describe.cache_clear()

    def write(**settings) -> str:
        (tmp_path / "own.yaml").write_text(yaml.safe_dump({"summary": "of one's own", **settings}))
        return "own"

    yield write
    presets.describe.cache_clear()


def test_an_unknown_key_of_a_preset_is_refused(write_preset):
    name = write_preset(config={}, weights={}, sead=1)
    with pytest.raises(ConfigurationError, match="sead"):
        presets.describe(name)


def test_an_unknown_key_of_a_configuration_is_refused(write_preset):
    name = write_preset(config={"connector_config": {"windw_steps": 5}}, weights={})
    with pytest.raises(ConfigurationError, match="Did you mean 'window_steps'"):
        presets.config(name)


def test_a_preset_may_set_options_of_its_processor(write_preset):
    processor = {"max_seconds": 60.0, "frame_rule": "first_last"}
    name = write_preset(config=TINY.config, weights={}, processor=processor)
    reader = presets.clip_reader(name)
    assert (reader.options.max_seconds, reader.options.frame_rule) == (60.0, "first_last")
    assert presets.build(name)[1].reader == reader
    assert presets.clip_reader(name, max_seconds=5.0).options.max_seconds == 5.0


# --- tiny -----------------------------------------------------------------------------------------------------------


def test_tiny_is_always_the_same_and_leaves_the_random_state_alone(tiny):
    before = torch.get_rng_state()
    model, processor = presets.build("tiny")
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    for (name, ours), theirs in zip(model.named_parameters(), tiny.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert processor.tokenizer.get_vocab() == tiny.processor.tokenizer.get_vocab()


def test_the_words_of_tiny_are_legible(tiny):
    answer = Chat("tiny", *tiny).answer(QUESTION, Decoding(max_new_tokens=40, temperature=2.0, seed=1))
    assert len(answer) > 5
    assert answer.isascii()
    assert answer.isprintable()


def test_a_clip_reader_needs_no_model_and_reads_as_the_processor_does(tiny):
    assert presets.clip_reader("tiny") == tiny.processor.reader


# --- FAVOR-7B and FAVOR-13B -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, width", [("favor-7b", 4096), ("favor-13b", 5120)])
def test_the_papers_models_can_be_drawn_up_without_network_or_memory(name, width):
    config = presets.config(name)
    with torch.device("meta"):
        model = FavorForConditionalGeneration(config)
    assert model.get_input_embeddings().weight.shape == (32000, width)
    assert model.connector.projection.weight.shape == (width, 768)
    assert model.vision.vit.num_layers == 39
    assert model.audio.num_layers == 32
    assert presets.clip_reader(name).options.frame_size == 224


@pytest.mark.parametrize("name", ["favor-7b", "favor-13b"])
def test_released_weights_out_of_reach_are_told_in_one_line_and_at_once(name, monkeypatch):
    for part in ("InstructBlipEncoder", "WhisperAudioEncoder"):
        monkeypatch.setattr(released, part, lambda _: pytest.fail("built before its weights were found"))
    with pytest.raises(CheckpointError, match="instructblip-vicuna-13b") as raised:
        presets.build(name)
    assert "\n" not in str(raised.value)


# --- released weights, from local folders ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    """Toy models in the formats of the released ones, by the name of their part."""
    folder = tmp_path_factory.mktemp("originals")
    folders = {part: folder / part for part in ("instructblip", "whisper", "llm")}
    settings = presets.config("tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        instructblip_config = InstructBlipConfig(
            vision_config=settings.vision_config.to_dict(),
            qformer_config=settings.qformer_config.to_dict(),
            text_config=LlamaConfig(
                vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
            ).to_dict(),
            num_query_tokens=32,
        )
        instructblip = InstructBlipForConditionalGeneration(instructblip_config)
        torch.nn.init.normal_(instructblip.query_tokens)
        instructblip.save_pretrained(folders["instructblip"])
        whisper_config = WhisperConfig(**settings.audio_config.to_dict())
        WhisperForConditionalGeneration(whisper_config).save_pretrained(folders["whisper"])
        LlamaForCausalLM(settings.text_config).save_pretrained(folders["llm"])
    letter_tokenizer().save_pretrained(folders["instructblip"] / "qformer_tokenizer")
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folders["whisper"])
    byte_tokenizer().save_pretrained(folders["llm"])
    vicunas_own = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_length": 4096}
    vicunas_own |= {"temperature": 0.9, "top_p": 0.6, "transformers_version": "4.31.0"}
    (folders["llm"] / "generation_config.json").write_text(json.dumps(vicunas_own))
    return folders


def preset_of(folders: dict[str, Path], **settings) -> Preset:
    """A preset whose weights lie in these folders."""
    return Preset(
        name="toy",
        summary="released formats at toy size",
        config={**copy.deepcopy(TINY.config), **settings},
        weights={part: str(folder) for part, folder in folders.items()},
        seed=1,
    )


def assemble(folders: dict[str, Path], **settings):
    """Model and processor in float32, whatever the machine."""
    return released.assemble(preset_of(folders, **settings), dtype=torch.float32)


@pytest.fixture
def broken(originals, tmp_path) -> dict[str, Path]:
    """Copies to break."""
    return {part: Path(shutil.copytree(folder, tmp_path / part)) for part, folder in originals.items()}


@pytest.fixture(scope="module")
def assembled(originals):
    return assemble(originals)


def test_the_eyes_see_what_instructblip_sees(originals, assembled):
    original = InstructBlipForConditionalGeneration.from_pretrained(originals["instructblip"]).eval()
    model, processor = assembled
    inputs = processor(QUESTION)
    frames, clip_of_frame = inputs["pixel_values"], torch.repeat_interleave(inputs["num_frames"])
    question, mask = inputs["instruction_ids"][clip_of_frame], inputs["instruction_mask"][clip_of_frame]
    inner = getattr(original, "model", original)
    vision_model, qformer, queries = (getattr(inner, name) for name in ("vision_model", "qformer", "query_tokens"))
    vision_model.post_layernorm.eps = LN_VISION_EPS  # as in LAVIS, where the weights come from
    with torch.no_grad():
        patches = vision_model(frames).last_hidden_state
        expected = qformer(
            input_ids=question,
            attention_mask=torch.cat((mask.new_ones(len(frames), 32), mask), dim=1),
            query_embeds=queries.expand(len(frames), -1, -1),
            encoder_hidden_states=patches,
        ).last_hidden_state[:, :32]
        torch.testing.assert_close(model.vision.vit(frames), patches, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(model.vision(frames, question, mask), expected, atol=1e-6, rtol=1e-6)


def test_the_ears_hear_what_whisper_hears(originals, assembled):
    original = WhisperForConditionalGeneration.from_pretrained(originals["whisper"]).eval()
    model, processor = assembled
    features = processor(QUESTION)["input_features"]
    with torch.no_grad():
        expected = original.get_encoder()(features).last_hidden_state
        torch.testing.assert_close(model.audio(features), expected, atol=1e-6, rtol=1e-6)


def test_a_fresh_lora_leaves_the_language_model_as_it_was(originals, assembled):
    original = LlamaForCausalLM.from_pretrained(originals["llm"]).eval()
    model, processor = assembled
    ids = processor([user("What happens?")])["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, original(ids).logits, atol=1e-6, rtol=1e-6)


def test_what_is_released_is_frozen_and_the_rest_is_trained(assembled, tiny):
    def trained(model: FavorForConditionalGeneration) -> set[str]:
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    model, _ = assembled
    assert trained(model) == trained(tiny.model)
    assert not model.training
    assert not any(parameter.is_meta for parameter in (*model.parameters(), *model.buffers()))


def test_the_fresh_parts_follow_the_seed_and_leave_the_random_state_alone(originals, assembled):
    before = torch.get_rng_state()
    again, _ = assemble(originals)
    assert torch.equal(torch.get_rng_state(), before)
    for (name, ours), theirs in zip(again.named_parameters(), assembled[0].parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_an_assembled_model_answers_and_comes_back_from_a_folder(assembled, tmp_path):
    model, processor = assembled
    greedy = Decoding(max_new_tokens=8)
    answer = Chat("toy", model, processor).answer(QUESTION, greedy)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert Chat("toy", *load_folder(tmp_path)).answer(QUESTION, greedy) == answer
    assert model.generation_config.eos_token_id == 2


def test_frozen_parts_may_be_of_half_the_size(originals, tmp_path):
    model, processor = released.assemble(preset_of(originals), dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            assert parameter.dtype == (torch.float32 if name.startswith("connector.") else torch.bfloat16), name
    assert Chat("toy", model, processor).answer(QUESTION, Decoding(max_new_tokens=4))


def test_older_and_newer_names_of_the_same_tensors_are_known(originals, assembled, broken):
    for part in ("instructblip", "whisper"):
        path = broken[part] / "model.safetensors"
        tensors = load_file(path)
        bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        has_prefix = bare.keys() != tensors.keys()
        save_file(bare if has_prefix else {f"model.{name}": tensor for name, tensor in bare.items()}, path)
    again, _ = assemble(broken)
    for (name, ours), theirs in zip(again.named_parameters(), assembled[0].parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_shards_are_read_like_one_file(originals, assembled, broken):
    for part, model_class in (
        ("instructblip", InstructBlipForConditionalGeneration),
        ("whisper", WhisperForConditionalGeneration),
        ("llm", LlamaForCausalLM),
    ):
        model = model_class.from_pretrained(originals[part])
        (broken[part] / "model.safetensors").unlink()
        model.generation_config = type(model.generation_config)()
        model.save_pretrained(broken[part], max_shard_size="50KB")
        assert (broken[part] / "model.safetensors.index.json").exists()
    again, _ = assemble(broken)
    for (name, ours), theirs in zip(again.named_parameters(), assembled[0].parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def drop(folder: Path, ending: str) -> str:
    """Take the one tensor whose name ends so out of a folder."""
    tensors = load_file(folder / "model.safetensors")
    (name,) = (name for name in tensors if name.endswith(ending))
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return name


@pytest.mark.parametrize(
    "part, ending",
    [
        ("instructblip", "query_tokens"),
        ("instructblip", "vision_model.encoder.layers.1.mlp.fc1.bias"),
        ("instructblip", "qformer.encoder.layer.0.attention.attention.query.weight"),
        ("whisper", "encoder.conv2.weight"),
        ("llm", "layers.1.mlp.up_proj.weight"),
    ],
)
def test_a_missing_tensor_of_any_part_is_refused_by_name(broken, part, ending):
    drop(broken[part], ending)
    with pytest.raises(CheckpointError, match=f"'{part}' do not fit: 1 missing keys.*{ending.split('.')[-2:][0]}"):
        assemble(broken)


@pytest.mark.parametrize(
    "part, settings",
    [
        ("instructblip", {"vision_config": {**TINY.config["vision_config"], "num_hidden_layers": 3}}),
        ("instructblip", {"vision_config": {**TINY.config["vision_config"], "num_hidden_layers": 1}}),
        ("whisper", {"audio_config": {**TINY.config["audio_config"], "encoder_ffn_dim": 64}}),
        ("llm", {"text_config": {**TINY.config["text_config"], "vocab_size": 300}}),
        ("llm", {"text_config": {**TINY.config["text_config"], "num_hidden_layers": 1}}),
    ],
)
def test_weights_of_another_shape_than_the_configurations_are_refused(originals, part, settings):
    with pytest.raises(CheckpointError, match=f"'{part}' do not fit"):
        assemble(originals, **settings)


@pytest.mark.parametrize("part", ["instructblip", "whisper", "llm"])
def test_pickled_weights_of_any_part_are_refused(broken, part):
    tensors: dict[str, Tensor] = load_file(broken[part] / "model.safetensors")
    (broken[part] / "model.safetensors").unlink()
    torch.save(tensors, broken[part] / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=f"'{part}'") as raised:
        assemble(broken)
    assert "\n" not in str(raised.value)
    assert str(broken[part].parent) not in str(raised.value)


@pytest.mark.parametrize(
    "part, name",
    [
        ("whisper", "preprocessor_config.json"),
        ("llm", "tokenizer.json"),
        ("instructblip", "qformer_tokenizer/tokenizer.json"),
    ],
)
def test_a_missing_processor_of_any_part_is_refused(broken, part, name):
    (broken[part] / name).unlink()
    with pytest.raises(CheckpointError, match=f"'{part}' cannot be read") as raised:
        assemble(broken)
    assert "\n" not in str(raised.value)
    assert str(broken[part].parent) not in str(raised.value)
