"""A model's answers to a paper. What does not depend on the question is worked out once: features, then soft tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from favor.media import Clip, Receipt
from favor.messages import MediaPart, Message, TextPart, VideoPart
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorProcessor
from favor.sync import num_audio_chunks
from training.world.features import raw_clip, refuse_instructions
from training.world.question import Question

from .conditions import Condition, Streams, items_for, under
from .paper import Paper

MAX_NEW_TOKENS = 32
"""The longest right answers, captions of three things and a sign, have about 20."""

_CLIPS_AT_ONCE = 8
_CLIP = VideoPart("a clip")  # never read: its soft tokens are there already


@torch.no_grad()
def encode_paper(model: FavorForConditionalGeneration, processor: FavorProcessor, paper: Paper) -> tuple[Streams, ...]:
    """What the encoders make of the paper's clips; it fits all models with the same encoders.

    Raises:
        ConfigurationError: the model's image encoder reads the question, so nothing can be made before it is asked.
    """
    refuse_instructions(processor)
    size = processor.image_processor.size["height"]
    features: list[Streams] = []
    for some in _pieces(range(len(paper.clips)), _CLIPS_AT_ONCE):
        raws = [raw_clip(paper.clips[number].scene, size=size) for number in some]
        clips = [Clip(raw.frames, np.zeros(0), raw.waveform, raw.scene.is_still, _RECEIPT) for raw in raws]
        features += _encoded(model, processor, clips)
    return tuple(features)


@torch.no_grad()
def answer(
    model: FavorForConditionalGeneration,
    processor: FavorProcessor,
    paper: Paper,
    features: Sequence[Streams],
    condition: Condition = "both",
    *,
    batch_size: int = 64,
) -> list[str]:
    """Greedy answers to ``items_for(paper, condition)``, in their order."""
    items = items_for(paper, condition)
    soft = {
        number: _soft_tokens(model, under(condition, paper, features, number))
        for number in {paper.items[item].clip for item in items}
    }

    def cost(place: int) -> tuple[int, int]:
        item = paper.items[items[place]]
        clip = soft[item.clip]
        return len(item.question.answer.split()), len(item.question.text.split()) + (0 if clip is None else len(clip))

    answers = [""] * len(items)
    # A batch goes on until its longest answer ends and is as wide as its longest prompt.
    for places in _pieces(sorted(range(len(items)), key=cost), batch_size):
        asked = [paper.items[items[place]] for place in places]
        texts = _generate(model, processor, [item.question for item in asked], [soft[item.clip] for item in asked])
        for place, text in zip(places, texts, strict=True):
            answers[place] = text
    return answers


def conversation(question: Question, *clips: MediaPart) -> list[Message]:
    """What a user sends: the clips in the first message, then the dialogue so far and the question."""
    texts = [*(text for turn in question.before for text in turn), question.text]
    messages = [Message("assistant" if n % 2 else "user", (TextPart(text),)) for n, text in enumerate(texts)]
    return [Message("user", (*clips, *messages[0].parts)), *messages[1:]]


def end_ids(model: FavorForConditionalGeneration, processor: FavorProcessor) -> list[int]:
    """Tokens that end an answer."""
    given = model.generation_config.eos_token_id
    own = given if isinstance(given, list) else [given]
    return sorted({token for token in (*own, processor.tokenizer.eos_token_id) if token is not None})


_RECEIPT = Receipt("a clip", 0.0, None, None, ())


def _encoded(
    model: FavorForConditionalGeneration, processor: FavorProcessor, clips: Sequence[Clip]
) -> Iterator[Streams]:
    config, like = model.config, next(model.vision.parameters())
    inputs = processor.clip_tensors(clips)
    nothing = torch.zeros(len(clips), 0, dtype=torch.long, device=like.device)
    visual = like.new_zeros(0, config.num_image_query_tokens, config.connector_config.visual_width)
    audio = like.new_zeros(0, 25, config.audio_config.d_model)
    if "pixel_values" in inputs:
        pixels, num_frames = inputs["pixel_values"].to(like), inputs["num_frames"].to(like.device)
        visual = model.get_visual_features(pixels, num_frames, nothing, nothing)
    if "input_features" in inputs:
        audio = model.get_audio_features(inputs["input_features"].to(like))
    size = config.audio_chunk_steps
    steps = [num_audio_chunks(clip.num_audio_steps, size) * size for clip in clips]
    frames = visual.split([len(clip.frames) for clip in clips])
    for clip, seen, heard in zip(clips, frames, audio.split(steps)):
        yield Streams(seen, heard, clip.num_audio_steps, clip.is_image)


def _soft_tokens(model: FavorForConditionalGeneration, clip: Streams | None) -> Tensor | None:
    """(soft tokens, D) of one clip."""
    if clip is None:
        return None
    nothing = torch.zeros(1, 0, dtype=torch.long, device=clip.visual.device)
    return model.get_soft_tokens(
        num_frames=torch.tensor([len(clip.visual)]),
        num_audio_steps=torch.tensor([clip.num_audio_steps]),
        is_image=torch.tensor([clip.is_image]),
        instruction_ids=nothing,
        instruction_mask=nothing,
        visual_features=clip.visual,
        audio_features=clip.audio,
    ).soft_tokens


def _generate(
    model: FavorForConditionalGeneration,
    processor: FavorProcessor,
    questions: Sequence[Question],
    soft: Sequence[Tensor | None],
) -> list[str]:
    chats = [conversation(question, *(_CLIP,) * (clip is not None)) for question, clip in zip(questions, soft)]
    numbers = [[] if clip is None else [len(clip)] for clip in soft]
    inputs = {name: value.to(model.device) for name, value in processor.prompt_tensors(chats, numbers).items()}
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    given = [clip.to(embeds) for clip in soft if clip is not None]
    if given:
        embeds[inputs["input_ids"] == processor.placeholder_token_id] = torch.cat(given)
    written = greedily(model, processor)(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])
    return processor.batch_decode(written, skip_special_tokens=True)


def greedily(model: FavorForConditionalGeneration, processor: FavorProcessor) -> partial[Tensor]:
    """``model.generate`` as every answer of an exam is searched for."""
    return partial(
        model.generate,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        eos_token_id=end_ids(model, processor),
        pad_token_id=processor.tokenizer.eos_token_id,
    )


def _pieces(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
