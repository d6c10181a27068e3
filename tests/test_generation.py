"""The model as Hugging Face sees it: what it generates, how often it looks at a clip, and what changes an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

from favor.chat import Chat
from favor.configuration import FavorConfig
from favor.decoding import Decoding
from favor.errors import PlaceholderError
from favor.messages import AudioPart, ImagePart, Message, VideoPart, assistant, system, user
from favor.modeling import MEDIA_INPUTS, FavorForConditionalGeneration
from favor.processor import FavorProcessor
from tests import small_media
from tests.conftest import Tiny
from tests.toy_tokenizers import chatml_tokenizer

SOFT, BOS, EOS = 0, 1, 2

VIDEO = VideoPart(small_media.video(2.0))
OTHER_VIDEO = VideoPart(small_media.video(2.0, seed=1))
SILENT = VideoPart(small_media.video(2.0, has_sound=False))
LONG_VIDEO = VideoPart(small_media.video(6.0))
SOUND = AudioPart(small_media.sound(1.5))
PICTURE = ImagePart(small_media.picture())
SPOKEN_PICTURE = ImagePart(small_media.picture(), sound=small_media.sound(6.0))

MIXED = [
    [user("What is one and one?")],
    [user(SOUND, "What?")],
    [user(LONG_VIDEO, PICTURE, "And here, what happens after the bell?")],
    [user(SILENT, "Why?")],
    [user(SPOKEN_PICTURE)],
    [user(VIDEO, "What?"), assistant("A dog."), user("Why?")],
]


def answer(tiny: Tiny, messages: list[Message] | list[list[Message]], *, num_tokens: int = 8, **options) -> Tensor:
    """(B, num_tokens): exactly so many new tokens."""
    inputs = tiny.processor(messages)
    options = {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens, "do_sample": False, **options}
    output = tiny.model.generate(**inputs, pad_token_id=EOS, **options)
    return output[:, inputs["input_ids"].shape[1] :]


def logits(tiny: Tiny, messages: list[Message] | list[list[Message]]) -> Tensor:
    with torch.no_grad():
        return tiny.model(**tiny.processor(messages)).logits


@contextmanager
def counted_calls(model: FavorForConditionalGeneration) -> Iterator[Counter[str]]:
    """How often each part is run."""
    calls: Counter[str] = Counter()
    parts = {"vision": model.vision, "audio": model.audio, "connector": model.connector, "llm": model.language_model}
    handles = [
        part.register_forward_pre_hook(lambda *_, name=name: calls.update([name])) for name, part in parts.items()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


# --- one conversation or many ---------------------------------------------------------------------------------------


def test_a_batch_of_mixed_conversations_answers_as_each_alone(tiny):
    together = answer(tiny, MIXED, num_tokens=12)
    for row, conversation in zip(together, MIXED, strict=True):
        assert torch.equal(row, answer(tiny, conversation, num_tokens=12)[0])


def test_the_logits_of_a_batch_are_close_to_those_of_each_alone(tiny):
    together = logits(tiny, MIXED)[:, -1]
    alone = torch.cat([logits(tiny, conversation)[:, -1] for conversation in MIXED])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_beams_of_a_batch_are_those_of_each_alone(tiny):
    together = answer(tiny, MIXED, num_beams=3)
    for row, conversation in zip(together, MIXED, strict=True):
        assert torch.equal(row, answer(tiny, conversation, num_beams=3)[0])


def test_enough_beams_find_the_likeliest_answer(tiny):
    inputs = tiny.processor(MIXED[2])
    allowed = sorted(set(range(259)) - {*tiny.model.generation_config.suppress_tokens, EOS})
    prompts = inputs["input_ids"].repeat(len(allowed), 1)
    sequences = torch.cat((prompts, torch.tensor(allowed)[:, None]), dim=1)
    with torch.no_grad():
        clips = tiny.model.get_soft_tokens(**{name: inputs[name] for name in MEDIA_INPUTS})
        clips = clips._replace(soft_tokens=clips.soft_tokens.repeat(len(allowed), 1))
        scores = tiny.model(inputs_embeds=tiny.model.embed(sequences, clips)).logits[:, -2:].log_softmax(-1)
    first = scores[0, 0, allowed]  # all rows are equal up to here
    pairs = first[:, None] + scores[:, 1][:, allowed]  # (first token, second token)
    best = divmod(int(pairs.argmax()), len(allowed))
    beam = answer(tiny, MIXED[2], num_tokens=2, num_beams=len(allowed))
    assert beam.tolist() == [[allowed[place] for place in best]]


def test_generating_step_by_step_agrees_with_reading_everything_at_once(tiny):
    inputs = tiny.processor(MIXED[2])
    length = inputs["input_ids"].shape[1]
    output = tiny.model.generate(
        **inputs, max_new_tokens=6, min_new_tokens=6, pad_token_id=EOS, output_logits=True, return_dict_in_generate=True
    )
    whole = {**inputs, "input_ids": output.sequences, "attention_mask": torch.ones_like(output.sequences)}
    with torch.no_grad():
        at_once = tiny.model(**whole).logits[0, length - 1 : -1]
    torch.testing.assert_close(torch.cat(output.logits), at_once, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_tokens", [1, 7])
def test_an_answer_has_at_most_the_tokens_asked_for(tiny, num_tokens):
    inputs = tiny.processor(MIXED[5])
    output = tiny.model.generate(**inputs, max_new_tokens=num_tokens, min_new_tokens=num_tokens, pad_token_id=EOS)
    assert output.shape == (1, inputs["input_ids"].shape[1] + num_tokens)
    assert torch.equal(output[:, :-num_tokens], inputs["input_ids"])


def test_sampling_follows_the_seed(tiny):
    def sample(seed: int) -> list[int]:
        torch.manual_seed(seed)
        return answer(tiny, MIXED[1], num_tokens=16, do_sample=True, top_k=0)[0].tolist()

    with torch.random.fork_rng():
        assert sample(1) == sample(1) != sample(2)


# --- clips are looked at once, and only clips -----------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"num_beams": 4}, {"num_return_sequences": 3, "do_sample": True}])
def test_clips_are_encoded_once_before_the_first_step(tiny, options):
    with counted_calls(tiny.model) as calls:
        answer(tiny, MIXED, num_tokens=6, **options)
    assert (calls["vision"], calls["audio"], calls["connector"]) == (1, 1, 1)
    assert calls["llm"] == 6


def test_text_alone_calls_no_encoder(tiny):
    with counted_calls(tiny.model) as calls:
        answer(tiny, [user("What?"), assistant("A dog."), user("Why?")])
        logits(tiny, [user("What?")])
    assert calls.keys() == {"llm"}


@pytest.mark.parametrize("part, called", [(SOUND, {"audio"}), (SILENT, {"vision"}), (PICTURE, {"vision"})])
def test_a_missing_stream_calls_no_encoder(tiny, part, called):
    with counted_calls(tiny.model) as calls:
        logits(tiny, [user(part)])
    assert calls.keys() == {"llm", "connector"} | called


def test_a_generated_placeholder_is_no_clip(tiny):
    class OnlyPlaceholders(LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([SOFT]), 0.0)

    for conversation in (MIXED[0], MIXED[1]):
        tokens = answer(
            tiny, conversation, suppress_tokens=None, logits_processor=LogitsProcessorList([OnlyPlaceholders()])
        )
        assert tokens.tolist() == [[SOFT] * 8]


# --- placeholders ---------------------------------------------------------------------------------------------------


def test_too_few_placeholders_are_refused_with_both_numbers(tiny):
    inputs = tiny.processor([user(LONG_VIDEO, "What?")])
    place = inputs["input_ids"][0].tolist().index(SOFT)
    inputs["input_ids"][0, place] = 77
    for run in (tiny.model, tiny.model.generate):
        with pytest.raises(PlaceholderError, match=r"63 placeholders.*64 soft tokens"):
            run(**inputs)


def test_placeholders_without_a_clip_are_refused_with_both_numbers(tiny):
    inputs = tiny.processor([user(VIDEO, "What?")])
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    for run in (tiny.model, tiny.model.generate):
        with pytest.raises(PlaceholderError, match=r"32 placeholders.*0 soft tokens"):
            run(**text)


def test_a_clip_without_placeholders_is_refused_with_both_numbers(tiny):
    inputs = tiny.processor([user(VIDEO, "What?")])
    inputs["input_ids"][inputs["input_ids"] == SOFT] = 77
    with pytest.raises(PlaceholderError, match=r"0 placeholders.*32 soft tokens"):
        tiny.model(**inputs)


def test_soft_tokens_stand_in_the_places_of_their_placeholders(tiny):
    inputs = tiny.processor([[user("Hi?")], [user(VIDEO, "What?"), assistant("x"), user(SOUND, "And this?")]])
    with torch.no_grad():
        clips = tiny.model.get_soft_tokens(**{name: inputs[name] for name in MEDIA_INPUTS})
        embeds = tiny.model.embed(inputs["input_ids"], clips)
        words = tiny.model.get_input_embeddings()(inputs["input_ids"])
    is_soft = inputs["input_ids"] == SOFT
    assert torch.equal(embeds[is_soft], clips.soft_tokens)
    assert torch.equal(embeds[~is_soft], words[~is_soft])


# --- what an answer depends on --------------------------------------------------------------------------------------


def assert_differ(one: Tensor, other: Tensor) -> None:
    assert (one - other).abs().max() > 1e-3


def test_swapped_clips_are_told_apart(tiny):
    there = logits(tiny, [user(VIDEO, OTHER_VIDEO, "Which?")])
    back = logits(tiny, [user(OTHER_VIDEO, VIDEO, "Which?")])
    assert_differ(there[:, -1], back[:, -1])


def test_clips_of_two_turns_are_told_apart(tiny):
    there = logits(tiny, [user(VIDEO, "What?"), assistant("A dog."), user(OTHER_VIDEO, "And now?")])
    back = logits(tiny, [user(OTHER_VIDEO, "What?"), assistant("A dog."), user(VIDEO, "And now?")])
    assert_differ(there[:, -1], back[:, -1])


def test_the_question_changes_what_is_seen(tiny):
    def seen(question: str) -> Tensor:
        inputs = tiny.processor([user(VIDEO, question)])
        names = ("pixel_values", "num_frames", "instruction_ids", "instruction_mask")
        with torch.no_grad():
            return tiny.model.get_visual_features(*(inputs[name] for name in names))

    assert torch.equal(seen("What?"), seen("What?"))
    assert_differ(seen("What?"), seen("Where?"))


def test_each_frame_is_seen_with_its_own_clips_question(tiny):
    names = ("pixel_values", "num_frames", "instruction_ids", "instruction_mask")
    both = tiny.processor([[user(PICTURE, "What is this picture of?")], [user(SILENT, "Why?")]])
    alone = tiny.processor([user(SILENT, "Why?")])
    with torch.no_grad():
        features = [tiny.model.get_visual_features(*(inputs[name] for name in names)) for inputs in (both, alone)]
    torch.testing.assert_close(features[0][1:], features[1], atol=1e-5, rtol=1e-5)


def test_sound_and_picture_both_change_the_answer(tiny):
    heard = logits(tiny, [user(VideoPart(SILENT.source, sound=SOUND.source), "What?")])[:, -1]
    other = logits(tiny, [user(VideoPart(SILENT.source, sound=small_media.sound(1.5, seed=1)), "What?")])[:, -1]
    unheard = logits(tiny, [user(SILENT, "What?")])[:, -1]
    seen = logits(tiny, [user(VideoPart(OTHER_VIDEO.source, sound=SOUND.source), "What?")])[:, -1]
    for different in (other, unheard, seen):
        assert_differ(heard, different)


def test_a_second_turn_adds_to_the_first_and_changes_nothing_before_it(tiny):
    first = logits(tiny, [user(VIDEO, "What?")])
    second = logits(tiny, [user(VIDEO, "What?"), assistant("A dog."), user("Why?")])
    torch.testing.assert_close(second[:, : first.shape[1]], first, atol=1e-4, rtol=1e-4)


def test_the_width_of_the_padding_changes_no_answer(tiny):
    narrow, wide = tiny.processor([MIXED[1], MIXED[0]]), tiny.processor([MIXED[1], MIXED[2]])
    outputs = [
        tiny.model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, pad_token_id=EOS) for inputs in (narrow, wide)
    ]
    assert torch.equal(outputs[0][0, -6:], outputs[1][0, -6:])


# --- loss -----------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_labelled_tokens_and_the_weighted_diversity(tiny):
    inputs = tiny.processor(MIXED[2:4], ["A dog.", "It is raining."])
    with torch.no_grad():
        output = tiny.model(**inputs)
    by_hand = cross_entropy(output.logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(output.language_loss, by_hand)
    weight = tiny.model.config.connector_config.diversity_weight
    torch.testing.assert_close(output.loss, by_hand + weight * output.diversity_loss)
    assert output.diversity_loss > 0


def test_text_alone_has_a_loss_without_diversity(tiny):
    with torch.no_grad():
        output = tiny.model(**tiny.processor([user("What?")], "A dog."))
    assert output.diversity_loss is None
    assert torch.equal(output.loss, output.language_loss)


def test_output_comes_as_a_tuple_on_demand(tiny):
    inputs = tiny.processor([user(SOUND, "What?")])
    with torch.no_grad():
        named, plain = tiny.model(**inputs), tiny.model(**inputs, return_dict=False)
    assert isinstance(plain, tuple)
    assert torch.equal(plain[0], named.logits)


# --- the Hugging Face surface ---------------------------------------------------------------------------------------


def test_the_auto_classes_know_the_model(tiny):
    settings = tiny.model.config.to_dict()
    config = AutoConfig.for_model(**settings)
    assert type(config) is FavorConfig
    assert config.to_dict() == settings
    assert type(AutoModelForCausalLM.from_config(config)) is FavorForConditionalGeneration


def test_word_embeddings_are_the_language_models(tiny):
    assert tiny.model.get_input_embeddings() is tiny.model.language_model.get_input_embeddings()
    assert tiny.model.get_output_embeddings() is tiny.model.language_model.get_output_embeddings()


# --- a language model with a chat template --------------------------------------------------------------------------


def test_a_language_model_with_a_chat_template_is_asked_and_taught_in_its_own_words(tiny):
    tokenizer = chatml_tokenizer()
    settings = tiny.model.config.to_dict()
    settings["text_config"] |= {"vocab_size": len(tokenizer)}
    soft = tokenizer.convert_tokens_to_ids("<|soft|>")
    config = FavorConfig(**{**settings, "prompt_format": "chat_template", "placeholder_token_id": soft})
    model = FavorForConditionalGeneration(config).eval()
    parts = ("image_processor", "feature_extractor", "qformer_tokenizer")
    processor = FavorProcessor.for_config(
        config, tokenizer=tokenizer, **{part: getattr(tiny.processor, part) for part in parts}
    )
    conversation = [system("Be brief."), user(LONG_VIDEO, "What?"), assistant("A dog."), user(SOUND, "Why?")]

    asked = processor(conversation)
    text = tokenizer.decode(asked["input_ids"][0])
    assert text.count("<|soft|>") == 96
    assert text.replace("<|soft|>", "") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<Img></Img>\nWhat?<|im_end|>\n"
        "<|im_start|>assistant\nA dog.<|im_end|>\n<|im_start|>user\n<Img></Img>\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert Chat("", model, processor).answer(conversation, Decoding(max_new_tokens=4)) is not None

    taught = processor([conversation, [user("Hi?")]], ["It runs.", "Yes."])
    with torch.no_grad():
        assert model(**taught).loss > 0
    spoken = [tokenizer.decode(row[row != -100]) for row in taught["labels"]]
    assert spoken == ["A dog.<|im_end|>It runs.<|im_end|>", "Yes.<|im_end|>"]
