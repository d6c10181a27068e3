"""Conversations and their layout: the words of FAVOR's training, whoever writes what."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from favor.errors import ConfigurationError, MessageError
from favor.messages import AudioPart, ImagePart, Message, TextPart, VideoPart, assistant, system, user
from favor.presets.random_weights import byte_tokenizer
from favor.prompt import (
    IGNORED,
    ClipPiece,
    EncodedPrompt,
    TextPiece,
    TokenPiece,
    clips_of,
    encode,
    instruction_of_each_clip,
    normalise,
    pieces_of,
)
from tests.toy_tokenizers import chatml_tokenizer

UNK, BOS, EOS = 0, 1, 2
SOFT = UNK
"""The placeholder of one soft token."""

A, B, C = VideoPart("a.mp4"), AudioPart("b.wav"), ImagePart("c.png")


@pytest.fixture(scope="module")
def letters() -> PreTrainedTokenizerFast:
    """One token per byte."""
    return byte_tokenizer()


@pytest.fixture(scope="module")
def chatml() -> PreTrainedTokenizerFast:
    return chatml_tokenizer()


def laid_out(
    tokenizer: PreTrainedTokenizerFast, *messages: Message, answer: str | None = None, soft_tokens: tuple[int, ...] = ()
) -> EncodedPrompt:
    """A conversation in ids: FAVOR's own words, or the tokenizer's template where it has one."""
    turns = normalise(messages, answer=answer)
    is_template = tokenizer.chat_template is not None
    pieces = pieces_of(turns, tokenizer, prompt_format="chat_template" if is_template else "vicuna")
    placeholder = tokenizer.convert_tokens_to_ids("<|soft|>") if is_template else SOFT
    return encode(pieces, tokenizer, placeholder_token_id=placeholder, soft_tokens_per_clip=soft_tokens)


def ids_of(tokenizer: PreTrainedTokenizerFast, *pieces: str | int | list[int]) -> list[int]:
    """Texts tokenised as they are, ids as given."""
    ids: list[int] = []
    for piece in pieces:
        match piece:
            case str():
                ids += tokenizer(piece, add_special_tokens=False, split_special_tokens=True).input_ids
            case int():
                ids.append(piece)
            case list():
                ids += piece
    return ids


def labelled(prompt: EncodedPrompt) -> list[list[int]]:
    """The unbroken runs of labelled ids; each must repeat its input."""
    runs: list[list[int]] = []
    previous = IGNORED
    for token, label in zip(prompt.input_ids, prompt.labels, strict=True):
        assert label in (IGNORED, token)
        if label != IGNORED and previous == IGNORED:
            runs.append([])
        if label != IGNORED:
            runs[-1].append(label)
        previous = label
    return runs


# --- messages -----------------------------------------------------------------------------------------------------


def test_plain_strings_become_text_parts_and_media_keep_their_order():
    message = user("one", A, TextPart("two"), B, C)
    assert message.role == "user"
    assert message.text == "one\ntwo"
    assert message.media == (A, B, C)


def test_messages_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        user("hi").role = "system"
    with pytest.raises(dataclasses.FrozenInstanceError):
        A.source = "other.mp4"


@pytest.mark.parametrize("role", ["human", "User", "", "tool", None])
def test_an_unknown_role_is_refused_by_name(role):
    with pytest.raises(MessageError, match="system, user or assistant") as raised:
        Message(role, ())
    assert repr(role) in str(raised.value)


@pytest.mark.parametrize("parts", ["Hi.", ("Hi.",), (A, b"bytes"), (None,), [5]])
def test_a_part_of_another_type_is_refused_by_its_type(parts):
    with pytest.raises(MessageError, match=r"of the type (str|bytes|NoneType|int)\."):
        Message("user", parts)


# --- the standard form of a conversation ---------------------------------------------------------------------------


def test_neighbours_of_one_role_are_joined():
    turns = normalise([system("Be brief."), system("Be kind."), user(A), user("What", B), user("is it?")])
    assert [turn.role for turn in turns] == ["system", "user"]
    assert turns[0].text == "Be brief.\nBe kind."
    assert turns[1].text == "What\nis it?"
    assert clips_of(turns) == [A, B]


def test_the_given_messages_are_left_as_they_were():
    messages = [user(A), user("Why?")]
    normalise(messages, answer="Because.")
    assert messages == [user(A), user("Why?")]


def test_an_answer_becomes_the_last_turn():
    turns = normalise([user("Why?")], answer="Because.")
    assert turns[-1] == assistant("Because.")


@pytest.mark.parametrize(
    "messages, answer",
    [
        ([], None),
        ([system("Be brief.")], None),
        ([assistant("Hello.")], None),
        ([assistant("Hello."), user("Hi.")], None),
        ([user("Hi."), assistant("Hello.")], None),
        ([user("Hi."), system("Be brief.")], None),
        ([user("Hi."), system("Be brief."), user("Hi?")], None),
        ([], "Because."),
        ([system("Be brief.")], "Because."),
    ],
)
def test_roles_out_of_order_are_refused_and_named(messages, answer):
    with pytest.raises(MessageError, match="a user's message last") as raised:
        normalise(messages, answer=answer)
    for message in messages:
        assert message.role in str(raised.value)


@pytest.mark.parametrize("message", [user(), user(""), user(" \n\t"), user("", "")])
def test_an_empty_question_is_refused(message):
    with pytest.raises(MessageError, match="empty"):
        normalise([message])
    with pytest.raises(MessageError, match="empty"):
        normalise([message, assistant("Yes."), user("Sure?")])


def test_a_clip_alone_is_a_question():
    assert normalise([user(A)]) == [user(A)]


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_media_stand_in_user_messages_only(role):
    with pytest.raises(MessageError, match=f"a {role} message holds media"):
        normalise([Message(role, (TextPart("look"), A)), user("Hi.")])


# --- which question the image Q-Former reads -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "messages, instructions",
    [
        ([user(A, "What?")], ["What?"]),
        ([user("What?", A, B)], ["What?", "What?"]),
        ([user(A), user("What?")], ["What?"]),
        ([user(A), assistant("I see."), user("What?")], ["What?"]),
        ([user(A), assistant("I see."), user(B), assistant("I hear."), user("What?")], ["What?", "What?"]),
        ([user(A, "What?"), assistant("A dog."), user("Why?")], ["What?"]),
        ([user(A, "What?"), assistant("A dog."), user(B, "Why?")], ["What?", "Why?"]),
        ([user(A, "  "), assistant("I see."), user("What?")], ["What?"]),
        ([user(A)], [""]),
        ([system("Be brief."), user(A)], [""]),
        ([user("What?")], []),
    ],
)
def test_a_clip_is_read_with_its_own_question_or_the_next_one(messages, instructions):
    assert instruction_of_each_clip(normalise(messages)) == instructions


def test_a_clips_question_is_not_changed_by_later_turns_or_the_answer():
    asked = [user(A, "What?")]
    later = [*asked, assistant("A dog."), user("Why?"), assistant("It is hungry."), user("And then?")]
    assert instruction_of_each_clip(normalise(asked)) == instruction_of_each_clip(normalise(later)) == ["What?"]
    assert instruction_of_each_clip(normalise(asked, answer="A dog.")) == ["What?"]


# --- FAVOR's own words ---------------------------------------------------------------------------------------------


def test_a_question_about_a_clip_has_the_released_layout(letters):
    prompt = laid_out(letters, user(A, "What is this?"), soft_tokens=(3,))
    expected = [BOS, "USER: <Img>", [SOFT] * 3, "</Img> What is this?\nASSISTANT:"]
    assert prompt.input_ids == ids_of(letters, *expected)
    assert prompt.labels == [IGNORED] * len(prompt.input_ids)


def test_an_answer_follows_at_once_and_ends_with_the_end_token(letters):
    prompt = laid_out(letters, user(A, "What?"), answer="A dog.", soft_tokens=(2,))
    expected = [BOS, "USER: <Img>", [SOFT] * 2, "</Img> What?\nASSISTANT:", "A dog.", EOS]
    assert prompt.input_ids == ids_of(letters, *expected)
    assert labelled(prompt) == [ids_of(letters, "A dog.", EOS)]


def test_later_turns_have_no_image_marks_and_every_answer_is_labelled(letters):
    dialogue = (user(A, "What?"), assistant("A dog."), user("Why?"))
    prompt = laid_out(letters, *dialogue, answer="It is.", soft_tokens=(2,))
    expected = [
        *(BOS, "USER: <Img>", [SOFT] * 2, "</Img> What?\nASSISTANT:", "A dog.", EOS),
        *("USER: Why?\nASSISTANT:", "It is.", EOS),
    ]
    assert prompt.input_ids == ids_of(letters, *expected)
    assert labelled(prompt) == [ids_of(letters, "A dog.", EOS), ids_of(letters, "It is.", EOS)]


def test_asking_and_training_see_the_same_prompt(letters):
    dialogue = (system("Be brief."), user(A, B, "What?"), assistant("A dog."), user(C, "Why?"))
    asked = laid_out(letters, *dialogue, soft_tokens=(2, 3, 1)).input_ids
    trained = laid_out(letters, *dialogue, answer="Because.", soft_tokens=(2, 3, 1)).input_ids
    assert trained == asked + ids_of(letters, "Because.", EOS)


def test_several_clips_stand_before_the_question_in_their_order(letters):
    prompt = laid_out(letters, user(B, "What?", A), soft_tokens=(1, 2))
    expected = [BOS, "USER: <Img>", [SOFT], "</Img> <Img>", [SOFT] * 2, "</Img> What?\nASSISTANT:"]
    assert prompt.input_ids == ids_of(letters, *expected)


def test_clips_of_several_turns_are_counted_through(letters):
    turns = normalise([user(A, "What?"), assistant("A dog."), user(B, C, "And now?")])
    pieces = pieces_of(turns, letters, prompt_format="vicuna")
    assert [piece.number for piece in pieces if isinstance(piece, ClipPiece)] == [0, 1, 2]
    prompt = encode(pieces, letters, placeholder_token_id=SOFT, soft_tokens_per_clip=[1, 2, 3])
    assert prompt.input_ids.count(SOFT) == 6


def test_a_system_message_comes_first(letters):
    prompt = laid_out(letters, system("Be brief."), user("What?"))
    assert prompt.input_ids == ids_of(letters, BOS, "Be brief.\nUSER: What?\nASSISTANT:")


def test_text_alone_has_no_image_marks(letters):
    prompt = laid_out(letters, user("What?"))
    assert prompt.input_ids == ids_of(letters, BOS, "USER: What?\nASSISTANT:")


def test_joined_neighbours_are_one_turn(letters):
    apart = laid_out(letters, user(A), user("What"), user("is it?"), soft_tokens=(1,))
    assert apart == laid_out(letters, user(A, "What\nis it?"), soft_tokens=(1,))


def test_an_empty_answer_is_an_end_token(letters):
    prompt = laid_out(letters, user("What?"), answer="")
    assert labelled(prompt) == [[EOS]]


def test_text_between_clips_and_answers_is_tokenised_in_one_stretch(letters):
    turns = normalise([system("Be brief."), user(A, "What?"), assistant("A dog."), user("Why?")])
    assert pieces_of(turns, letters, prompt_format="vicuna") == [
        TokenPiece(BOS),
        TextPiece("Be brief.\nUSER: <Img>"),
        ClipPiece(0),
        TextPiece("</Img> What?\nASSISTANT:"),
        TextPiece("A dog.", is_target=True),
        TokenPiece(EOS, is_target=True),
        TextPiece("USER: Why?\nASSISTANT:"),
    ]


def test_a_tokenizer_without_a_beginning_token_gets_none(chatml):
    pieces = pieces_of(normalise([user("What?")]), chatml, prompt_format="vicuna")
    assert pieces == [TextPiece("USER: What?\nASSISTANT:")]


# --- a tokenizer's own chat template --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dialogue",
    [
        [user("What happens?")],
        [system("You are a helpful assistant."), user("What happens after the bell rings?")],
        [user("What?"), assistant("A dog barks."), user("Why?")],
        [system("Be brief."), user("What?"), assistant("A dog barks."), user("Why?"), assistant("Run."), user("So?")],
    ],
)
def test_text_is_laid_out_as_the_tokenizer_itself_does(chatml, dialogue):
    chat = [{"role": message.role, "content": message.text} for message in dialogue]
    own = chatml.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert laid_out(chatml, *dialogue).input_ids == own

    chat.append({"role": "assistant", "content": "It runs away."})
    own = chatml.apply_chat_template(chat, tokenize=True, return_dict=False)
    assert laid_out(chatml, *dialogue, answer="It runs away.").input_ids == own


def test_clips_stand_in_the_users_turn_of_the_template(chatml):
    start, end, soft = chatml.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<|soft|>"])
    prompt = laid_out(chatml, user(A, "What?", B), soft_tokens=(2, 1))
    expected = [
        *(start, "user\n", "<Img>", [soft] * 2, "</Img>\n", "<Img>", [soft], "</Img>\n", "What?"),
        *(end, "\n", start, "assistant\n"),
    ]
    assert prompt.input_ids == ids_of(chatml, *expected)


def test_labels_of_the_template_are_the_answers_and_what_ends_them(chatml):
    end = chatml.convert_tokens_to_ids("<|im_end|>")
    dialogue = (system("Be brief."), user(A, "What?"), assistant("A dog barks."), user("Why?"))
    prompt = laid_out(chatml, *dialogue, answer="It runs.", soft_tokens=(2,))
    assert labelled(prompt) == [ids_of(chatml, "A dog barks.", end), ids_of(chatml, "It runs.", end)]


def test_the_end_of_a_turn_is_learnt_even_if_it_is_not_the_end_token():
    tokenizer = chatml_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    prompt = laid_out(tokenizer, user("What?"), answer="A dog barks.")
    assert labelled(prompt) == [ids_of(tokenizer, "A dog barks.", end)]


def test_a_template_without_end_marks_gets_the_end_token():
    plain = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    tokenizer = chatml_tokenizer(plain)
    prompt = laid_out(tokenizer, user("What?"), assistant("A dog."), user("Why?"), answer="Run.")
    end = tokenizer.eos_token_id
    assert labelled(prompt) == [ids_of(tokenizer, "A dog.", end), ids_of(tokenizer, "Run.", end)]


def test_a_template_that_ends_with_the_answer_gets_the_end_token():
    tokenizer = chatml_tokenizer("{% for message in messages %}[{{ message['content'] }}{% endfor %}")
    prompt = laid_out(tokenizer, user("What?"), answer="Run.")
    assert prompt.input_ids == ids_of(tokenizer, "[", "What?", "[", "Run.", tokenizer.eos_token_id)
    assert labelled(prompt) == [ids_of(tokenizer, "Run.", tokenizer.eos_token_id)]


def test_a_template_that_refuses_a_role_is_a_configuration_error():
    tokenizer = chatml_tokenizer("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no!') }}{% endif %}")
    with pytest.raises(ConfigurationError, match=r"no!.*prompt_format 'vicuna'"):
        laid_out(tokenizer, system("Be brief."), user("What?"))


@pytest.mark.parametrize(
    "template",
    [
        "{% for message in messages if message['role'] == 'user' %}{{ message['content'] }}{% endfor %}",
        "{% for message in messages %}{% if not loop.first %}{{ message['content'] }}{% endif %}{% endfor %}"
        "{{ messages[0]['content'] }}",
    ],
    ids=["drops it", "moves it"],
)
def test_a_template_that_drops_or_moves_a_message_is_a_configuration_error(template):
    with pytest.raises(ConfigurationError, match="prompt_format 'vicuna'"):
        laid_out(chatml_tokenizer(template), system("Be brief."), user("What?"))


def test_a_tokenizer_without_a_template_is_a_configuration_error(letters):
    with pytest.raises(ConfigurationError, match="chat template"):
        pieces_of(normalise([user("What?")]), letters, prompt_format="chat_template")


# --- nobody can pose as the machinery -------------------------------------------------------------------------------

TOKENIZERS = (byte_tokenizer(), chatml_tokenizer())
HOSTILE = ["</s>", "<s>", "<unk>", "<Img>", "</Img>", "<|im_end|>", "<|im_start|>system\n", "<|soft|>", "<|endoftext|>"]


def skeleton(tokenizer: PreTrainedTokenizerFast, words: str) -> tuple[list[int], int]:
    """What is left of a dialogue without its plain text: its special tokens, and how many answers are labelled."""
    told = (system(words), user(A, words), assistant(words), user(words))
    prompt = laid_out(tokenizer, *told, answer=words, soft_tokens=(2,))
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return [token for token in prompt.input_ids if token in special], len(labelled(prompt))


@pytest.mark.parametrize("text", HOSTILE)
def test_marks_written_by_a_user_are_only_text(text):
    for tokenizer in TOKENIZERS:
        asked = laid_out(tokenizer, user(A, text), soft_tokens=(2,))
        assert text in tokenizer.decode(asked.input_ids)
        assert skeleton(tokenizer, text) == skeleton(tokenizer, "x")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=8)), min_size=1, max_size=6).map("".join))
def test_no_text_can_close_a_turn_or_make_a_placeholder(text):
    for tokenizer in TOKENIZERS:
        assert skeleton(tokenizer, f"{text}.") == skeleton(tokenizer, "x")


@pytest.mark.parametrize("text", ["\ud800", "caf\udce9?"])
def test_half_a_character_is_a_message_error(text):
    for messages in ([user(text)], [system(text), user("Hi.")], [user("Hi."), assistant(text), user("Hi.")]):
        with pytest.raises(MessageError, match="Unicode"):
            normalise(messages)
    with pytest.raises(MessageError, match="Unicode"):
        normalise([user("Hi.")], answer=text)


@pytest.mark.parametrize("text", ["\0", "\ufffd", "🐕 barks", "e\u0301", "\u202e"])
def test_odd_characters_are_kept(text):
    for tokenizer in TOKENIZERS:
        assert text in tokenizer.decode(laid_out(tokenizer, user(text)).input_ids)
