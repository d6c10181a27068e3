"""Conversations to token ids: where text, clips and answers stand in the language model's input.

A conversation first becomes pieces (text, clips, single tokens), then ids. What a user writes is always tokenised apart
from special tokens, so no text of theirs can pose as a placeholder, an end token or a role.

In both formats the clips of a message stand in front of its text, in their order, as FAVOR was trained.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from favor.configuration import PromptFormat
from favor.errors import ConfigurationError, MessageError
from favor.messages import MediaPart, Message, TextPart

IGNORED = -100
"""Label of a token on which there is no loss."""


@dataclass(frozen=True)
class TextPiece:
    """Text tokenised on its own. Only ``has_special_tokens`` pieces (templates) may contain special tokens."""

    text: str
    is_target: bool = False
    has_special_tokens: bool = False


@dataclass(frozen=True)
class ClipPiece:
    """The soft tokens of one clip."""

    number: int


@dataclass(frozen=True)
class TokenPiece:
    token_id: int
    is_target: bool = False


Piece = TextPiece | ClipPiece | TokenPiece


@dataclass
class EncodedPrompt:
    """Token ids of a conversation and the labels of its assistant turns (IGNORED elsewhere)."""

    input_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def add(self, token_ids: Sequence[int], *, is_target: bool = False) -> None:
        self.input_ids += token_ids
        self.labels += token_ids if is_target else [IGNORED] * len(token_ids)


def normalise(messages: Sequence[Message], *, answer: str | None = None) -> list[Message]:
    """Check a conversation and give it its standard form: [system] (user assistant)* user, or with ``answer`` one more
    assistant turn. Neighbouring messages of one role are joined; within a message, media stand before the text.

    Raises:
        MessageError: nothing is asked, or media stand where the model cannot read them.
    """
    turns: list[Message] = []
    for message in messages:
        if message.media and message.role != "user":
            raise MessageError(
                f"a {message.role} message holds media", allowed="media in user messages", advice="Move them there"
            )
        if turns and turns[-1].role == message.role:
            message = Message(message.role, (*turns.pop().parts, *message.parts))
        turns.append(message)
    if answer is not None:
        turns.append(Message("assistant", (TextPart(answer),)))
    _check_order(turns, last_role="user" if answer is None else "assistant")
    _check_texts(turns)
    return turns


def instruction_of_each_clip(turns: Sequence[Message]) -> list[str]:
    """The question that the image Q-Former reads for each clip: the text of the clip's own message, or else of the next
    user message that has one.

    So a clip keeps its features through a whole dialogue, as in FAVOR's training, and they can be cached.
    """
    instructions = []
    users = [turn for turn in turns if turn.role == "user"]
    for index, turn in enumerate(users):
        text = next((later.text for later in users[index:] if later.text.strip()), "")
        instructions += [text] * len(turn.media)
    return instructions


def clips_of(turns: Sequence[Message]) -> list[MediaPart]:
    """All clips of a conversation in order."""
    return [part for turn in turns for part in turn.media]


def pieces_of(
    turns: Sequence[Message], tokenizer: PreTrainedTokenizerBase, *, prompt_format: PromptFormat
) -> list[Piece]:
    """Pieces of a normalised conversation; after a user's turn they end where the answer begins."""
    if prompt_format == "vicuna":
        return _vicuna_pieces(turns, bos=tokenizer.bos_token_id, eos=tokenizer.eos_token_id)
    return _template_pieces(turns, tokenizer)


def encode(
    pieces: Sequence[Piece],
    tokenizer: PreTrainedTokenizerBase,
    *,
    placeholder_token_id: int,
    soft_tokens_per_clip: Sequence[int],
) -> EncodedPrompt:
    """Token ids and labels; each clip becomes exactly as many placeholders as it has soft tokens."""
    prompt = EncodedPrompt()
    for piece in pieces:
        match piece:
            case TextPiece():
                ids = tokenizer(
                    piece.text, add_special_tokens=False, split_special_tokens=not piece.has_special_tokens
                ).input_ids
                prompt.add(ids, is_target=piece.is_target)
            case ClipPiece():
                prompt.add([placeholder_token_id] * soft_tokens_per_clip[piece.number])
            case TokenPiece():
                prompt.add([piece.token_id], is_target=piece.is_target)
    return prompt


