"""What encoders are taught with before any language: dense labels, and the heads that must read them off.

A head is thrown away afterwards. Each lays down what the encoder's output must hold, and where: patches know what lies
under them, most queries know the whole frame (without that the connector did not start to learn at all), the last
queries spell the sign, and sound vectors name the sound and the word of their 20 ms.

Shapes: F frames, P patches, Q image queries, B pieces of sound, T sound vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from favor.encoders import InstructBlipEncoder, WhisperAudioEncoder
from training.world import vocabulary
from training.world.exam.scores import edits
from training.world.picture import BLANK, NO_OBJECT, PATCHES_PER_SIDE, PictureLabels

_SHAPE_WEIGHT, _FLASH_WEIGHT, _SIZE_WEIGHT, _PLACE_WEIGHT = 1.0, 2.0, 0.5, 2.0
_SILENCE_WEIGHT = 0.5

_NUM_COLOURS, _NUM_SHAPES = len(vocabulary.COLOURS), len(vocabulary.SHAPES)


class SetTarget(NamedTuple):
    """What a frame shows, colour by colour: no two things of a scene share one. All (F, 6), places (F, 6, 2).

    ``shape`` counts only where ``present``, and so do ``flashing``, ``big`` and ``places``.
    """

    present: Tensor
    shape: Tensor
    flashing: Tensor
    big: Tensor
    places: Tensor

    @classmethod
    def of(cls, labels: PictureLabels) -> SetTarget:
        present, flashing, big = (
            torch.from_numpy(each).unflatten(1, (_NUM_COLOURS, _NUM_SHAPES))
            for each in (labels.present, labels.flashing, labels.big)
        )  # (F, 6, 4)
        places = torch.from_numpy(labels.places).unflatten(1, (_NUM_COLOURS, _NUM_SHAPES)).sum(2)
        shape = present.int().argmax(2)
        return cls(present.any(2), shape.long(), flashing.any(2), big.any(2), places)


class SetHead(nn.Module):
    """Reads everything that a frame shows off every single token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widths = (1, _NUM_SHAPES, 1, 1, 2)  # present, shape, flashing, big, place
        self.output = nn.Linear(width, _NUM_COLOURS * sum(self.widths))

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """(F, Q, width) to present (F, Q, 6), shape (F, Q, 6, 4), flashing, big (F, Q, 6), places (F, Q, 6, 2)."""
        found = self.output(tokens).float().unflatten(-1, (_NUM_COLOURS, -1)).split(self.widths, dim=-1)
        return tuple(each.squeeze(-1) if each.shape[-1] == 1 else each for each in found)

    def loss(self, tokens: Tensor, target: SetTarget) -> Tensor:
        """Scalar: a mean over frames and tokens."""
        present, shape, flashing, big, places = self(tokens)
        number = tokens.shape[1]
        is_there = target.present[:, None].expand_as(present)

        def where_present(each: Tensor) -> Tensor:
            return (each * is_there).sum() / is_there.sum().clamp(min=1)

        def expanded(each: Tensor) -> Tensor:
            return each[:, None].expand(-1, number, *each.shape[1:])

        presence = binary_cross_entropy_with_logits(present, is_there.float())
        of_shape = cross_entropy(shape.flatten(0, 2), expanded(target.shape).flatten(), reduction="none")
        flash, size = (
            binary_cross_entropy_with_logits(found, expanded(wanted).float(), reduction="none")
            for found, wanted in ((flashing, target.flashing), (big, target.big))
        )
        place = (places - expanded(target.places)).abs().sum(-1)
        return (
            2 * presence
            + _SHAPE_WEIGHT * where_present(of_shape.view_as(present))
            + _FLASH_WEIGHT * where_present(flash)
            + _SIZE_WEIGHT * where_present(size)
            + _PLACE_WEIGHT * where_present(place)
        )


