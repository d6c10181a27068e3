"""A model in two halves: frozen encoders that only run, and what the engine trains.

Frozen encoders stay outside the engine. So no checkpoint can hold them, no ZeRO stage splits them, and a rank whose
batch lacks a stream need not run them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from favor.connector import ConnectorOutput
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorInputs
from favor.prompt import IGNORED
from favor.sync import AUDIO_FRAMES_PER_STEP, ClipSteps, WindowPlan

Inputs = dict[str, Tensor]

TEXT_INPUTS = ("input_ids", "attention_mask", "position_ids", "labels")
"""What of a batch belongs to the language model; the rest are media."""


class LossSums(NamedTuple):
    """Losses of one micro-batch as sums, so that any split of a batch adds up to the same.

    Args:
        language: scalar, cross-entropy summed over target tokens.
        diversity: scalar, mean diversity of a window times the number of windows.
        num_tokens, num_windows: what the sums run over.
    """

    language: Tensor
    diversity: Tensor
    num_tokens: int
    num_windows: int


class FrozenEncoders:
    """The encoders that do not learn, taken out of a model; an adapter still works inside them."""

    def __init__(self, model: FavorForConditionalGeneration, device: torch.device) -> None:
        is_adapted = model.adapter is not None
        found = {}
        for name in ("vision", "audio"):
            encoder = getattr(model, name)
            is_taken = encoder.is_frozen
            if is_taken:
                encoder.to(device)
                setattr(model, name, None)
            if is_taken and is_adapted:
                _lend(model, name, encoder)
            found[name] = encoder if is_taken and not is_adapted else None
        self.vision, self.audio = found["vision"], found["audio"]

    @torch.no_grad()
    def encode(self, inputs: Inputs) -> Inputs:
        """Replace pixels and mels by the frozen encoders' features; features that came from a cache stay."""
        inputs = dict(inputs)
        if self.vision is not None and (pixels := inputs.pop("pixel_values", None)) is not None:
            clip_of_frame = torch.repeat_interleave(inputs["num_frames"])
            ids, mask = (inputs[name][clip_of_frame] for name in ("instruction_ids", "instruction_mask"))
            inputs["visual_features"] = self.vision(pixels, ids, mask)
        if self.audio is not None and (mels := inputs.pop("input_features", None)) is not None:
            steps = self.audio(mels).flatten(0, 1)
            inputs["audio_features"] = steps.unflatten(0, (-1, AUDIO_FRAMES_PER_STEP))
        return inputs


def _lend(model: nn.Module, name: str, encoder: nn.Module) -> None:
    """Let a model use an encoder that is none of its parts: no engine sees, splits, casts or saves it."""
    del model._modules[name]
    model.__dict__[name] = encoder


class TrainedModel(nn.Module):
    """What the engine holds: connector, language model and any encoder that learns."""

    def __init__(self, model: FavorForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> LossSums:
        """Losses of one micro-batch; without clips the connector still runs, on zeros that count nothing.

        So every rank runs the same trained modules in the same order, whatever its batch holds.
        """
        media = {name: value for name, value in inputs.items() if name not in TEXT_INPUTS}
        has_clips = "num_frames" in media
        media = self._encoded(media)
        clips = self.model.get_soft_tokens(**media) if has_clips else self._nothing(media)
        embeds = self.model.embed(inputs["input_ids"], clips if has_clips else None)
        if not has_clips:
            embeds = embeds + 0.0 * clips.soft_tokens.sum().to(embeds.dtype)
        logits = self.model.language_model(
            inputs_embeds=embeds, attention_mask=inputs["attention_mask"], position_ids=inputs.get("position_ids")
        ).logits
        targets = inputs["labels"][:, 1:]
        is_asked = targets != IGNORED
        asked = logits[:, :-1][is_asked].float()  # a packed row asks for a sixth of its tokens
        language = cross_entropy(asked, targets[is_asked], reduction="sum")  # 0, with a graph, where nothing is asked
        num_windows = len(clips.queries) if has_clips else 0
        return LossSums(
            language=language,
            diversity=clips.diversity.float() * num_windows,
            num_tokens=len(asked),
            num_windows=num_windows,
        )

    def _encoded(self, media: Inputs) -> Inputs:
        """Features of encoders that learn, in place of what they see and hear.

        An encoder without input in this batch runs on zeros, in its turn, and gives no features that depend on it. So
        gradients come on every process in one order and along the same ways: ZeRO would sum those of different weights.
        """
        model, media = self.model, dict(media)
        if model.adapter is not None:  # which runs the encoders itself
            if "num_frames" not in media:
                media["visual_features"], media["audio_features"] = model.idle_features()
            return media
        if model.vision is not None:
            media["visual_features"] = self._seen(media, media.pop("pixel_values", None))
        if model.audio is not None:
            mels = media.pop("input_features", None)
            heard = model.get_audio_features(self._silence() if mels is None else mels)
            media["audio_features"] = heard[:0] if mels is None else heard
        return media

    def _seen(self, media: Inputs, pixels: Tensor | None) -> Tensor:
        if pixels is not None:
            question = media["instruction_ids"], media["instruction_mask"]
            return self.model.get_visual_features(pixels, media["num_frames"], *question)
        frame = self._black_frame()
        nobody = torch.zeros(1, 0, dtype=torch.long, device=frame.device)
        return self.model.vision(frame, nobody, nobody)[:0]

    def _black_frame(self) -> Tensor:
        size, like = self.model.vision.vit.model.config.image_size, self.model.vision.query_tokens
        return torch.zeros(1, 3, size, size, dtype=like.dtype, device=like.device)

    def _silence(self) -> Tensor:
        model = self.model.audio.model
        like = model.conv1.weight
        return torch.zeros(1, model.num_mel_bins, 2 * model.max_source_positions, dtype=like.dtype, device=like.device)

    def _nothing(self, media: Inputs) -> ConnectorOutput:
        """The connector's output for one step of zeros, which hangs on the features that there are, of no rows."""
        config = self.model.config.connector_config
        like = next(self.model.connector.parameters())
        chunk_steps = self.model.config.audio_chunk_steps
        visual = like.new_zeros(1, config.tokens_per_step, config.visual_width)
        audio = like.new_zeros(chunk_steps, AUDIO_FRAMES_PER_STEP, config.audio_widths[0])
        if "visual_features" in media:
            visual = visual + media["visual_features"].sum().to(like.dtype)
        if "audio_features" in media:
            audio = audio + media["audio_features"].sum().to(like.dtype)
        step = ClipSteps.of_clip(num_frames=1, num_audio_steps=1, is_image=False, chunk_steps=chunk_steps)
        return self.model.connector(visual, [audio], WindowPlan.of([step], window_steps=config.window_steps))


def as_inputs(inputs: FavorInputs | None, *, end_token_id: int, device: torch.device) -> Inputs:
    """A batch on its device; a batch of which every sample was bad becomes one token that nobody asks about."""
    if inputs is None:
        token = torch.tensor([[end_token_id]], device=device)
        return {"input_ids": token, "attention_mask": torch.ones_like(token), "labels": torch.full_like(token, IGNORED)}
    return {name: value.to(device) for name, value in inputs.items()}
