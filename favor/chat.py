"""``Chat``: a model and its processor, ready to answer; what the command line and the server's local engine use."""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from favor import presets
from favor.checkpoint import load_folder
from favor.clips import ClipReceipt, Progress
from favor.decoding import Decoding
from favor.errors import MessageError
from favor.messages import Message
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorInputs, FavorProcessor

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """A bit of an answer: text to append and how many tokens it took; the last piece says why the answer ended."""

    text: str
    num_tokens: int
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Prepared:
    """A conversation as tensors, and what is worth telling about it."""

    inputs: FavorInputs
    receipts: tuple[ClipReceipt, ...]

    @property
    def num_prompt_tokens(self) -> int:
        return int(self.inputs["input_ids"].shape[1])

    @property
    def num_video_tokens(self) -> int:
        """Soft tokens of moving pictures, with their sound if they have one."""
        return self._soft_tokens("video")

    @property
    def num_audio_tokens(self) -> int:
        """Soft tokens of sound alone."""
        return self._soft_tokens("audio")

    @property
    def num_image_tokens(self) -> int:
        """Soft tokens of still pictures, with their sound if they have one."""
        return self._soft_tokens("image")

    def _soft_tokens(self, kind: str) -> int:
        return sum(receipt.num_soft_tokens for receipt in self.receipts if receipt.kind == kind)


class Chat:
    """Answers questions, one at a time.

    Args:
        name: what the model is called.
        model, processor: as from ``load``.
    """

    def __init__(self, name: str, model: FavorForConditionalGeneration, processor: FavorProcessor) -> None:
        self.name = name
        self.model = model
        self.processor = processor

    @classmethod
    def load(cls, model: str, *, device: str | None = None) -> Chat:
        """A preset by its name, or a folder written by ``save_pretrained``; on the GPU if there is one."""
        if model in presets.names() or not Path(model).exists():
            name, (network, processor) = model, presets.build(model)
        else:
            name, (network, processor) = Path(model).name, load_folder(model)
        return cls(name, network.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), processor)

    def prepare(self, messages: Sequence[Message], *, progress: Progress | None = None) -> Prepared:
        """Decode the clips and lay out the conversation.

        Raises:
            FavorError: something in it cannot be used, or it is longer than the model's context.
        """
        inputs = self.processor(messages, progress=progress)
        context = self.model.config.text_config.max_position_embeddings
        if inputs["input_ids"].shape[1] >= context:
            raise MessageError(
                f"the conversation takes {inputs['input_ids'].shape[1]} tokens",
                allowed=f"fewer than the model's {context}, soft tokens of clips and the answer included",
                advice="Ask about a shorter clip or drop earlier turns",
            )
        return Prepared(inputs, inputs.receipts[0])

    def stream(
        self, prepared: Prepared, decoding: Decoding, *, cancelled: threading.Event | None = None
    ) -> Iterator[Piece]:
        """Answer, piece by piece as the tokens come (beams give one piece at the end).

        Args:
            cancelled: setting it ends the answer within one token; closing the iterator does the same.
        """
        run = _Run(self.model, self.processor.tokenizer, prepared.inputs, decoding, cancelled or threading.Event())
        thread = threading.Thread(target=run.generate, name="favor-generate", daemon=True)
        thread.start()
        try:
            yield from run.pieces()
        finally:
            run.stopped.set()
            thread.join()

    def answer(self, messages: Sequence[Message], decoding: Decoding | None = None) -> str:
        """The whole answer at once."""
        return "".join(piece.text for piece in self.stream(self.prepare(messages), decoding or Decoding()))


