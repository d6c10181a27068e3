"""Adapters inside the whole model: what they change, what they refuse, and their folders."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from favor import AudioPart, Chat, Decoding, ImagePart, VideoPart, user
from favor.adapter_files import SETTINGS, WEIGHTS, encoder_hashes, load_adapter, read_adapter, save_adapter
from favor.adapters import OPTIONS
from favor.checkpoint import load_folder
from favor.errors import CheckpointError, ConfigurationError
from favor.feature_cache import FeatureCache
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorInputs, FavorProcessor
from tests import small_media
from tests.conftest import Tiny

ADAPTERS = {
    "lavish": {"name": "lavish", "batch_norm": False},
    "dg_sct": {"name": "dg_sct", "batch_norm": False},
    "av_pea": {"name": "av_pea", "batch_norm": False},
    "copl": {"name": "copl", "consistency_weight": 0.0},
}
ROUNDING = {"atol": 1e-4, "rtol": 1e-4}

every_adapter = pytest.mark.parametrize("name", ADAPTERS)


@pytest.fixture
def model(tiny: Tiny) -> Iterator[FavorForConditionalGeneration]:
    """The tiny model, without an adapter again when a test is over."""
    yield tiny.model
    tiny.model.put_adapter(None)
    tiny.model.eval()


@pytest.fixture(scope="module")
def both(tiny: Tiny) -> FavorInputs:
    """A clip of two steps with its sound."""
    return inputs_of(tiny.processor, VideoPart(small_media.video(1.0)))


def inputs_of(processor: FavorProcessor, *parts: VideoPart | AudioPart | ImagePart) -> FavorInputs:
    return processor([user(*parts, "What?")])


def put_trained(model: FavorForConditionalGeneration, name: str, *, seed: int = 0) -> None:
    """An adapter as after some training: nothing is at its start."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.put_adapter(ADAPTERS[name])
        assert model.adapter is not None
        for weight in model.adapter.parameters():
            weight.data += 0.1 * torch.randn_like(weight)


@torch.no_grad()
def soft_tokens(model: FavorForConditionalGeneration, inputs: FavorInputs) -> Tensor:
    media = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask", "labels", "position_ids")}
    return model.get_soft_tokens(**media).soft_tokens


@torch.no_grad()
def features(model: FavorForConditionalGeneration, inputs: FavorInputs) -> tuple[Tensor, Tensor]:
    """Last tokens of both encoders."""
    clips = list(zip(*(inputs[name].tolist() for name in ("num_frames", "num_audio_steps", "is_image")), strict=True))
    return model.run_adapter(inputs.get("pixel_values"), inputs.get("input_features"), clips)


# --- what they change -------------------------------------------------------------------------------------------------


def test_there_is_a_test_for_every_adapter() -> None:
    assert set(ADAPTERS) == set(OPTIONS)


@every_adapter
def test_a_fresh_adapter_changes_nothing_but_prompts_do(
    model: FavorForConditionalGeneration, both: FavorInputs, name: str
) -> None:
    before = soft_tokens(model, both)
    model.put_adapter(ADAPTERS[name])
    assert torch.equal(soft_tokens(model, both), before) == (name != "copl")
    model.put_adapter(None)
    assert torch.equal(soft_tokens(model, both), before)


@every_adapter
def test_each_stream_hears_of_the_other_in_both_directions(
    model: FavorForConditionalGeneration, both: FavorInputs, name: str
) -> None:
    put_trained(model, name)
    patches, sound = features(model, both)
    other_sound = FavorInputs({**both, "input_features": both["input_features"].flip(-1)})
    other_picture = FavorInputs({**both, "pixel_values": both["pixel_values"].flip(-1)})
    assert not torch.equal(features(model, other_sound)[0], patches)
    assert not torch.equal(features(model, other_picture)[1], sound)


@every_adapter
def test_without_an_adapter_no_stream_hears_of_the_other(
    model: FavorForConditionalGeneration, both: FavorInputs, name: str
) -> None:
    model.put_adapter(ADAPTERS[name])
    if name == "copl":
        pytest.skip("prompts tell of the other stream from the start")
    patches, _ = features(model, both)
    other = FavorInputs({**both, "input_features": both["input_features"].flip(-1)})
    assert torch.equal(features(model, other)[0], patches)


@every_adapter
def test_a_clip_alone_and_in_a_mixed_batch_gives_the_same(
    model: FavorForConditionalGeneration, tiny: Tiny, name: str
) -> None:
    put_trained(model, name)
    chats = [
        VideoPart(small_media.video(1.0)),
        AudioPart(small_media.sound(1.5)),
        ImagePart(small_media.picture()),
        VideoPart(small_media.video(0.5, has_sound=False)),
        ImagePart(small_media.picture(seed=1), sound=small_media.sound(1.0)),
    ]
    alone = [soft_tokens(model, inputs_of(tiny.processor, part)) for part in chats]
    assert all(tokens.isfinite().all() for tokens in alone)
    together = tiny.processor([[user(part, "What?")] for part in chats])
    torch.testing.assert_close(soft_tokens(model, together), torch.cat(alone), **ROUNDING)


