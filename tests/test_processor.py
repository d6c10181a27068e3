"""The one door from messages to tensors: what comes out of it, to the last number."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper
from PIL import Image
from transformers import AutoProcessor

from favor.clips import ClipReader
from favor.errors import MediaLimitError, MessageError, UnreadableMediaError
from favor.media import SAMPLE_RATE_HZ, load_audio, load_video
from favor.messages import AudioPart, ImagePart, Message, VideoPart, assistant, system, user
from favor.modeling import MEDIA_INPUTS
from favor.presets.random_weights import byte_tokenizer
from favor.processor import MAX_INSTRUCTION_TOKENS, FavorProcessor
from favor.prompt import IGNORED
from tests import small_media
from tests.conftest import Tiny

SOFT, BOS, EOS = 0, 1, 2

VIDEO = VideoPart(small_media.video(2.0))
SILENT = VideoPart(small_media.video(2.0, has_sound=False))
SOUND = AudioPart(small_media.sound(1.5))
PICTURE = ImagePart(small_media.picture())
SPOKEN_PICTURE = ImagePart(small_media.picture(), sound=small_media.sound(6.0))
LONG_VIDEO = VideoPart(small_media.video(6.0))


@pytest.fixture
def processor(tiny: Tiny) -> FavorProcessor:
    """A processor of one's own, whose options may be changed."""
    return copy.deepcopy(tiny.processor)


def shapes(inputs) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in inputs.items()}


def soft_tokens_made(tiny: Tiny, inputs) -> int:
    """Soft tokens that the model itself makes of the inputs."""
    with torch.no_grad():
        return len(
            tiny.model.get_soft_tokens(**{name: inputs[name] for name in MEDIA_INPUTS if name in inputs}).soft_tokens
        )


# --- shapes, types and counts ---------------------------------------------------------------------------------------

DTYPES = {
    "input_ids": torch.int64,
    "attention_mask": torch.int64,
    "labels": torch.int64,
    "pixel_values": torch.float32,
    "num_frames": torch.int64,
    "input_features": torch.float32,
    "num_audio_steps": torch.int64,
    "is_image": torch.bool,
    "instruction_ids": torch.int64,
    "instruction_mask": torch.int64,
}


@pytest.mark.parametrize(
    "parts, num_frames, num_audio_steps, is_image, num_soft_tokens",
    [
        ([VIDEO], [4], [4], [False], [32]),
        ([SILENT], [4], [0], [False], [32]),
        ([VideoPart(VIDEO.source, use_audio=False)], [4], [0], [False], [32]),
        ([VideoPart(SILENT.source, sound=small_media.sound(6.0))], [4], [12], [False], [64]),
        ([SOUND], [0], [3], [False], [32]),
        ([AudioPart(VIDEO.source)], [0], [4], [False], [32]),
        ([PICTURE], [1], [0], [True], [32]),
        ([SPOKEN_PICTURE], [1], [12], [True], [64]),
        ([LONG_VIDEO], [12], [12], [False], [64]),
        ([LONG_VIDEO, SOUND, PICTURE], [12, 0, 1], [12, 3, 0], [False, False, True], [64, 32, 32]),
    ],
    ids=[
        "video",
        "video without sound",
        "sound left out",
        "video with another sound",
        "sound alone",
        "sound of a video",
        "picture",
        "picture with sound",
        "two windows",
        "three clips",
    ],
)
def test_every_kind_of_clip_has_the_promised_shapes(
    tiny, parts, num_frames, num_audio_steps, is_image, num_soft_tokens
):
    inputs = tiny.processor([user(*parts, "What?")])
    num_chunks = sum(steps > 0 for steps in num_audio_steps)
    length = inputs["input_ids"].shape[1]
    expected = {
        "input_ids": (1, length),
        "attention_mask": (1, length),
        "num_frames": (len(parts),),
        "num_audio_steps": (len(parts),),
        "is_image": (len(parts),),
        "instruction_ids": (len(parts), 7),
        "instruction_mask": (len(parts), 7),
    }
    if sum(num_frames):
        expected["pixel_values"] = (sum(num_frames), 3, 28, 28)
    if num_chunks:
        expected["input_features"] = (num_chunks, 80, 3000)
    assert shapes(inputs) == expected
    assert {name: tensor.dtype for name, tensor in inputs.items()} == {name: DTYPES[name] for name in expected}
    assert inputs["num_frames"].tolist() == num_frames
    assert inputs["num_audio_steps"].tolist() == num_audio_steps
    assert inputs["is_image"].tolist() == is_image
    assert [receipt.num_soft_tokens for receipt in inputs.receipts[0]] == num_soft_tokens
    assert int((inputs["input_ids"] == SOFT).sum()) == sum(num_soft_tokens) == soft_tokens_made(tiny, inputs)


