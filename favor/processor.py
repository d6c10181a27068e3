"""``FavorProcessor``: the one door from messages to tensors, for training, serving and evaluation alike.

Shapes: B conversations, T tokens, C clips of all conversations, F frames of all clips, K 30-s chunks of sound of all
clips, L question tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import (
    AutoProcessor,
    BatchFeature,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    WhisperFeatureExtractor,
)
from transformers.image_processing_utils import BaseImageProcessor

from favor.clips import ClipReader, ClipReceipt, Progress, TooLongRule
from favor.configuration import Align, FavorConfig, LengthRule, PromptFormat
from favor.errors import MessageError
from favor.media import SAMPLE_RATE_HZ, Clip, MediaOptions
from favor.media.limits import FrameRule
from favor.messages import MediaPart, Message
from favor.prompt import IGNORED, EncodedPrompt, clips_of, encode, instruction_of_each_clip, normalise, pieces_of
from favor.sync import STEP_S, num_audio_chunks

if TYPE_CHECKING:
    from favor.feature_cache import FeatureCache

MAX_INSTRUCTION_TOKENS = 256
"""Question tokens that the image Q-Former reads; longer questions lose their beginning (released code)."""


class FavorInputs(BatchFeature):
    """The model's inputs, and beside them the receipts of every clip: ``receipts[b]`` belongs to conversation b."""

    receipts: tuple[tuple[ClipReceipt, ...], ...] = ()

    def __getstate__(self) -> dict[str, Any]:  # without these a DataLoader's worker would lose the receipts
        return {**super().__getstate__(), "receipts": self.receipts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.receipts = state["receipts"]


class FavorProcessor(ProcessorMixin):
    """Messages to model inputs. Saved beside a model, whose connector settings it repeats.

    ``processor(messages)`` gives, as a :class:`FavorInputs`:

    ==================  =====================  =============================================================
    input_ids           (B, T) int64           every soft token has its placeholder; padded on the left to ask,
                                               on the right to train
    attention_mask      (B, T) int64
    labels              (B, T) int64           with ``answer`` only: assistant turns and their end tokens
    pixel_values        (F, 3, s, s) float32   normalised frames, clip after clip; absent without pictures
    num_frames          (C,) int64             this and all below are absent in a batch without clips
    input_features      (K, mels, 3000) f32    log-mel chunks, clip after clip; absent without sound; 3000 for the
                                               30 s of released Whispers
    num_audio_steps     (C,) int64             0.5-s steps of real sound
    is_image            (C,) bool
    instruction_ids     (C, L) int64           the question as the image Q-Former's tokens
    instruction_mask    (C, L) int64
    ==================  =====================  =============================================================
    """

    image_processor: BaseImageProcessor
    feature_extractor: WhisperFeatureExtractor
    tokenizer: PreTrainedTokenizerBase
    qformer_tokenizer: PreTrainedTokenizerBase

    def __init__(
        self,
        image_processor: BaseImageProcessor,
        feature_extractor: WhisperFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        qformer_tokenizer: PreTrainedTokenizerBase,
        placeholder_token_id: int = 0,
        is_instruction_aware: bool = True,
        prompt_format: PromptFormat = "vicuna",
        num_query_tokens: int = 32,
        window_steps: int = 10,
        align: Align = "sync",
        length_rule: LengthRule = "true",
        frame_rule: FrameRule = "midpoints",
        max_seconds: float = 300.0,
        when_too_long: TooLongRule = "refuse",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, feature_extractor, tokenizer, qformer_tokenizer, **kwargs)
        self.placeholder_token_id = placeholder_token_id
        self.is_instruction_aware = is_instruction_aware
        self.prompt_format: PromptFormat = prompt_format
        self.num_query_tokens = num_query_tokens
        self.window_steps = window_steps
        self.align: Align = align
        self.length_rule: LengthRule = length_rule
        self.frame_rule: FrameRule = frame_rule
        self.max_seconds = max_seconds
        self.when_too_long: TooLongRule = when_too_long
        qformer_tokenizer.truncation_side = "left"

    @classmethod
    def for_config(
        cls,
        config: FavorConfig,
        *,
        image_processor: BaseImageProcessor,
        feature_extractor: WhisperFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        qformer_tokenizer: PreTrainedTokenizerBase,
        **options: Any,
    ) -> FavorProcessor:
        """A processor that fits a model of this configuration; ``options`` are the remaining arguments."""
        connector = config.connector_config
        return cls(
            image_processor,
            feature_extractor,
            tokenizer,
            qformer_tokenizer,
            placeholder_token_id=config.placeholder_token_id,
            is_instruction_aware=config.is_instruction_aware,
            prompt_format=config.prompt_format,
            num_query_tokens=connector.num_query_tokens,
            window_steps=connector.window_steps,
            align=connector.align,
            length_rule=connector.length_rule,
            **options,
        )

    def __call__(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        answer: str | Sequence[str] | None = None,
        *,
        progress: Progress | None = None,
        features: FeatureCache | None = None,
    ) -> FavorInputs:
        """Read all clips and lay out all conversations.

        Args:
            messages: one conversation, or a batch of them.
            answer: the assistant's answer (one per conversation): adds ``labels`` for training.
            progress: told (seconds decoded, seconds in all) while a video is read.
            features: where the encoders' outputs are kept: the inputs then hold ``visual_features`` (F, P, width) and
                ``audio_features`` (steps of K chunks, 25, audio width) in place of pixel_values and input_features,
                and a clip that is there is not decoded.

        Raises:
            FavorError: a clip or a conversation that cannot be used; says what, what is allowed, what to do.
        """
        batch = _as_batch(messages)
        answers = [answer] * len(batch) if answer is None or isinstance(answer, str) else list(answer)
        if len(answers) != len(batch):
            raise MessageError(
                f"{len(batch)} conversations and {len(answers)} answers came",
                allowed="one answer per conversation",
                advice="Give as many answers as conversations",
            )
        turns = [normalise(chat, answer=text) for chat, text in zip(batch, answers, strict=True)]
        instructions = [text for chat in turns for text in self.instructions_of(chat)]
        parts = [part for chat in turns for part in clips_of(chat)]
        media: dict[str, torch.Tensor] = {}
        if not parts:
            all_receipts: list[ClipReceipt] = []
        elif features is None:
            all_receipts, media = self._read(parts, progress)
        else:
            all_receipts, media = self._find(parts, instructions, features, progress)
        rest = iter(all_receipts)
        receipts = tuple(tuple(islice(rest, len(clips_of(chat)))) for chat in turns)
        soft_tokens = [[receipt.num_soft_tokens for receipt in some] for some in receipts]
        prompts = [self._encode(chat, numbers) for chat, numbers in zip(turns, soft_tokens, strict=True)]
        data = self._pad(prompts, has_labels=answer is not None)
        if parts:
            data |= media | self.instruction_tensors(instructions)
        inputs = FavorInputs(data)
        inputs.receipts = receipts
        return inputs

    @property
    def reader(self) -> ClipReader:
        """What decodes the clips."""
        return ClipReader(
            options=MediaOptions(
                frame_rule=self.frame_rule,
                frame_size=self.image_processor.size["height"],
                max_seconds=self.max_seconds,
                when_too_long=self.when_too_long,
            ),
            num_query_tokens=self.num_query_tokens,
            window_steps=self.window_steps,
            align=self.align,
            length_rule=self.length_rule,
            audio_chunk_steps=round(self.feature_extractor.chunk_length / STEP_S),
        )

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """Token ids to text, by the language model's tokenizer."""
        return self.tokenizer.decode(*args, **kwargs)

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """Rows of token ids to texts, by the language model's tokenizer."""
        return self.tokenizer.batch_decode(*args, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        from favor.modeling import MEDIA_INPUTS

        return ["input_ids", "attention_mask", *MEDIA_INPUTS]

    def _read(
        self, parts: Sequence[MediaPart], progress: Progress | None
    ) -> tuple[list[ClipReceipt], dict[str, torch.Tensor]]:
        """Decode all clips."""
        reader = self.reader
        clips = [reader.load(part, progress=progress) for part in parts]
        return [reader.receipt(clip) for clip in clips], self.clip_tensors(clips)

    def _find(
        self, parts: Sequence[MediaPart], instructions: Sequence[str], features: FeatureCache, progress: Progress | None
    ) -> tuple[list[ClipReceipt], dict[str, torch.Tensor]]:
        """Take all clips from the cache."""
        from favor.feature_cache import pack

        found = [
            features.find(part, text, processor=self, progress=progress)
            for part, text in zip(parts, instructions, strict=True)
        ]
        return [clip.receipt for clip in found], pack(found)

    def _encode(self, turns: Sequence[Message], soft_tokens: Sequence[int]) -> EncodedPrompt:
        pieces = pieces_of(turns, self.tokenizer, prompt_format=self.prompt_format)
        return encode(
            pieces,
            self.tokenizer,
            placeholder_token_id=self.placeholder_token_id,
            soft_tokens_per_clip=soft_tokens,
        )

    def _pad(self, prompts: Sequence[EncodedPrompt], *, has_labels: bool) -> dict[str, torch.Tensor]:
        longest = max(len(prompt.input_ids) for prompt in prompts)
        filler_id = self.tokenizer.eos_token_id  # as FAVOR does; a tokenizer's own pad may be our placeholder
        rows: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
        for prompt in prompts:
            fill = longest - len(prompt.input_ids)
            mask = [1] * len(prompt.input_ids)
            for name, row, filler in (
                ("input_ids", prompt.input_ids, filler_id),
                ("attention_mask", mask, 0),
                ("labels", prompt.labels, IGNORED),
            ):
                rows[name].append(row + [filler] * fill if has_labels else [filler] * fill + row)
        if not has_labels:
            del rows["labels"]
        return {name: torch.tensor(values) for name, values in rows.items()}

    def prompt_tensors(
        self, chats: Sequence[Sequence[Message]], soft_tokens: Sequence[Sequence[int]]
    ) -> dict[str, torch.Tensor]:
        """``input_ids`` and ``attention_mask`` as calling this gives them, for clips that were read before.

        Args:
            chats: conversations; nothing is read of their clips. soft_tokens: of each one's clips, how many each takes.
        """
        prompts = [self._encode(normalise(chat), numbers) for chat, numbers in zip(chats, soft_tokens, strict=True)]
        return self._pad(prompts, has_labels=False)

    def clip_tensors(self, clips: Sequence[Clip]) -> dict[str, torch.Tensor]:
        """The encoders' inputs of some clips, named and shaped as in the table above."""
        data = {
            "num_frames": torch.tensor([len(clip.frames) for clip in clips]),
            "num_audio_steps": torch.tensor([clip.num_audio_steps for clip in clips]),
            "is_image": torch.tensor([clip.is_image for clip in clips]),
        }
        frames = [frame for clip in clips for frame in clip.frames]
        if frames:
            pixels = self.image_processor(images=frames, do_resize=False, return_tensors="pt")
            data["pixel_values"] = pixels["pixel_values"]
        chunks = [chunk for clip in clips for chunk in _chunks(clip, seconds=self.feature_extractor.chunk_length)]
        if chunks:
            features = self.feature_extractor(chunks, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
            data["input_features"] = features["input_features"]
        return data

    def instructions_of(self, turns: Sequence[Message]) -> list[str]:
        """What the image Q-Former reads with each clip: its question, or nothing where it is not instruction-aware."""
        texts = instruction_of_each_clip(turns)
        return texts if self.is_instruction_aware else [""] * len(texts)

    def instruction_tensors(self, instructions: Sequence[str]) -> dict[str, torch.Tensor]:
        """The questions as the image Q-Former reads them, one for each clip; no tokens if it reads none."""
        if not self.is_instruction_aware:
            nothing = torch.zeros(len(instructions), 0, dtype=torch.long)
            return {"instruction_ids": nothing, "instruction_mask": nothing}
        encoded = self.qformer_tokenizer(
            list(instructions),
            padding=True,
            truncation=True,
            max_length=MAX_INSTRUCTION_TOKENS,
            return_tensors="pt",
        )
        return {"instruction_ids": encoded["input_ids"], "instruction_mask": encoded["attention_mask"]}


def _as_batch(messages: Sequence[Message] | Sequence[Sequence[Message]]) -> list[Sequence[Message]]:
    if not messages:
        raise MessageError("no message was given", allowed="one message or more", advice="Ask something")
    return [messages] if isinstance(messages[0], Message) else list(messages)  # type: ignore[list-item,arg-type]


def _chunks(clip: Clip, *, seconds: int) -> list[np.ndarray]:
    """The waveform in the encoder's pieces, as many as its steps need."""
    size = seconds * SAMPLE_RATE_HZ
    number = num_audio_chunks(clip.num_audio_steps, round(seconds / STEP_S))
    return [clip.waveform[place * size : (place + 1) * size] for place in range(number)]


AutoProcessor.register(FavorConfig, FavorProcessor)