@every_adapter
def test_an_adapter_runs_in_bfloat16_and_stays_in_float32(tiny: Tiny, both: FavorInputs, name: str) -> None:
    model = copy.deepcopy(tiny.model)
    put_trained(model, name)
    exact = soft_tokens(model, both)
    for encoder in (model.vision, model.audio):
        encoder.to(torch.bfloat16)
    rounded = soft_tokens(model, both)
    assert rounded.isfinite().all()
    assert torch.nn.functional.cosine_similarity(rounded.flatten(), exact.flatten(), dim=0) > 0.95


@every_adapter
def test_answers_come_whole_or_streamed_and_the_same(
    model: FavorForConditionalGeneration, tiny: Tiny, name: str
) -> None:
    put_trained(model, name)
    chat = Chat("tiny", model, tiny.processor)
    prepared = chat.prepare([user(VideoPart(small_media.video(1.0)), "What?")])
    greedy = Decoding(max_new_tokens=4)
    streamed = "".join(piece.text for piece in chat.stream(prepared, greedy))
    tokens = model.generate(**prepared.inputs, max_new_tokens=4, do_sample=False)
    whole = tiny.processor.tokenizer.decode(tokens[0, prepared.num_prompt_tokens :], skip_special_tokens=True)
    assert streamed == whole
    assert len(streamed) > 0


# --- training ---------------------------------------------------------------------------------------------------------


@every_adapter
def test_every_weight_has_a_gradient_whatever_streams_a_batch_has(tiny: Tiny, name: str) -> None:
    """What DDP and ZeRO demand; values may be zero."""
    model = copy.deepcopy(tiny.model)
    put_trained(model, name)
    assert model.adapter is not None
    model.train()
    silent, sound = VideoPart(small_media.video(0.5, has_sound=False)), AudioPart(small_media.sound(0.5))
    for parts in ([silent], [sound], [silent, sound], [ImagePart(small_media.picture())]):
        model.zero_grad()
        inputs = inputs_of(tiny.processor, *parts)
        model(**inputs).logits.sum().backward()
        assert [n for n, weight in model.adapter.named_parameters() if weight.grad is None] == [], parts
    assert all(weight.grad is None for weight in (*model.vision.parameters(), *model.audio.parameters()))


@every_adapter
def test_what_runs_idle_counts_nothing(tiny: Tiny, name: str) -> None:
    model = copy.deepcopy(tiny.model)
    put_trained(model, name)
    assert model.adapter is not None
    inputs = inputs_of(tiny.processor, AudioPart(small_media.sound(0.5)))
    before = soft_tokens(model, inputs)
    model.adapter.train()  # the connector's dropout stays off
    torch.testing.assert_close(soft_tokens(model, inputs), before, **ROUNDING)


# --- saving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"name": "lavish", "paper_eq8": True}])
@every_adapter
def test_a_saved_model_comes_back_with_its_adapter(
    tiny: Tiny, both: FavorInputs, tmp_path: Path, name: str, changes: dict
) -> None:
    if changes.get("name", name) != name:
        pytest.skip("a setting of another adapter")
    model = copy.deepcopy(tiny.model)
    model.put_adapter({**ADAPTERS[name], **changes})
    assert model.adapter is not None
    for weight in model.adapter.parameters():
        weight.data += 0.1
    before = soft_tokens(model, both)
    model.save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    loaded, _ = load_folder(tmp_path)
    assert loaded.config.adapter_config == model.config.adapter_config
    own, theirs = model.state_dict(), loaded.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[key], theirs[key]) for key in own)
    torch.testing.assert_close(soft_tokens(loaded, both), before, **ROUNDING)
    assert loaded.adapter is not None
    assert all(weight.requires_grad for weight in loaded.adapter.parameters())
    assert not any(weight.requires_grad for weight in (*loaded.vision.parameters(), *loaded.audio.parameters()))