def test_the_receipts_name_the_kind_and_count_what_was_used(tiny):
    (receipts,) = tiny.processor([user(LONG_VIDEO, SOUND, SPOKEN_PICTURE, "What?")]).receipts
    assert [receipt.kind for receipt in receipts] == ["video", "audio", "image"]
    assert [receipt.num_steps for receipt in receipts] == [12, 3, 12]
    assert [receipt.num_windows for receipt in receipts] == [2, 1, 2]
    assert receipts[0].media.video.num_frames == 12
    assert receipts[1].media.audio.seconds == pytest.approx(1.5)


def test_a_batch_of_mixed_conversations_packs_all_clips(tiny):
    conversations = [
        [user("What is one and one?")],
        [user(SOUND, "What?")],
        [user(LONG_VIDEO, PICTURE, "And here, what happens after the bell?")],
        [user(VIDEO, "What?"), assistant("A dog."), user(SILENT, "Why?")],
    ]
    inputs = tiny.processor(conversations)
    assert inputs["num_frames"].tolist() == [0, 12, 1, 4, 4]
    assert inputs["num_audio_steps"].tolist() == [3, 12, 0, 4, 0]
    assert shapes(inputs)["pixel_values"] == (21, 3, 28, 28)
    assert shapes(inputs)["input_features"] == (3, 80, 3000)
    assert [len(receipts) for receipts in inputs.receipts] == [0, 1, 2, 2]
    for row, receipts in zip(inputs["input_ids"], inputs.receipts, strict=True):
        assert int((row == SOFT).sum()) == sum(receipt.num_soft_tokens for receipt in receipts)
    assert soft_tokens_made(tiny, inputs) == int((inputs["input_ids"] == SOFT).sum())
    for row, conversation in enumerate(conversations):
        alone = tiny.processor(conversation)["input_ids"][0]
        own = inputs["attention_mask"][row].bool()
        assert torch.equal(inputs["input_ids"][row][own], alone)


@pytest.mark.parametrize("align", ["sync", "concat"])
@pytest.mark.parametrize("length_rule", ["true", "padded"])
def test_the_processor_counts_as_the_model_does_whatever_the_rules(tiny, align, length_rule):
    model, processor = copy.deepcopy(tiny)
    for rules in (model.config.connector_config, processor):
        rules.align, rules.length_rule = align, length_rule
    clips = [LONG_VIDEO, SILENT, SOUND, PICTURE, SPOKEN_PICTURE]
    for parts in (*([clip] for clip in clips), clips):
        inputs = processor([user(*parts, "What?")])
        made = soft_tokens_made(Tiny(model, processor), inputs)
        assert made == int((inputs["input_ids"] == SOFT).sum())
        assert made == sum(receipt.num_soft_tokens for receipt in inputs.receipts[0])


def test_text_alone_has_no_media_and_decodes_none(tiny, monkeypatch):
    monkeypatch.setattr(ClipReader, "load", lambda *_, **__: pytest.fail("a clip was decoded"))
    inputs = tiny.processor([system("Be brief."), user("What?")])
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert inputs.receipts == ((),)


def test_inputs_move_between_devices_and_keep_their_receipts(tiny):
    inputs = tiny.processor([user(SOUND, "What?")])
    moved = inputs.to("cpu")
    assert moved.receipts == inputs.receipts != ()


