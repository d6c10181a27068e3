"""Answers as they come: nothing lost, nothing half, nothing behind a stop text, and no thread left behind."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import threading
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedTokenizerFast, RepetitionPenaltyLogitsProcessor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from favor.chat import Chat, Piece, Prepared
from favor.decoding import RELEASED, Decoding
from favor.errors import CheckpointError, ConfigurationError, MediaNotFoundError, MessageError, PlaceholderError
from favor.messages import AudioPart, ImagePart, VideoPart, assistant, user
from favor.presets.random_weights import byte_tokenizer
from favor.processor import FavorInputs
from tests import small_media
from tests.conftest import Tiny
from tests.toy_tokenizers import byte_fallback_tokenizer

EOS = 2
QUESTION = [user(VideoPart(small_media.video(2.0)), "What happens after the bell rings?")]

ENDLESS = Decoding(max_new_tokens=7000)


@pytest.fixture
def chat(tiny: Tiny) -> Chat:
    return Chat("tiny", *tiny)


class ScriptedModel:
    """Says what it is told to, token by token, as ``generate`` does: streaming, stopping, ending."""

    def __init__(self, *tokens: int, context: int = 1000, error: BaseException | None = None) -> None:
        self.tokens = tokens
        self.error = error
        self.num_generated = 0
        self.device = torch.device("cpu")
        self.generation_config = SimpleNamespace(eos_token_id=EOS)
        self.config = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=context))

    def generate(self, *, input_ids: Tensor, streamer, stopping_criteria, max_new_tokens, eos_token_id, **_) -> Tensor:
        ids = input_ids
        if streamer is not None:
            streamer.put(input_ids)
        for token in self.tokens[:max_new_tokens]:
            ids = torch.cat((ids, torch.tensor([[token]])), dim=1)
            self.num_generated += 1
            if streamer is not None:
                streamer.put(torch.tensor([token]))
            if token in eos_token_id or stopping_criteria(ids, None).all():
                break
        if self.error is not None:
            raise self.error
        return ids


def told(
    model: ScriptedModel, decoding: Decoding | None = None, *, tokenizer: PreTrainedTokenizerFast | None = None
) -> list[Piece]:
    """All pieces of a scripted answer."""
    chat = Chat("scripted", model, SimpleNamespace(tokenizer=tokenizer or byte_tokenizer()))
    inputs = FavorInputs({"input_ids": torch.tensor([[1, 50, 51]])})
    return list(chat.stream(Prepared(inputs, ()), decoding or Decoding(max_new_tokens=500)))


def tokens_of(text: str | bytes) -> list[int]:
    """One token per byte."""
    data = text.encode() if isinstance(text, str) else text
    return byte_tokenizer().convert_tokens_to_ids([bytes_to_unicode()[byte] for byte in data])


def joined(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def generating_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "favor-generate"]


# --- text as it becomes certain -------------------------------------------------------------------------------------


def test_every_token_gives_a_piece_and_the_last_says_why_it_ended():
    pieces = told(ScriptedModel(*tokens_of("Dogs"), EOS))
    assert pieces == [*(Piece(letter, 1) for letter in "Dogs"), Piece("", 1), Piece("", 0, "stop")]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20))
@example("Grüße 😀😀😀中国")
def test_joined_pieces_are_the_whole_answer_and_hold_no_half_characters(text):
    pieces = told(ScriptedModel(*tokens_of(text), EOS))
    assert joined(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece.text for piece in pieces)


def test_a_character_comes_with_its_last_byte():
    pieces = told(ScriptedModel(*tokens_of("a中!")))
    assert [piece.text for piece in pieces] == ["a", "", "", "中", "!", ""]


def test_bytes_that_are_no_character_are_told_as_such_at_the_end():
    pieces = told(ScriptedModel(*tokens_of(b"a\xf0\x90\x80"), EOS))
    assert joined(pieces) == "a\ufffd"


@pytest.mark.parametrize("text", ["😀😀😀😀", "中国中国中国", "ab😀é中\u0301z"])
def test_characters_in_bytes_as_llama_writes_them_come_whole(text):
    pieces = told(ScriptedModel(*(3 + byte for byte in text.encode()), EOS), tokenizer=byte_fallback_tokenizer())
    assert joined(pieces) == text
    assert not any("\ufffd" in piece.text for piece in pieces)


# --- why an answer ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokens, max_new_tokens, reason",
    [
        ([*tokens_of("Dogs"), EOS], 10, "stop"),
        ([*tokens_of("Dogs"), EOS], 5, "stop"),
        ([*tokens_of("Dogs"), EOS], 4, "length"),
        ([EOS], 1, "stop"),
    ],
)
@pytest.mark.parametrize("num_beams", [1, 5])
def test_the_finish_reason_tells_an_end_from_a_limit(tokens, max_new_tokens, reason, num_beams):
    pieces = told(ScriptedModel(*tokens), Decoding(max_new_tokens=max_new_tokens, num_beams=num_beams))
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [reason]
    assert sum(piece.num_tokens for piece in pieces) == min(len(tokens), max_new_tokens)


def test_every_end_token_of_the_model_ends_the_answer():
    model = ScriptedModel(*tokens_of("Dogs"), 7, *tokens_of("never"))
    model.generation_config.eos_token_id = [7, EOS]
    pieces = told(model)
    assert model.num_generated == 5
    assert pieces[-1].finish_reason == "stop"


# --- stop texts -----------------------------------------------------------------------------------------------------


def cut_at_first_stop(text: str, stops: Sequence[str]) -> str:
    """What is left when the text is read letter by letter until it holds a stop text."""
    for length in range(len(text) + 1):
        places = [place for stop in stops if (place := text[:length].find(stop)) >= 0]
        if places:
            return text[: min(places)]
    return text


@settings(max_examples=150, deadline=None)
@given(st.text("abé中", max_size=12), st.lists(st.text("abé中", min_size=1, max_size=4), min_size=1, max_size=3))
@example("xaé", ["aé"])
@example("aab", ["ab"])
@example("abcd", ["abcd", "bc"])
def test_a_stop_text_and_all_behind_it_is_never_told(text, stops):
    model = ScriptedModel(*tokens_of(text), EOS)
    pieces = told(model, Decoding(max_new_tokens=500, stop=tuple(stops)))
    assert joined(pieces) == cut_at_first_stop(text, stops)
    assert pieces[-1].finish_reason == "stop"


def test_a_stop_text_across_tokens_is_cut():
    model = ScriptedModel(*tokens_of("A dog.\n\nUSER: never"))
    assert joined(told(model, Decoding(max_new_tokens=500, stop=("\n\nUSER:",)))) == "A dog."


def test_a_stop_text_ends_the_generating_too(chat):
    stop = chat.answer(QUESTION, Decoding(max_new_tokens=20))[4:7]
    steps: list[int] = []
    handle = chat.model.language_model.register_forward_pre_hook(lambda *_: steps.append(1))
    answer = chat.answer(QUESTION, dataclasses.replace(ENDLESS, stop=(stop,)))
    handle.remove()
    assert stop not in answer
    assert len(answer) <= 4
    assert len(steps) < 1000


def test_what_might_become_a_stop_text_is_told_when_it_does_not():
    pieces = told(ScriptedModel(*tokens_of("ENDE"), EOS), Decoding(max_new_tokens=9, stop=("END!",)))
    assert [piece.text for piece in pieces] == ["", "", "", "END", "", "E"]


def test_beams_stop_at_a_stop_text_too():
    decoding = Decoding(max_new_tokens=50, num_beams=3, stop=("g.",))
    pieces = told(ScriptedModel(*tokens_of("A dog. It"), EOS), decoding)
    assert (joined(pieces), pieces[-1].finish_reason) == ("A do", "stop")


@pytest.mark.parametrize("stop", [("",), ("END", "")])
def test_an_empty_stop_text_is_refused(stop):
    with pytest.raises(ConfigurationError, match="stop"):
        Decoding(stop=stop)


# --- errors and cancelling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [RuntimeError("out of memory"), KeyboardInterrupt(), PlaceholderError("a", allowed="b", advice="c")]
)
def test_an_exception_of_the_generating_thread_reaches_the_reader(error):
    chat = Chat("scripted", ScriptedModel(*tokens_of("Do"), error=error), SimpleNamespace(tokenizer=byte_tokenizer()))
    inputs = FavorInputs({"input_ids": torch.tensor([[1, 50, 51]])})
    pieces = chat.stream(Prepared(inputs, ()), Decoding())
    assert [next(pieces).text, next(pieces).text] == ["D", "o"]
    with pytest.raises(type(error)) as raised:
        next(pieces)
    assert raised.value is error
    assert generating_threads() == []


def test_an_exception_of_the_model_reaches_the_reader(chat):
    prepared = chat.prepare(QUESTION)
    prepared.inputs["input_ids"] = prepared.inputs["input_ids"].clamp(min=1)
    with pytest.raises(PlaceholderError):
        list(chat.stream(prepared, Decoding()))
    assert generating_threads() == []


def test_closing_the_iterator_ends_the_thread(chat):
    pieces = chat.stream(chat.prepare(QUESTION), ENDLESS)
    next(pieces)
    assert len(generating_threads()) == 1
    pieces.close()
    assert generating_threads() == []


def test_setting_the_event_ends_the_answer_and_the_thread(chat):
    cancelled = threading.Event()
    pieces = chat.stream(chat.prepare(QUESTION), ENDLESS, cancelled=cancelled)
    first = list(itertools.islice(pieces, 3))
    cancelled.set()
    rest = list(pieces)
    assert len(first) == 3
    assert len(rest) < 6000
    assert generating_threads() == []


def test_an_event_set_beforehand_leaves_one_token_at_most(chat):
    cancelled = threading.Event()
    cancelled.set()
    pieces = list(chat.stream(chat.prepare(QUESTION), ENDLESS, cancelled=cancelled))
    assert sum(piece.num_tokens for piece in pieces) <= 1


def test_an_answer_that_ends_by_itself_does_not_count_as_cancelled(chat):
    cancelled = threading.Event()
    list(chat.stream(chat.prepare(QUESTION), Decoding(max_new_tokens=3), cancelled=cancelled))
    assert not cancelled.is_set()


# --- decoding -------------------------------------------------------------------------------------------------------


def test_greedy_is_the_models_own_greedy_answer(chat):
    prepared = chat.prepare(QUESTION)
    ids = chat.model.generate(**prepared.inputs, max_new_tokens=20, do_sample=False, pad_token_id=EOS)
    text = chat.processor.decode(ids[0, prepared.num_prompt_tokens :], skip_special_tokens=True)
    assert chat.answer(QUESTION, Decoding(max_new_tokens=20)) == text
    assert joined(list(chat.stream(prepared, Decoding(max_new_tokens=20)))) == text


def test_the_released_decoding_is_five_beams_and_a_penalty_on_new_tokens(chat):
    assert Decoding(max_new_tokens=512, num_beams=5, repetition_penalty=1.5) == RELEASED
    prepared = chat.prepare(QUESTION)
    penalty = RepetitionPenaltyLogitsProcessor(1.5, prompt_ignore_length=prepared.num_prompt_tokens)
    ids = chat.model.generate(
        **prepared.inputs,
        max_new_tokens=12,
        num_beams=5,
        do_sample=False,
        pad_token_id=EOS,
        logits_processor=[penalty],
    )
    text = chat.processor.decode(ids[0, prepared.num_prompt_tokens :], skip_special_tokens=True)
    decoding = Decoding(max_new_tokens=12, num_beams=RELEASED.num_beams, repetition_penalty=RELEASED.repetition_penalty)
    pieces = list(chat.stream(prepared, decoding))
    assert joined(pieces) == text
    assert sum(bool(piece.num_tokens) for piece in pieces) == 1


def test_the_penalty_forbids_the_answers_own_tokens_and_none_of_the_question(chat):
    every_letter = "".join(map(chr, range(32, 127)))
    question = [user(VideoPart(small_media.video(2.0)), every_letter)]
    plain = chat.answer(question, Decoding(max_new_tokens=12))
    strict = chat.answer(question, Decoding(max_new_tokens=12, repetition_penalty=1e6))
    assert plain[0] == strict[0]
    assert len(set(strict)) == len(strict) > len(set(plain))


def test_sampling_with_a_seed_repeats_itself(chat):
    def sample(seed: int) -> str:
        return chat.answer(QUESTION, Decoding(max_new_tokens=20, temperature=1.5, seed=seed))

    assert sample(1) == sample(1) != sample(2)


def test_sampling_without_a_seed_draws_a_fresh_one_whatever_the_global_seed(chat):
    def sample() -> str:
        torch.manual_seed(0)
        return chat.answer(QUESTION, Decoding(max_new_tokens=20, temperature=1.5))

    with torch.random.fork_rng():
        assert len({sample() for _ in range(3)}) > 1


@pytest.mark.parametrize(
    "decoding", [Decoding(), Decoding(temperature=1.0, seed=3), Decoding(temperature=1.0), RELEASED]
)
def test_no_decoding_disturbs_the_global_random_state(chat, decoding):
    before = torch.get_rng_state()
    chat.answer(QUESTION, dataclasses.replace(decoding, max_new_tokens=4))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tiny_nucleus_is_greedy(chat):
    greedy = chat.answer(QUESTION, Decoding(max_new_tokens=12))
    assert chat.answer(QUESTION, Decoding(max_new_tokens=12, temperature=1.0, top_p=1e-6, seed=1)) == greedy


def test_a_models_own_generation_defaults_do_not_leak_into_the_decoding(chat, monkeypatch):
    expected = chat.answer(QUESTION, Decoding(max_new_tokens=12))
    own = copy.deepcopy(chat.model.generation_config)
    own.update(
        do_sample=True, temperature=0.9, top_p=0.6, top_k=20, repetition_penalty=5.0, num_beams=3, max_length=4096
    )
    monkeypatch.setattr(chat.model, "generation_config", own)
    assert chat.answer(QUESTION, Decoding(max_new_tokens=12)) == expected


@pytest.mark.parametrize(
    "setting",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"num_beams": 0},
        {"num_beams": 17},
        {"repetition_penalty": 0.0},
        {"seed": 2**63},
    ],
)
def test_an_impossible_setting_is_refused_by_name_and_value(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ConfigurationError, match=f"{name} is {value}"):
        Decoding(**setting)


# --- preparing ------------------------------------------------------------------------------------------------------


def test_tokens_are_counted_by_kind(chat):
    video, spoken_picture = small_media.video(6.0), ImagePart(small_media.picture(), sound=small_media.sound(6.0))
    parts = (VideoPart(video), AudioPart(small_media.sound(1.5)), ImagePart(small_media.picture()), spoken_picture)
    prepared = chat.prepare([user(*parts, "What?")])
    assert prepared.num_video_tokens == 64
    assert prepared.num_audio_tokens == 32
    assert prepared.num_image_tokens == 96
    assert prepared.num_prompt_tokens == prepared.inputs["input_ids"].shape[1] > 192
    assert [receipt.kind for receipt in prepared.receipts] == ["video", "audio", "image", "image"]


def test_a_conversation_longer_than_the_context_is_refused_with_both_numbers(chat):
    with pytest.raises(MessageError, match=r"takes 9023 tokens.*8192"):
        chat.prepare([user("long " * 1801)])


def test_an_answer_ends_where_the_context_does(chat, monkeypatch):
    prepared = chat.prepare(QUESTION)
    length = prepared.num_prompt_tokens
    monkeypatch.setattr(chat.model.config.text_config, "max_position_embeddings", length + 3)
    pieces = list(chat.stream(chat.prepare(QUESTION), Decoding(max_new_tokens=50)))
    assert sum(piece.num_tokens for piece in pieces) == 3
    assert pieces[-1].finish_reason == "length"
    monkeypatch.setattr(chat.model.config.text_config, "max_position_embeddings", length)
    with pytest.raises(MessageError, match=f"takes {length} tokens.*fewer than the model's {length}"):
        chat.prepare(QUESTION)


def test_a_dialogue_goes_on(chat):
    first = chat.answer(QUESTION, Decoding(max_new_tokens=8))
    second = chat.answer([*QUESTION, assistant(first), user("Why?")], Decoding(max_new_tokens=8))
    assert first
    assert second


def test_a_clip_that_is_not_there_is_told_before_anything_runs(chat):
    with pytest.raises(MediaNotFoundError, match=r"gone\.mp4"):
        chat.prepare([user(VideoPart("somewhere/gone.mp4"), "What?")])


# --- loading --------------------------------------------------------------------------------------------------------


def test_a_preset_and_a_saved_folder_answer_alike(tiny, tmp_path):
    tiny.model.save_pretrained(tmp_path / "saved")
    tiny.processor.save_pretrained(tmp_path / "saved")
    preset, saved = Chat.load("tiny", device="cpu"), Chat.load(str(tmp_path / "saved"), device="cpu")
    assert (preset.name, saved.name) == ("tiny", "saved")
    assert not saved.model.training
    greedy = Decoding(max_new_tokens=12)
    assert preset.answer(QUESTION, greedy) == saved.answer(QUESTION, greedy) == Chat("", *tiny).answer(QUESTION, greedy)


def test_a_name_that_is_neither_preset_nor_folder_suggests_one():
    with pytest.raises(ConfigurationError, match="Did you mean 'tiny'"):
        Chat.load("tyni")


def test_a_folder_without_a_model_is_refused_without_its_path(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="'empty' is not a model folder") as raised:
        Chat.load(str(tmp_path / "empty"))
    assert str(tmp_path) not in str(raised.value)