@pytest.fixture(scope="module")
def folders(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved adapter of every kind."""
    model, found = copy.deepcopy(tiny.model), {}
    for name in ADAPTERS:
        found[name] = tmp_path_factory.mktemp("adapters") / name
        put_trained(model, name)
        save_adapter(model, found[name])
    return found


def test_adapters_are_changed_at_run_time_and_taken_out_again(
    model: FavorForConditionalGeneration, both: FavorInputs, folders: dict[str, Path]
) -> None:
    plain = soft_tokens(model, both)
    hashes, expected = encoder_hashes(model), {}
    for name in ADAPTERS:
        put_trained(model, name)
        expected[name] = soft_tokens(model, both)
    model.put_adapter(None)
    loaded = {name: read_adapter(model, folder, hashes=hashes) for name, folder in folders.items()}
    assert torch.equal(soft_tokens(model, both), plain), "reading changes nothing"
    for name in ("lavish", "copl", "dg_sct", "lavish", "av_pea"):
        loaded[name].use(model)
        torch.testing.assert_close(soft_tokens(model, both), expected[name], **ROUNDING)
        assert model.config.adapter_config == ADAPTERS[name]
    model.put_adapter(None)
    assert torch.equal(soft_tokens(model, both), plain)


def test_an_adapters_folder_says_where_it_belongs(tiny: Tiny, folders: dict[str, Path]) -> None:
    assert {path.name for path in folders["lavish"].iterdir()} == {WEIGHTS, SETTINGS}
    told = json.loads((folders["lavish"] / SETTINGS).read_text())
    assert told["adapter"] == ADAPTERS["lavish"]
    assert told["encoders"] == encoder_hashes(tiny.model)
    in_bfloat16 = copy.deepcopy(tiny.model).to(torch.bfloat16)
    assert told["encoders"] == encoder_hashes(in_bfloat16), "how a model was loaded makes no difference"


def test_other_encoders_are_refused_and_the_model_stays_as_it_was(tiny: Tiny, folders: dict[str, Path]) -> None:
    other = copy.deepcopy(tiny.model)
    put_trained(other, "av_pea")
    kept = other.adapter
    other.audio.model.conv1.weight.data += 1
    with pytest.raises(CheckpointError, match=r"trained in other encoders .*\(audio\)"):
        load_adapter(other, folders["lavish"])
    assert other.adapter is kept
    assert other.config.adapter_config == ADAPTERS["av_pea"]


@pytest.mark.parametrize("fault", ["shape", "missing", "unexpected"])
def test_weights_that_do_not_fit_are_refused(
    model: FavorForConditionalGeneration, folders: dict[str, Path], tmp_path: Path, fault: str
) -> None:
    weights = load_file(folders["lavish"] / WEIGHTS)
    first = next(iter(weights))
    match fault:
        case "shape":
            weights[first] = torch.zeros(7, 7)
        case "missing":
            del weights[first]
        case "unexpected":
            weights["surplus"] = torch.zeros(1)
    save_file(weights, tmp_path / WEIGHTS)
    (tmp_path / SETTINGS).write_text((folders["lavish"] / SETTINGS).read_text())
    with pytest.raises(CheckpointError, match=f"{'mismatched' if fault == 'shape' else fault} keys"):
        load_adapter(model, tmp_path)
    assert model.adapter is None


@pytest.mark.parametrize(
    "settings, problem",
    [
        (None, "no adapter_config.json"),
        ("{", "no adapter_config.json"),
        ('{"peft_type": "LORA", "r": 4}', "LoRA has a file of this name too"),
        ('{"adapter": [], "encoders": {}, "favor_version": ""}', "not FAVOR's"),
    ],
)
def test_what_is_no_adapters_folder_is_refused(
    model: FavorForConditionalGeneration, tmp_path: Path, settings: str | None, problem: str
) -> None:
    if settings is not None:
        (tmp_path / SETTINGS).write_text(settings)
    with pytest.raises(CheckpointError, match=problem):
        load_adapter(model, tmp_path)


def test_weights_in_another_format_are_refused(
    model: FavorForConditionalGeneration, folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / SETTINGS).write_text((folders["lavish"] / SETTINGS).read_text())
    (tmp_path / WEIGHTS).write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(CheckpointError, match=f"no {WEIGHTS} that can be read"):
        load_adapter(model, tmp_path)


def test_a_model_without_an_adapter_has_none_to_save(model: FavorForConditionalGeneration, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no adapter between its encoders"):
        save_adapter(model, tmp_path)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, problem",
    [
        ({"name": "lavish"}, "batch_norm"),
        ({"name": "copl"}, "consistency_weight"),
        ({"name": "copl", "consistency_weight": 0.0, "frame_prompts": 4}, "4 frame prompts and windows of 10 steps"),
        ({"name": "lavihs"}, "Did you mean 'lavish'"),
        ({"name": "lavish", "num_latent": 2}, "Did you mean 'num_latents'"),
        ({"num_latents": 2}, "without a name"),
    ],
)
def test_settings_that_do_not_fit_are_refused_and_the_model_stays_as_it_was(
    model: FavorForConditionalGeneration, settings: dict, problem: str
) -> None:
    model.put_adapter(ADAPTERS["av_pea"])
    kept = model.adapter
    with pytest.raises(ConfigurationError, match=problem):
        model.put_adapter(settings)
    assert model.adapter is kept
    assert model.config.adapter_config == ADAPTERS["av_pea"]


def test_features_of_lone_encoders_are_refused(
    model: FavorForConditionalGeneration, tiny: Tiny, both: FavorInputs, tmp_path: Path
) -> None:
    model.put_adapter(ADAPTERS["lavish"])
    with pytest.raises(ConfigurationError, match="an adapter works inside the encoders"):
        soft_tokens(model, FavorInputs({**both, "visual_features": torch.zeros(2, 32, 24)}))
    with pytest.raises(ConfigurationError, match="an adapter between its encoders"):
        FeatureCache.open(tmp_path, model, tiny.processor)