def test_inputs_keep_their_receipts_on_the_way_out_of_another_process(tiny):
    inputs = tiny.processor([user(SOUND, "What?")])
    for again in (copy.deepcopy(inputs), pickle.loads(pickle.dumps(inputs))):
        assert again.receipts == inputs.receipts
        assert torch.equal(again["input_features"], inputs["input_features"])


# --- padding and labels ---------------------------------------------------------------------------------------------


def test_questions_are_padded_on_the_left_and_lessons_on_the_right(tiny):
    short, long = [user("Why?")], [user("What happens after the bell rings?")]
    asked = tiny.processor([short, long])
    fill = int((asked["attention_mask"][0] == 0).sum())
    assert fill == asked["input_ids"].shape[1] - tiny.processor(short)["input_ids"].shape[1] > 0
    assert asked["attention_mask"][0].tolist() == [0] * fill + [1] * (asked["input_ids"].shape[1] - fill)
    assert asked["input_ids"][0, fill] == BOS

    taught = tiny.processor([short, long], ["Run.", "Run."])
    assert taught["attention_mask"][0].tolist() == [1] * (taught["input_ids"].shape[1] - fill) + [0] * fill
    assert taught["input_ids"][0, 0] == BOS
    assert taught["labels"][0, -fill:].tolist() == [IGNORED] * fill


def test_padding_is_never_a_placeholder(processor):
    processor.tokenizer.pad_token = "<unk>"
    inputs = processor([[user("Why?")], [user("What happens?")]])
    assert (inputs["input_ids"] != SOFT).all()


def test_labels_are_the_answers_and_their_end_tokens_alone(tiny):
    conversation = [system("Be brief."), user(VIDEO, "What?"), assistant("A dog."), user("Why?")]
    inputs = tiny.processor([conversation, [user("Hi?")]], ["It is.", "Yes."])
    labels, ids = inputs["labels"], inputs["input_ids"]
    assert shapes(inputs)["labels"] == shapes(inputs)["input_ids"]
    is_target = labels != IGNORED
    assert torch.equal(labels[is_target], ids[is_target])
    spoken = [tiny.processor.decode(row[mask]) for row, mask in zip(ids, is_target, strict=True)]
    assert spoken == ["A dog.</s>It is.</s>", "Yes.</s>"]
    assert not is_target[ids == SOFT].any()
    assert not is_target[inputs["attention_mask"] == 0].any()


def test_one_answer_serves_one_conversation_and_every_one_of_a_batch(tiny):
    alone = tiny.processor([user("Why?")], "Run.")
    both = tiny.processor([[user("Why?")], [user("Why?")]], "Run.")
    for row in both["labels"]:
        assert torch.equal(row, alone["labels"][0])


def test_too_few_answers_are_refused_with_both_numbers(tiny):
    with pytest.raises(MessageError, match="2 conversations and 1 answers"):
        tiny.processor([[user("Why?")], [user("What?")]], ["Run."])


@pytest.mark.parametrize("messages", [[], [[]]])
def test_no_message_is_refused(tiny, messages):
    with pytest.raises(MessageError):
        tiny.processor(messages)


# --- the question that the image Q-Former reads ---------------------------------------------------------------------


def read_questions(processor: FavorProcessor, *messages: Message) -> list[str]:
    """The instruction of each clip, back from its tokens (the tiny tokenizer writes letters apart)."""
    rows = processor(list(messages))["instruction_ids"]
    texts = processor.qformer_tokenizer.batch_decode(rows, skip_special_tokens=True)
    return [text.replace(" ", "").replace("##", "") for text in texts]


def test_each_clip_is_read_with_its_own_question(tiny):
    assert read_questions(tiny.processor, user(VIDEO, "What?"), assistant("x"), user(SOUND, "Why?")) == [
        "what?",
        "why?",
    ]


def test_a_clip_without_text_is_read_with_the_next_question(tiny):
    assert read_questions(tiny.processor, user(VIDEO), assistant("I see."), user("Why?")) == ["why?"]


def test_a_clip_without_any_question_is_read_with_none(tiny):
    assert read_questions(tiny.processor, user(VIDEO)) == [""]


