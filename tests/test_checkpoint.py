"""A saved model comes back bit for bit; anything else than such a folder is refused, in one line and without a path."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor

from favor import presets
from favor.checkpoint import load_exactly, load_folder, load_processor, read_tensors
from favor.configuration import FavorConfig
from favor.errors import CheckpointError, FavorError
from favor.messages import AudioPart, ImagePart, VideoPart, assistant, user
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorProcessor
from tests import small_media
from tests.conftest import Tiny

CONVERSATION = [
    user(VideoPart(small_media.video(6.0)), ImagePart(small_media.picture()), "What happens?"),
    assistant("A dog barks."),
    user(AudioPart(small_media.sound(1.5)), "And now?"),
]


@pytest.fixture(scope="module")
def saved(tiny: Tiny, tmp_path_factory) -> Path:
    """A folder with the tiny model; look, do not touch."""
    folder = tmp_path_factory.mktemp("models") / "saved"
    tiny.model.save_pretrained(folder)
    tiny.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to break."""
    return Path(shutil.copytree(saved, tmp_path / "broken"))


def logits(model: FavorForConditionalGeneration, processor: FavorProcessor) -> Tensor:
    with torch.no_grad():
        return model(**processor(CONVERSATION)).logits


def change_json(path: Path, **settings) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def refusal(folder: Path, error: type[FavorError] = CheckpointError) -> str:
    """What is said when the folder is loaded."""
    with pytest.raises(error) as raised:
        load_folder(folder)
    text = str(raised.value)
    assert "\n" not in text
    assert str(folder.parent) not in text
    return text


# --- there and back -------------------------------------------------------------------------------------------------


def test_a_saved_model_gives_the_same_bits(tiny, saved):
    model, processor = load_folder(saved)
    assert type(model) is FavorForConditionalGeneration
    assert type(processor) is FavorProcessor
    assert not model.training
    assert torch.equal(logits(model, processor), logits(*tiny))
    assert settings_of(model.config) == settings_of(tiny.model.config)


def settings_of(config: FavorConfig) -> dict:
    """All settings but what Hugging Face notes down when it saves."""

    def kept(settings: dict) -> dict:
        notes = ("architectures", "dtype", "transformers_version", "_name_or_path")
        return {
            name: kept(value) if isinstance(value, dict) else value
            for name, value in settings.items()
            if name not in notes
        }

    return kept(config.to_dict())


def test_the_auto_classes_read_it_too(tiny, saved):
    model, processor = AutoModelForCausalLM.from_pretrained(saved), AutoProcessor.from_pretrained(saved)
    assert type(AutoConfig.from_pretrained(saved)) is FavorConfig
    assert type(model) is FavorForConditionalGeneration
    assert torch.equal(logits(model.eval(), processor), logits(*tiny))


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_what_was_frozen_stays_frozen(tiny, saved):
    for model in (load_folder(saved)[0], AutoModelForCausalLM.from_pretrained(saved)):
        assert trained(model) == trained(tiny.model)
        assert {name.split(".")[0] for name in trained(model)} == {"connector", "language_model"}
        assert all("lora_" in name for name in trained(model) if name.startswith("language_model."))


def test_a_language_model_without_lora_is_trained_whole_before_and_after(tmp_path):
    settings = presets.describe("tiny").config
    model = FavorForConditionalGeneration(FavorConfig(**{**settings, "lora_config": None}))
    model.save_pretrained(tmp_path)
    again = FavorForConditionalGeneration.from_pretrained(tmp_path)
    assert trained(again) == trained(model)
    assert "language_model.model.norm.weight" in trained(again)


def test_how_it_generates_is_saved_too(tiny, saved):
    model, _ = load_folder(saved)
    assert model.generation_config.suppress_tokens == tiny.model.generation_config.suppress_tokens


def test_a_model_saved_in_shards_gives_the_same_bits(tiny, folder):
    (folder / "model.safetensors").unlink()
    tiny.model.save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert torch.equal(logits(*load_folder(folder)), logits(*tiny))


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("lora", [{"r": 4, "alpha": 4}, None])
def test_any_language_model_comes_back(tiny, tmp_path, is_tied, lora):
    settings = presets.describe("tiny").config
    text = {**settings["text_config"], "model_type": "qwen2", "tie_word_embeddings": is_tied}
    model = FavorForConditionalGeneration(FavorConfig(**{**settings, "text_config": text, "lora_config": lora})).eval()
    model.save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    again, processor = load_folder(tmp_path)
    assert (again.get_output_embeddings().weight is again.get_input_embeddings().weight) == is_tied
    assert torch.equal(logits(again, processor), logits(model, processor))