def _vicuna_pieces(turns: Sequence[Message], *, bos: int | None, eos: int) -> list[Piece]:
    """``USER: <Img>`` clip ``</Img> `` question newline ``ASSISTANT:`` answer ``</s>`` (released code).

    The markers are plain text, and every stretch of text between clips and answers is tokenised as one string.
    """
    pieces: list[Piece] = [] if bos is None else [TokenPiece(bos)]
    text = ""
    num_clips = 0
    for turn in turns:
        if turn.role == "assistant":
            pieces += [TextPiece(text), TextPiece(turn.text, is_target=True), TokenPiece(eos, is_target=True)]
            text = ""
            continue
        text += f"{turn.text}\n" if turn.role == "system" else "USER: "
        for _ in turn.media:
            pieces += [TextPiece(f"{text}<Img>"), ClipPiece(num_clips)]
            text = "</Img> "
            num_clips += 1
        if turn.role == "user":
            text += f"{turn.text}\nASSISTANT:"
    return [*pieces, TextPiece(text)] if text else pieces


def _template_pieces(turns: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """The tokenizer's own chat template, rendered around marks that stand for the turns' contents."""
    marks = [f"[{secrets.token_hex(8)}]" for _ in turns]
    chat = [{"role": turn.role, "content": mark} for turn, mark in zip(turns, marks, strict=True)]
    is_asking = turns[-1].role == "user"
    try:
        rest = str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=is_asking))
    except (TemplateError, ValueError) as error:
        raise _unfit_template(str(error)) from error
    pieces: list[Piece] = []
    num_clips = 0
    was_answer = False
    for turn, mark in zip(turns, marks, strict=True):
        before, found, rest = rest.partition(mark)
        if not found:
            raise _unfit_template(f"it drops a {turn.role} message or moves it elsewhere")
        pieces += _template_text(before, tokenizer, is_behind_answer=was_answer)
        was_answer = turn.role == "assistant"
        for _ in turn.media:
            pieces += [TextPiece("<Img>"), ClipPiece(num_clips), TextPiece("</Img>\n")]
            num_clips += 1
        pieces.append(TextPiece(turn.text, is_target=was_answer))
    return pieces + _template_text(rest, tokenizer, is_behind_answer=was_answer)


def _unfit_template(reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"the tokenizer's chat template cannot lay out this conversation ({reason})",
        allowed="a chat template that knows the roles used and keeps the messages in their order",
        advice="Use prompt_format 'vicuna', or leave the system message out",
    )


def _template_text(text: str, tokenizer: PreTrainedTokenizerBase, *, is_behind_answer: bool) -> list[Piece]:
    """Template text; behind an answer its first special token is what ends the answer, so the model must learn it."""
    if not text:
        return [TokenPiece(tokenizer.eos_token_id, is_target=True)] if is_behind_answer else []
    if not is_behind_answer:
        return [TextPiece(text, has_special_tokens=True)]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    end = next((place for place, token in enumerate(ids) if token in special), None)
    if end is None:
        return [TokenPiece(tokenizer.eos_token_id, is_target=True), TextPiece(text, has_special_tokens=True)]
    return [TokenPiece(token, is_target=place == end) for place, token in enumerate(ids)]


def _check_order(turns: Sequence[Message], *, last_role: str) -> None:
    roles = [turn.role for turn in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    expected = ["user", "assistant"] * len(spoken)
    if not spoken or spoken != expected[: len(spoken)] or spoken[-1] != last_role:
        raise MessageError(
            f"the conversation's roles are {', '.join(roles) or 'none'}",
            allowed="at most one system message first, then user and assistant in turn, a user's message last",
            advice="Reorder the messages",
        )


def _check_texts(turns: Sequence[Message]) -> None:
    for turn in turns:
        if turn.role == "user" and not turn.media and not turn.text.strip():
            raise MessageError("a user message is empty", allowed="text, a clip, or both", advice="Ask something")
        if any("\ud800" <= character <= "\udfff" for character in turn.text):
            raise MessageError(
                f"a {turn.role} message holds half a character", allowed="Unicode text", advice="Send it as UTF-8"
            )