def test_a_later_turn_changes_nothing_of_a_clip(tiny):
    first = tiny.processor([user(VIDEO, "What?")])
    later = tiny.processor([user(VIDEO, "What?"), assistant("A dog."), user("Why is it running away?")])
    for name in MEDIA_INPUTS:
        assert torch.equal(first[name], later[name])


def test_a_long_question_loses_its_beginning(tiny):
    inputs = tiny.processor([user(PICTURE, "a " * 300 + "b " * 200)])
    ids, tokenizer = inputs["instruction_ids"][0].tolist(), tiny.processor.qformer_tokenizer
    assert len(ids) == MAX_INSTRUCTION_TOKENS
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert tokenizer.convert_ids_to_tokens(ids).count("b") == 200


# --- pixels and sound, by hand --------------------------------------------------------------------------------------

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])


def lavis_pixels(picture: Image.Image, size: int) -> np.ndarray:
    """(3, size, size): resized bicubic without keeping the aspect, scaled to [0, 1], CLIP's mean and deviation."""
    pixels = np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)
    return ((pixels / 255 - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(64, 48), (20, 31), (224, 224), (28, 28)])
def test_a_picture_is_prepared_as_lavis_does(tiny, size):
    data = small_media.picture(size=size)
    ours = tiny.processor([user(ImagePart(data))])["pixel_values"][0].numpy()
    np.testing.assert_allclose(ours, lavis_pixels(Image.open(io.BytesIO(data)), 28), atol=1e-5)


def test_the_frames_of_a_video_are_prepared_like_pictures(tiny):
    frames = load_video(VIDEO.source, options=tiny.processor.reader.options).frames
    ours = tiny.processor([user(VIDEO)])["pixel_values"].numpy()
    by_hand = np.stack([lavis_pixels(Image.fromarray(frame), 28) for frame in frames])
    np.testing.assert_allclose(ours, by_hand, atol=1e-5)


def whisper_features(waveform: np.ndarray) -> np.ndarray:
    """(80, 3000), by the openai-whisper package."""
    return whisper.log_mel_spectrogram(whisper.pad_or_trim(waveform), n_mels=80).numpy()


@pytest.mark.parametrize("seconds", [0.1, 1.5, 29.99, 30.0])
def test_sound_is_prepared_as_whisper_does(tiny, seconds):
    data = small_media.sound(seconds)
    features = tiny.processor([user(AudioPart(data))])["input_features"]
    np.testing.assert_allclose(features[0], whisper_features(load_audio(data).waveform), atol=1e-4)


def test_sound_over_30_s_becomes_two_chunks_each_prepared_alone(tiny):
    data = small_media.sound(31.0)
    inputs = tiny.processor([user(AudioPart(data))])
    assert inputs["num_audio_steps"].tolist() == [62]
    assert shapes(inputs)["input_features"] == (2, 80, 3000)
    waveform = load_audio(data).waveform
    half = 30 * SAMPLE_RATE_HZ
    for chunk, samples in zip(inputs["input_features"], (waveform[:half], waveform[half:]), strict=True):
        np.testing.assert_allclose(chunk, whisper_features(samples), atol=1e-4)
    assert soft_tokens_made(tiny, inputs) == inputs.receipts[0][0].num_soft_tokens == 7 * 32


def test_a_breath_over_30_s_does_not_open_a_second_chunk(tiny):
    inputs = tiny.processor([user(AudioPart(small_media.sound(30.03)))])
    assert inputs["num_audio_steps"].tolist() == [60]
    assert shapes(inputs)["input_features"] == (1, 80, 3000)


def test_clips_of_a_batch_do_not_change_each_others_features(tiny):
    quiet, loud = AudioPart(small_media.sound(1.5, seed=1)), SOUND
    together = tiny.processor([[user(quiet)], [user(loud)]])["input_features"]
    for features, part in zip(together, (quiet, loud), strict=True):
        assert torch.equal(features, tiny.processor([user(part)])["input_features"][0])


# --- options --------------------------------------------------------------------------------------------------------