def test_a_type_may_be_chosen_and_the_connector_stays_exact(saved):
    model, _ = load_folder(saved, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name.startswith("connector.") else torch.bfloat16), name


def test_a_model_of_two_types_gives_the_same_bits(saved, tmp_path):
    model, processor = load_folder(saved, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, _ = load_folder(tmp_path)
    assert [parameter.dtype for parameter in again.parameters()] == [
        parameter.dtype for parameter in model.parameters()
    ]
    assert torch.equal(logits(again, processor), logits(model, processor))


def test_a_folder_may_be_named_from_where_one_stands(tiny, saved, monkeypatch):
    monkeypatch.chdir(saved)
    assert torch.equal(logits(*load_folder(".")), logits(*tiny))


# --- safetensors only -----------------------------------------------------------------------------------------------


class Planted:
    """Runs when it is unpickled."""

    was_run = False

    def __reduce__(self):
        return (setattr, (Planted, "was_run", True))


def test_pickled_weights_are_refused_and_never_opened(folder):
    (folder / "model.safetensors").unlink()
    torch.save(Planted(), folder / "pytorch_model.bin")
    assert "'broken' is not a model folder" in refusal(folder)
    assert not Planted.was_run


def test_pickled_weights_beside_safetensors_are_never_opened(tiny, folder):
    torch.save(Planted(), folder / "pytorch_model.bin")
    assert torch.equal(logits(*load_folder(folder)), logits(*tiny))
    assert not Planted.was_run


# --- exactly the parameters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "connector.query_tokens",
        "vision.query_tokens",
        "audio.model.conv1.bias",
        "language_model.model.norm.weight",
        "language_model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
    ],
)
def test_a_missing_tensor_is_refused_by_name(folder, name):
    change_tensors(folder, lambda tensors: tensors.pop(name))
    assert f"1 missing keys ({name})" in refusal(folder)


def test_an_extra_tensor_is_refused_by_name(folder):
    change_tensors(folder, lambda tensors: tensors.update({"connector.more": torch.zeros(1)}))
    assert "1 unexpected keys (connector.more)" in refusal(folder)


def test_a_tensor_of_another_shape_is_refused_with_both_shapes(folder):
    change_tensors(folder, lambda tensors: tensors.update({"connector.query_tokens": torch.zeros(3, 24)}))
    assert "1 mismatched keys (connector.query_tokens: (3, 24) for (32, 24))" in refusal(folder)


def test_many_problems_are_counted_and_the_first_named(folder):
    def drop_lora(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if "lora_A" in name]:
            del tensors[name]

    change_tensors(folder, drop_lora)
    assert "8 missing keys (language_model.model.layers.0.self_attn.k_proj" in (text := refusal(folder))
    assert ", ...)" in text


# --- whatever else may be wrong with a folder -----------------------------------------------------------------------


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    "break_it, says",
    [
        (lambda folder: cut(folder / "model.safetensors", 0), "SafetensorError"),
        (lambda folder: cut(folder / "model.safetensors", 1000), "SafetensorError"),
        (lambda folder: cut(folder / "model.safetensors", -1000), "SafetensorError"),
        (lambda folder: cut(folder / "config.json", 100), "config.json"),
        (lambda folder: (folder / "config.json").unlink(), "not a model folder"),
        (lambda folder: (folder / "config.json").write_text("{}"), "model_type"),
        (lambda folder: (folder / "config.json").write_text("[]"), "model_type"),
        (lambda folder: change_json(folder / "config.json", model_type="llama"), "'llama'"),
        (lambda folder: change_json(folder / "config.json", model_type="favour"), "favour"),
        (lambda folder: change_json(folder / "config.json", vision_config=5), "cannot be read"),
        (lambda folder: (folder / "processor_config.json").unlink(), "cannot be read"),
        (lambda folder: cut(folder / "processor_config.json", 100), "processor_config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be read"),
        (lambda folder: cut(folder / "tokenizer.json", 100), "JSONDecodeError"),
        (lambda folder: shutil.rmtree(folder / "qformer_tokenizer"), "no qformer_tokenizer"),
    ],
    ids=[
        "empty weights",
        "weights cut in their header",
        "weights cut at their end",
        "configuration cut",
        "no configuration",
        "empty configuration",
        "a list for a configuration",
        "another model's configuration",
        "an unknown model's configuration",
        "a number for a configuration",
        "no processor",
        "processor cut",
        "no tokenizer",
        "tokenizer cut",
        "no tokenizer for the question",
    ],
)
def test_a_broken_folder_is_refused(folder, break_it, says):
    break_it(folder)
    assert says in refusal(folder)