class PictureHeads(nn.Module):
    """Reads dense picture labels off the vision encoder."""

    def __init__(self, vision: InstructBlipEncoder) -> None:
        super().__init__()
        self.vision = vision
        patch_width = vision.vit.model.config.hidden_size
        width = vision.query_tokens.shape[-1]
        self.num_set_queries = vision.query_tokens.shape[1] - vocabulary.MAX_PRINTED_CHARACTERS
        self.patches = nn.Linear(patch_width, _NUM_COLOURS + 1 + _NUM_SHAPES + 1 + 1)
        self.patch_sets = SetHead(patch_width)
        self.query_sets = SetHead(width)
        self.characters = nn.Linear(width, len(vocabulary.PRINTED_CHARACTERS) + 1)
        self.patch_characters = nn.Linear(patch_width, 2 * (len(vocabulary.PRINTED_CHARACTERS) + 1))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Patches (F, P, patch width), queries that know the frame (F, Q', width), queries that spell (F, 5, width)."""
        patches = self.vision.vit(frames)  # (F, 1 + P, width)
        nothing = torch.zeros(len(frames), 0, dtype=torch.long, device=frames.device)
        queries = self.vision.read(patches, nothing, nothing)  # (F, Q, width)
        return patches[:, 1:], queries[:, : self.num_set_queries], queries[:, self.num_set_queries :]

    def loss(self, frames: Tensor, labels: PictureLabels) -> Tensor:
        """Scalar."""
        patches, queries, spelling = self(frames)
        target = SetTarget.of(labels)
        sets = self.query_sets.loss(queries, target) + 0.5 * self.patch_sets.loss(patches, target)
        letters = torch.from_numpy(labels.characters)
        spelt = cross_entropy(self.characters(spelling).float().flatten(0, 1), letters.flatten(), reduction="none")
        has_sign = (letters < BLANK).any(dim=1)
        characters = (spelt.view_as(letters) * torch.where(has_sign, 1.0, 0.1)[:, None]).mean()
        return sets + self._patch_loss(patches, labels) + 2 * characters

    def _patch_loss(self, patches: Tensor, labels: PictureLabels) -> Tensor:
        patches = _pooled(patches, side=PATCHES_PER_SIDE)
        of_colour, of_shape, flashing = self.patches(patches).float().split((_NUM_COLOURS + 1, _NUM_SHAPES + 1, 1), -1)
        classes = torch.from_numpy(labels.patch_class)
        is_thing = classes < NO_OBJECT
        colour = torch.where(is_thing, classes // _NUM_SHAPES, _NUM_COLOURS)
        shape = torch.where(is_thing, classes % _NUM_SHAPES, _NUM_SHAPES)
        wanted = torch.from_numpy(labels.patch_flashing).float()
        letters = torch.from_numpy(labels.patch_characters)  # (F, P', 2)
        spelt = self.patch_characters(patches).float().unflatten(-1, (2, -1))
        of_letter = cross_entropy(spelt.flatten(0, 2), letters.flatten(), reduction="none").view_as(letters)
        weight = torch.where(letters < BLANK, 1.0, 0.02)
        return (
            (of_letter * weight).sum() / weight.sum()
            + cross_entropy(of_colour.flatten(0, 1), colour.flatten())
            + cross_entropy(of_shape.flatten(0, 1), shape.flatten())
            + binary_cross_entropy_with_logits(flashing.squeeze(-1), wanted)
        )

    @torch.no_grad()
    def scores(self, frames: Tensor, labels: PictureLabels) -> dict[str, float]:
        """Shares read exactly right off one query (the first), and off the spelling ones."""
        _, queries, spelling = self(frames)
        target = SetTarget.of(labels)
        present, shape, flashing, big, places = (each[:, 0] for each in self.query_sets(queries))
        there = target.present
        letters = torch.from_numpy(labels.characters)
        has_sign = (letters < BLANK).any(dim=1)
        right_sign = (self.characters(spelling).argmax(-1) == letters).all(dim=1)
        right_set = (present > 0) == there
        right_shape = shape.argmax(-1) == target.shape
        right_flash = (flashing > 0) == target.flashing
        return {
            "colours": _share(right_set.all(1)),
            "objects": _share((right_set & (right_shape | ~there)).all(1)),
            "shape": _share(right_shape[there]),
            "flashing": _share(right_flash[there]),
            "flash_seen": _share((flashing > 0)[target.flashing]),
            "size": _share(((big > 0) == target.big)[there]),
            "place_error": _share((places - target.places).norm(dim=-1)[there]),
            "sign": _share(right_sign[has_sign]),
            "no_sign": _share(right_sign[~has_sign]),
        }


class SoundHeads(nn.Module):
    """Reads dense sound labels off the audio encoder."""

    def __init__(self, audio: WhisperAudioEncoder) -> None:
        super().__init__()
        self.audio = audio
        width = audio.model.config.d_model
        self.num_sounds, self.num_words = len(vocabulary.SOUNDS), len(vocabulary.SPOKEN_WORDS)
        self.sounds = nn.Linear(width, self.num_sounds + 1)
        self.words = nn.Linear(width, self.num_words + 1)

    def forward(self, mels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, mel bins, 2 T) to sounds (B, T, 9) and words (B, T, words + 1)."""
        hidden = self.audio(mels)
        return self.sounds(hidden), self.words(hidden)

    def loss(self, mels: Tensor, sounds: Tensor, words: Tensor) -> Tensor:
        """Scalar; silence, which is most of the time, counts half."""
        total = mels.new_zeros(())
        for logits, labels, number in zip(self(mels), (sounds, words), (self.num_sounds, self.num_words), strict=True):
            each = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
            weight = torch.where(labels.flatten() == number, _SILENCE_WEIGHT, 1.0)
            total = total + (each * weight).sum() / weight.sum()
        return total

    @torch.no_grad()
    def scores(self, mels: Tensor, sounds: Tensor, words: Tensor) -> dict[str, float]:
        """Shares of the 20 ms pieces that are named right, and word errors of the runs of words."""
        found_sounds, found_words = (each.argmax(-1) for each in self(mels))
        heard, spoken = sounds < self.num_sounds, words < self.num_words
        errors = total = 0
        for found, true in zip(found_words.tolist(), words.tolist(), strict=True):
            reference = _runs(true, nothing=self.num_words, shortest=1)
            errors += edits(_runs(found, nothing=self.num_words, shortest=4), reference)
            total += len(reference)
        return {
            "sound": float((found_sounds == sounds)[heard].float().mean()),
            "no_sound": float((found_sounds == sounds)[~heard].float().mean()),
            "word": float((found_words == words)[spoken].float().mean()),
            "word_errors": errors / max(total, 1),
        }


def join(labels: Sequence[PictureLabels]) -> PictureLabels:
    """The labels of several runs of frames as those of one."""
    columns = [np.concatenate([getattr(each, column.name) for each in labels]) for column in fields(PictureLabels)]
    return PictureLabels(*columns)


def _pooled(patches: Tensor, *, side: int) -> Tensor:
    """(F, P, width) to (F, side * side, width): the mean of every block of a finer grid of patches."""
    per_side = math.isqrt(patches.shape[1])
    if per_side == side:
        return patches
    grid = patches.unflatten(1, (side, per_side // side, side, per_side // side))
    return grid.mean(dim=(2, 4)).flatten(1, 2)


def _share(values: Tensor) -> float:
    return float(values.float().mean())


def _runs(classes: list[int], *, nothing: int, shortest: int) -> list[int]:
    """Runs of one class, at least ``shortest`` long, without nothing."""
    found, start = [], 0
    for place in range(1, len(classes) + 1):
        if place == len(classes) or classes[place] != classes[start]:
            if classes[start] != nothing and place - start >= shortest:
                found.append(classes[start])
            start = place
    return found