def test_a_clip_over_the_longest_is_refused_or_cut(processor):
    processor.max_seconds = 1.0
    with pytest.raises(MediaLimitError, match=r"2\.\d s.*1\.0 s"):
        processor([user(VIDEO)])
    processor.when_too_long = "cut"
    inputs = processor([user(VIDEO)])
    assert inputs["num_frames"].tolist() == inputs["num_audio_steps"].tolist() == [2]
    assert inputs.receipts[0][0].media.skipped


def test_decoding_tells_its_progress(tiny):
    told: list[tuple[float, float]] = []
    tiny.processor([user(LONG_VIDEO)], progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] == pytest.approx(6.0, abs=0.1)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_an_error_names_the_clip_as_its_sender_does(tiny):
    with pytest.raises(UnreadableMediaError, match=r"holiday\.mp4"):
        tiny.processor([user(VideoPart(b"no video at all", name="holiday.mp4"))])


# --- saved and read again -------------------------------------------------------------------------------------------

OPTIONS = {
    "placeholder_token_id": 5,
    "prompt_format": "chat_template",
    "num_query_tokens": 16,
    "window_steps": 5,
    "align": "concat",
    "length_rule": "padded",
    "frame_rule": "first_last",
    "max_seconds": 42.0,
    "when_too_long": "cut",
}


def test_every_option_is_saved_and_read_again(processor, tmp_path):
    for name, value in OPTIONS.items():
        assert getattr(processor, name) != value
        setattr(processor, name, value)
    processor.save_pretrained(tmp_path)
    for read in (FavorProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(read) is FavorProcessor
        assert {name: getattr(read, name) for name in OPTIONS} == OPTIONS
        assert read.reader == processor.reader


def test_both_tokenizers_are_saved_and_read_again(processor, tmp_path):
    processor.tokenizer.chat_template = "{{ messages }}"
    processor.save_pretrained(tmp_path)
    read = AutoProcessor.from_pretrained(tmp_path)
    assert read.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert read.tokenizer.chat_template == "{{ messages }}"
    assert read.qformer_tokenizer.get_vocab() == processor.qformer_tokenizer.get_vocab()
    assert len(read.qformer_tokenizer) != len(read.tokenizer)
    assert read.qformer_tokenizer.bos_token == "[DEC]"


def test_a_read_processor_makes_the_same_tensors(tiny, tmp_path):
    tiny.processor.save_pretrained(tmp_path)
    read = AutoProcessor.from_pretrained(tmp_path)
    conversation = [user(LONG_VIDEO, PICTURE, "x " * 400), assistant("</s>"), user(SOUND)]
    before, after = tiny.processor(conversation, "Yes."), read(conversation, "Yes.")
    assert set(before) == set(after)
    for name in before:
        assert torch.equal(before[name], after[name]), name
    assert before.receipts == after.receipts


def test_an_unknown_option_is_refused(tiny):
    parts = [getattr(tiny.processor, name) for name in ("image_processor", "feature_extractor", "tokenizer")]
    with pytest.raises(TypeError, match="windw_steps"):
        FavorProcessor(*parts, tiny.processor.qformer_tokenizer, windw_steps=5)


def test_the_processor_fits_the_configuration(tiny):
    connector = tiny.model.config.connector_config
    for name in ("num_query_tokens", "window_steps", "align", "length_rule"):
        assert getattr(tiny.processor, name) == getattr(connector, name)
    assert tiny.processor.placeholder_token_id == tiny.model.config.placeholder_token_id


def test_the_names_of_the_inputs_are_known(tiny):
    assert set(tiny.processor.model_input_names) == {"input_ids", "attention_mask", *MEDIA_INPUTS}


def test_ids_become_text_again(tiny):
    ids = byte_tokenizer()("Grüße!").input_ids
    assert tiny.processor.decode(ids) == "Grüße!"
    assert tiny.processor.batch_decode([ids, ids]) == ["Grüße!"] * 2


def test_a_path_serves_as_well_as_bytes(tiny, tmp_path: Path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(VIDEO.source)
    from_path, from_bytes = tiny.processor([user(VideoPart(path))]), tiny.processor([user(VIDEO)])
    assert torch.equal(from_path["pixel_values"], from_bytes["pixel_values"])
    assert from_path.receipts[0][0].media.name == "clip.mp4"