class _Run:
    """One call of ``generate`` in a thread of its own, its tokens coming through a queue."""

    def __init__(
        self,
        model: FavorForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        inputs: FavorInputs,
        decoding: Decoding,
        cancelled: threading.Event,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.inputs = inputs
        self.decoding = decoding
        self.cancelled = cancelled
        self.stopped = threading.Event()
        context = model.config.text_config.max_position_embeddings
        self.max_new_tokens = min(decoding.max_new_tokens, context - inputs["input_ids"].shape[1])
        self._tokens: queue.SimpleQueue[list[int] | BaseException | None] = queue.SimpleQueue()

    def generate(self) -> None:
        """Fill the queue with token ids, then None; an exception is handed over, not lost."""
        try:
            with torch.random.fork_rng(enabled=self.decoding.temperature > 0):
                if self.decoding.temperature > 0:
                    torch.manual_seed(secrets.randbits(63) if self.decoding.seed is None else self.decoding.seed)
                self._generate()
        except BaseException as error:  # raised again in the reader's thread
            self._tokens.put(error)
        finally:
            self._tokens.put(None)

    def pieces(self) -> Iterator[Piece]:
        """Texts as they become certain: no half characters, no beginnings of stop texts."""
        ids: list[int] = []
        told = 0  # characters already given away
        while (tokens := self._tokens.get()) is not None:
            if isinstance(tokens, BaseException):
                raise tokens
            ids += tokens
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            end = _first_stop(text, self.decoding.stop)
            if end is not None:
                self.stopped.set()
                yield Piece(text[told:end], len(tokens), "stop")
                return
            certain = len(text) - _uncertain(text, self.decoding.stop)
            yield Piece(text[told:certain], len(tokens))
            told = max(told, certain)
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        has_ended = bool(ids) and ids[-1] in self._end_ids()
        yield Piece(text[told:], 0, "stop" if has_ended or len(ids) < self.max_new_tokens else "length")

    def _generate(self) -> None:
        decoding, prompt_length = self.decoding, self.inputs["input_ids"].shape[1]
        penalty = LogitsProcessorList()
        if decoding.repetition_penalty != 1.0:
            penalty.append(
                RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty, prompt_ignore_length=prompt_length)
            )
        output = self.model.generate(
            **self.inputs.to(self.model.device),
            max_new_tokens=self.max_new_tokens,
            **_sampling(decoding),
            num_beams=decoding.num_beams,
            repetition_penalty=1.0,  # not the model's own default, which would count the question too
            logits_processor=penalty,
            pad_token_id=self.tokenizer.eos_token_id,
            eos_token_id=self._end_ids(),
            stopping_criteria=StoppingCriteriaList([_StopWhenSet(self.cancelled, self.stopped)]),
            streamer=_TokenQueue(self._tokens) if decoding.num_beams == 1 else None,
        )
        if decoding.num_beams > 1:
            self._tokens.put(output[0, prompt_length:].tolist())

    def _end_ids(self) -> list[int]:
        given = self.model.generation_config.eos_token_id
        own = given if isinstance(given, list) else [given]
        return sorted({token for token in (*own, self.tokenizer.eos_token_id) if token is not None})


class _TokenQueue(BaseStreamer):
    """A streamer that leaves the prompt out and passes ids on."""

    def __init__(self, tokens: queue.SimpleQueue[Any]) -> None:
        self.tokens = tokens
        self.is_prompt = True

    def put(self, value: Tensor) -> None:
        if not self.is_prompt:
            self.tokens.put(value.flatten().tolist())
        self.is_prompt = False

    def end(self) -> None:
        pass


class _StopWhenSet(StoppingCriteria):
    def __init__(self, *events: threading.Event) -> None:
        self.events = events

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        is_set = any(event.is_set() for event in self.events)
        return torch.full((len(input_ids),), is_set, device=input_ids.device, dtype=torch.bool)


def _sampling(decoding: Decoding) -> dict[str, Any]:
    if decoding.temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}


def _first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop text begins."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return min(places, default=None)


def _uncertain(text: str, stops: Sequence[str]) -> int:
    """Characters at the end that later tokens may still change: half a character, the beginning of a stop text, both.

    Half a character may be any number of marks: Llama's tokenizer spoils a whole run of bytes until it is complete.
    """
    whole = text.rstrip("�")
    lengths = (size for stop in stops for size in range(len(stop) - 1, 0, -1) if whole.endswith(stop[:size]))
    return len(text) - len(whole) + max(lengths, default=0)
