"""Kept features are the encoders' own, bit for bit, or they are not there: never those of something like it."""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
import torch

from favor import clips
from favor.errors import ConfigurationError, MediaNotFoundError, UnreadableMediaError
from favor.feature_cache import FeatureCache, FeatureMissError
from favor.messages import AudioPart, ImagePart, Message, VideoPart, assistant, user
from favor.processor import FavorProcessor
from tests import small_media
from tests.conftest import Tiny
from training import cache as command
from training import recipe
from training.data import Sample

VIDEO = VideoPart(small_media.video(2.0))
SOUND = AudioPart(small_media.sound(1.5))
PICTURE = ImagePart(small_media.picture())
SPOKEN_PICTURE = ImagePart(small_media.picture(), sound=small_media.sound(1.5))
SILENT = VideoPart(small_media.video(2.0, has_sound=False))

ALIKE = (
    "input_ids",
    "attention_mask",
    "num_frames",
    "num_audio_steps",
    "is_image",
    "instruction_ids",
    "instruction_mask",
)


@pytest.fixture
def cache(tiny: Tiny, tmp_path: Path) -> FeatureCache:
    return FeatureCache.open(tmp_path / "features", *tiny)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one for every clip that is decoded."""
    calls: list[str] = []
    for name in ("load_video", "load_audio", "load_image"):
        original = getattr(clips, name)

        def counted(*args, _original=original, _name=name, **kwargs):
            calls.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(clips, name, counted)
    return calls


def ask(processor: FavorProcessor, cache: FeatureCache | None, part=VIDEO, question: str = "What is it?"):
    return processor([user(part, question)], features=cache)


def entries(cache: FeatureCache) -> list[Path]:
    return sorted(cache.folder.rglob("*.safetensors"))


# --- the same numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [VIDEO, SOUND, PICTURE, SPOKEN_PICTURE, SILENT])
def test_kept_features_and_logits_equal_live_ones_bit_for_bit(tiny, cache, part):
    live = ask(tiny.processor, None, part)
    with torch.no_grad():
        expected = tiny.model(**live).logits
        for _ in ("computed", "from disk"):
            kept = ask(tiny.processor, cache, part)
            assert not {"pixel_values", "input_features"} & kept.keys()
            assert all(torch.equal(kept[name], live[name]) for name in ALIKE)
            assert kept.receipts == live.receipts
            if "pixel_values" in live:
                names = ("pixel_values", "num_frames", "instruction_ids", "instruction_mask")
                visual = tiny.model.get_visual_features(*(live[name] for name in names))
                assert torch.equal(kept["visual_features"], visual)
            if "input_features" in live:
                assert torch.equal(kept["audio_features"], tiny.model.get_audio_features(live["input_features"]))
            assert torch.equal(tiny.model(**kept).logits, expected)
    assert (cache.counts.hits, cache.counts.computed) == (1, 1)


def test_a_mixed_batch_of_dialogues_with_labels_comes_out_as_without_the_cache(tiny, cache):
    batch: list[list[Message]] = [
        [user(VIDEO, PICTURE, "What is it?"), assistant("A dog."), user(SOUND, "And this one, if you listen well?")],
        [user("No clip here.")],
        [user(SPOKEN_PICTURE, "Who speaks?")],
    ]
    answers = ["A cat.", "Indeed.", "A man."]
    live = tiny.processor(batch, answers)
    kept = tiny.processor(batch, answers, features=cache)
    assert all(torch.equal(kept[name], live[name]) for name in (*ALIKE, "labels"))
    assert kept.receipts == live.receipts
    with torch.no_grad():
        torch.testing.assert_close(tiny.model(**kept).logits, tiny.model(**live).logits, rtol=1e-4, atol=1e-5)


def test_generating_from_kept_features_gives_the_same_answer(tiny, cache):
    live, kept = ask(tiny.processor, None), ask(tiny.processor, cache)
    assert torch.equal(tiny.model.generate(**live, max_new_tokens=4), tiny.model.generate(**kept, max_new_tokens=4))


def test_a_batch_without_clips_needs_no_cache(tiny, cache):
    inputs = tiny.processor([user("Hello?")], features=cache)
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert entries(cache) == []


# --- what makes another entry ---------------------------------------------------------------------------------------


def test_nothing_is_decoded_on_a_hit(tiny, cache, decoded):
    for _ in range(3):
        ask(tiny.processor, cache)
    assert decoded == ["load_video"]


def test_another_question_encodes_the_picture_again_and_the_sound_not(tiny, cache):
    first = ask(tiny.processor, cache)
    assert len(entries(cache)) == 2
    second = ask(tiny.processor, cache, question="Where is it?")
    assert len(entries(cache)) == 3
    assert not torch.equal(first["visual_features"], second["visual_features"])
    assert torch.equal(first["audio_features"], second["audio_features"])


@pytest.mark.parametrize(
    "other",
    [
        VideoPart(VIDEO.source, use_audio=False),
        VideoPart(VIDEO.source, sound=small_media.sound(1.5)),
        VideoPart(small_media.video(2.0, seed=1)),
        AudioPart(VIDEO.source),
    ],
)
def test_another_sound_other_bytes_or_another_use_of_them_is_a_miss(tiny, cache, other):
    ask(tiny.processor, cache)
    kept, live = ask(tiny.processor, cache, other), ask(tiny.processor, None, other)
    assert cache.counts.hits == 0
    assert torch.equal(tiny.model(**kept).logits, tiny.model(**live).logits)


@pytest.mark.parametrize(
    "setting, value",
    [("frame_rule", "first_last"), ("max_seconds", 100.0), ("when_too_long", "cut")],
)
def test_another_way_to_read_clips_is_a_miss(tiny, cache, setting, value):
    ask(tiny.processor, cache)
    processor = copy.deepcopy(tiny.processor)
    setattr(processor, setting, value)
    ask(processor, cache)
    assert cache.counts.hits == 0


def test_another_normalisation_of_pixels_is_a_miss(tiny, cache):
    ask(tiny.processor, cache)
    processor = copy.deepcopy(tiny.processor)
    processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    ask(processor, cache)
    assert cache.counts.hits == 0


def test_changed_weights_of_one_encoder_miss_its_entries_alone(tiny, cache, tmp_path):
    ask(tiny.processor, cache)
    model = copy.deepcopy(tiny.model)
    with torch.no_grad():
        model.vision.query_tokens[0, 0, 0] += 1e-3
    changed = FeatureCache.open(cache.folder, model, tiny.processor)
    assert changed.audio_encoder == cache.audio_encoder
    ask(tiny.processor, changed)
    assert (changed.counts.hits, len(entries(cache))) == (0, 3)


def test_another_number_of_heads_with_the_same_weights_is_a_miss(tiny, cache):
    model = copy.deepcopy(tiny.model)
    model.config.audio_config.encoder_attention_heads = 4
    assert FeatureCache.open(cache.folder, model, tiny.processor).audio_encoder != cache.audio_encoder


def test_another_dtype_is_another_entry(tiny, cache):
    ask(tiny.processor, cache)
    half = FeatureCache.open(cache.folder, *tiny, dtype=torch.bfloat16)
    assert ask(tiny.processor, half)["visual_features"].dtype == torch.bfloat16
    assert half.counts.hits == 0


def test_a_saved_and_loaded_model_finds_its_features(tiny, cache, tmp_path):
    from favor.checkpoint import load_folder

    ask(tiny.processor, cache)
    tiny.model.save_pretrained(tmp_path / "model")
    tiny.processor.save_pretrained(tmp_path / "model")
    model, processor = load_folder(tmp_path / "model")
    again = FeatureCache.open(cache.folder, model, processor)
    ask(processor, again)
    assert (again.counts.hits, again.counts.computed) == (1, 0)


def test_more_windows_or_queries_share_the_entries_and_get_their_own_receipt(tiny, cache):
    ask(tiny.processor, cache)
    processor = copy.deepcopy(tiny.processor)
    processor.window_steps, processor.num_query_tokens = 2, 8
    inputs = ask(processor, cache)
    assert cache.counts.hits == 1
    assert inputs.receipts[0][0].num_soft_tokens == 16


def test_the_same_bytes_under_another_name_are_a_hit_called_by_that_name(tiny, cache, tmp_path):
    ask(tiny.processor, cache)
    file = tmp_path / "dog.mp4"
    file.write_bytes(VIDEO.source)
    assert ask(tiny.processor, cache, VideoPart(file)).receipts[0][0].media.name == "dog.mp4"
    assert ask(tiny.processor, cache, VideoPart(VIDEO.source, name="cat")).receipts[0][0].media.name == "cat"
    assert cache.counts.hits == 2


def test_a_file_that_changed_under_its_name_is_read_again(tiny, cache, tmp_path):
    file = tmp_path / "dog.mp4"
    file.write_bytes(VIDEO.source)
    ask(tiny.processor, cache, VideoPart(file))
    file.write_bytes(small_media.video(2.0, seed=1))
    os.utime(file, ns=(1, 1))
    ask(tiny.processor, cache, VideoPart(file))
    assert cache.counts.hits == 0


# --- rules for a miss -----------------------------------------------------------------------------------------------


def test_with_the_rule_fail_a_miss_names_the_clip_and_the_command(tiny, cache):
    strict = FeatureCache.open(cache.folder, *tiny, on_miss="fail")
    with pytest.raises(FeatureMissError, match=r"dog.*python -m training cache RECIPE") as raised:
        ask(tiny.processor, strict, VideoPart(VIDEO.source, name="dog"))
    assert raised.value.subject == "dog"
    ask(tiny.processor, cache)
    ask(tiny.processor, strict)
    with pytest.raises(FeatureMissError):
        ask(tiny.processor, strict, question="Another one?")


@pytest.mark.parametrize(
    "part, error", [(VideoPart(b"no video"), UnreadableMediaError), (VideoPart("gone.mp4"), MediaNotFoundError)]
)
def test_a_bad_clip_is_a_bad_clip_with_either_rule(tiny, cache, part, error):
    for rule in ("compute", "fail"):
        with pytest.raises(error):
            ask(tiny.processor, FeatureCache.open(cache.folder, *tiny, on_miss=rule), part)


def test_trained_encoders_get_no_cache(tiny, tmp_path):
    model = copy.deepcopy(tiny.model)
    model.vision.unfreeze()
    with pytest.raises(ConfigurationError, match="vision"):
        FeatureCache.open(tmp_path, model, tiny.processor)


def test_sent_to_a_worker_it_leaves_the_model_behind_and_fails_on_a_miss(tiny, cache):
    ask(tiny.processor, cache)
    sent = pickle.loads(pickle.dumps(cache))
    assert sent.model is None
    ask(tiny.processor, sent)
    with pytest.raises(FeatureMissError):
        ask(tiny.processor, sent, question="Another one?")


# --- writing --------------------------------------------------------------------------------------------------------


def test_a_crash_before_the_rename_leaves_no_entry(tiny, cache, monkeypatch):
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("favor.feature_cache.os.replace", crash)
        with pytest.raises(KeyboardInterrupt):
            ask(tiny.processor, cache)
    assert [path for path in cache.folder.rglob("*") if path.is_file()] == []
    ask(tiny.processor, cache)
    assert len(entries(cache)) == 2


def test_an_entry_cut_off_by_a_full_disk_is_written_again(tiny, cache):
    expected = ask(tiny.processor, cache)
    for path in entries(cache):
        path.write_bytes(path.read_bytes()[:-7])
    again = ask(tiny.processor, cache)
    assert cache.counts.computed == 2
    assert torch.equal(again["visual_features"], expected["visual_features"])
    ask(tiny.processor, cache)
    assert cache.counts.hits == 1


def test_several_processes_fill_one_cache_at_once(tiny, cache):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=ask, args=(tiny.processor, cache)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(entries(cache)) == 2
    ask(tiny.processor, cache)
    assert cache.counts.hits == 1


# --- the command ----------------------------------------------------------------------------------------------------


def write_data(folder: Path) -> Path:
    """Three good samples, two of them about one clip, and two bad ones; returns a recipe."""
    (folder / "dog.mp4").write_bytes(VIDEO.source)
    (folder / "broken.mp4").write_bytes(b"no video")
    questions = [("dog.mp4", "What?"), ("dog.mp4", "Where?"), ("broken.mp4", "What?"), (None, "Who are you?")]
    lines = []
    for clip, question in questions:
        turns = [
            {"role": "user", "content": f"{'<video>' if clip else ''}{question}"},
            {"role": "assistant", "content": "A dog."},
        ]
        lines.append(json.dumps({"messages": turns, **({"videos": [clip]} if clip else {})}))
    (folder / "data.jsonl").write_text("\n".join([*lines, "{"]) + "\n")
    path = folder / "recipe.yaml"
    path.write_text(
        f"{{name: r, summary: s, model: tiny, output: {folder / 'run'}, optimisation: {{steps: 1, precision: fp32}},"
        f" data: {{cache: {folder / 'features'}, train: [{{path: {folder / 'data.jsonl'}}}]}}}}"
    )
    return path


def fill(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def test_the_command_fills_the_cache_counts_and_goes_on_where_it_stopped(tiny, tmp_path, capsys):
    path = write_data(tmp_path)
    assert fill(path) == 1
    told = capsys.readouterr()
    assert told.out == "features: 5 samples, 0 clips were there, 2 encoded, 2 bad samples\n"
    assert "broken.mp4" in told.err
    assert "data.jsonl:5" in told.err
    assert fill(path) == 1
    assert "2 clips were there, 0 encoded" in capsys.readouterr().out
    strict = FeatureCache.open(tmp_path / "features", *tiny, on_miss="fail")
    processor = copy.copy(tiny.processor)
    processor.max_seconds = recipe.load(path).data.max_seconds
    ask(processor, strict, VideoPart(tmp_path / "dog.mp4"), "Where?")


def test_several_processes_share_the_samples(tmp_path):
    given = recipe.load(write_data(tmp_path))
    shares = [list(command.samples_of(given, rank=rank, world_size=2)) for rank in range(2)]
    assert [len(share) for share in shares] == [3, 2]
    keys = [sample.key for share in shares for sample in share if isinstance(sample, Sample)]
    assert len(set(keys)) == 4


def test_a_recipe_without_a_cache_folder_or_with_a_trained_encoder_is_refused(tmp_path):
    path = write_data(tmp_path)
    with pytest.raises(ConfigurationError, match=r"data\.cache"):
        fill(path, "data.cache=null")
    with pytest.raises(ConfigurationError, match="audio"):
        fill(path, "parts.audio=full")