def test_an_unknown_setting_is_refused_by_name(folder):
    change_json(folder / "config.json", placeholder_tokn_id=0)
    assert "Did you mean 'placeholder_token_id'" in refusal(folder, FavorError)


def test_a_missing_shard_is_refused(tiny, folder):
    (folder / "model.safetensors").unlink()
    tiny.model.save_pretrained(folder, max_shard_size="50KB")
    next(folder.glob("model-00002*")).unlink()
    assert "model-00002" in refusal(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    assert "'gone' is not a model folder" in refusal(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="'gone' cannot be read"):
        load_processor(tmp_path / "gone")


@pytest.mark.parametrize("part", ["model", "tokenizer", "feature_extractor"])
def test_code_in_a_folder_is_never_run(folder, part):
    (folder / "planted.py").write_text("raise SystemExit('planted code was run')")
    planted = "planted.Planted"
    if part == "model":
        change_json(folder / "config.json", auto_map={"AutoConfig": planted, "AutoModelForCausalLM": planted})
    elif part == "tokenizer":
        auto_map = {"AutoTokenizer": [planted, planted]}
        change_json(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Planted")
    else:
        extractor = json.loads((folder / "processor_config.json").read_text())["feature_extractor"]
        extractor |= {"auto_map": {"AutoFeatureExtractor": planted}, "feature_extractor_type": "Planted"}
        change_json(folder / "processor_config.json", feature_extractor=extractor)
    refusal(folder, FavorError)


# --- tensors of foreign checkpoints ---------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    tensors = {"model.encoder.a": torch.ones(2), "model.encoder.b.c": torch.zeros(3), "model.decoder.a": torch.ones(4)}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def test_tensors_are_picked_and_renamed_by_their_beginnings(foreign):
    tensors = read_tensors(str(foreign), {"encoder.": "ear."})
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"ear.a": [1, 1], "ear.b.c": [0, 0, 0]}


def test_shards_without_wanted_tensors_are_not_opened(tmp_path):
    save_file({"encoder.a": torch.ones(2)}, tmp_path / "one.safetensors")
    index = {"weight_map": {"encoder.a": "one.safetensors", "decoder.a": "another.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(read_tensors(str(tmp_path), {"encoder.": ""})) == {"a"}
    with pytest.raises(CheckpointError, match=r"has no another\.safetensors"):
        read_tensors(str(tmp_path), {"decoder.": ""})


def test_a_source_without_safetensors_is_refused_without_its_path(tmp_path):
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors") as raised:
        read_tensors(str(tmp_path), {"encoder.": ""})
    assert str(tmp_path.parent) not in str(raised.value)


def test_a_hub_name_that_cannot_be_reached_is_refused_in_one_line():
    with pytest.raises(CheckpointError, match="within reach") as raised:
        read_tensors("nobody/whisper-of-nobody", {"encoder.": ""})
    assert "\n" not in str(raised.value)


def test_tensors_are_loaded_exactly_or_not_at_all():
    module = nn.Linear(2, 3)
    load_exactly(module, {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}, name="ear")
    assert module.weight.sum() == 6
    for tensors, says in (
        ({"weight": torch.zeros(3, 2)}, "1 missing keys (bias)"),
        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(3), "scale": torch.ones(1)}, "1 unexpected keys (scale)"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}, "weight: (2, 3) for (3, 2)"),
    ):
        with pytest.raises(CheckpointError) as raised:
            load_exactly(module, tensors, name="ear")
        assert says in str(raised.value)
    assert module.weight.sum() == 6
