"""What encoders are taught with before any language: dense labels, and the heads that must read them off.

A head is thrown away afterwards. Each lays down what the encoder's output must hold, and where: patches know what lies
under them, most queries know the whole frame (without that the connector did not start to learn at all), the last
queries spell the sign, and sound vectors name the sound and the word of their 20 ms.

Shapes: F frames, P patches, Q image queries, C object classes (24), B pieces of sound, T sound vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from favor.encoders import InstructBlipEncoder, WhisperAudioEncoder
from training.world import vocabulary
from training.world.picture import NO_OBJECT, PictureLabels

NUM_SET_TRAITS = 3
"""Of every object class: present, flashing, big."""

_PRESENT_WEIGHT, _PATCH_WEIGHT, _CHARACTER_WEIGHT, _PLACE_WEIGHT = 10.0, 1.0, 1.0, 5.0
_SILENCE_WEIGHT = 0.5


class PictureHeads(nn.Module):
    """Reads dense picture labels off the vision encoder."""

    def __init__(self, vision: InstructBlipEncoder) -> None:
        super().__init__()
        self.vision = vision
        patch_width = vision.vit.model.config.hidden_size
        width = vision.query_tokens.shape[-1]
        self.num_set_queries = vision.query_tokens.shape[1] - vocabulary.MAX_PRINTED_CHARACTERS
        self.patches = nn.Linear(patch_width, NO_OBJECT + 2)
        self.sets = nn.Linear(width, NO_OBJECT * (NUM_SET_TRAITS + 2))
        self.characters = nn.Linear(width, len(vocabulary.PRINTED_CHARACTERS) + 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Read frames.

        Args:
            frames: (F, 3, size, size) normalised.

        Returns:
            patches (F, P, C + 2), the last column flashing; sets (F, Q', C, 3); places (F, Q', C, 2); characters
            (F, 5, 37).
        """
        patches = self.vision.vit(frames)  # (F, 1 + P, width)
        nothing = torch.zeros(len(frames), 0, dtype=torch.long, device=frames.device)
        queries = self.vision.read(patches, nothing, nothing)  # (F, Q, width)
        sets = self.sets(queries[:, : self.num_set_queries]).unflatten(-1, (NO_OBJECT, NUM_SET_TRAITS + 2))
        characters = self.characters(queries[:, self.num_set_queries :])
        return self.patches(patches[:, 1:]), sets[..., :NUM_SET_TRAITS], sets[..., NUM_SET_TRAITS:], characters

    def loss(self, frames: Tensor, labels: PictureLabels) -> Tensor:
        """Scalar."""
        patches, sets, places, characters = (each.float() for each in self(frames))
        of_patch = torch.from_numpy(labels.patch_class).flatten()
        flashing = torch.from_numpy(labels.patch_flashing).flatten().float()
        patch_loss = cross_entropy(patches[..., :-1].flatten(0, 1), of_patch)
        patch_loss = patch_loss + binary_cross_entropy_with_logits(patches[..., -1].flatten(), flashing)
        target, present = _set_target(labels), torch.from_numpy(labels.present)
        asked = torch.ones_like(target)
        asked[..., 2] = present.float()  # size is asked only of what is there
        bce = binary_cross_entropy_with_logits(sets, target[:, None].expand_as(sets), reduction="none")
        set_loss = (bce * asked[:, None]).mean()
        off = (places - torch.from_numpy(labels.places)[:, None]).abs().sum(-1)  # (F, Q', C)
        place_loss = (off * present[:, None]).sum() / (present.sum() * places.shape[1]).clamp(min=1)
        letters = torch.from_numpy(labels.characters)
        spelt = cross_entropy(characters.flatten(0, 1), letters.flatten(), reduction="none").view_as(letters)
        has_sign = (letters < len(vocabulary.PRINTED_CHARACTERS)).any(dim=1)
        character_loss = (spelt * torch.where(has_sign, 1.0, 0.1)[:, None]).mean()
        return (
            _PATCH_WEIGHT * patch_loss
            + _PRESENT_WEIGHT * set_loss
            + _PLACE_WEIGHT * place_loss
            + _CHARACTER_WEIGHT * character_loss
        )

    @torch.no_grad()
    def scores(self, frames: Tensor, labels: PictureLabels) -> dict[str, float]:
        """Shares read exactly right, of one query chosen by nothing (the first) and of the characters."""
        patches, sets, places, characters = (each.float() for each in self(frames))
        found, target = sets[:, 0] > 0, _set_target(labels) > 0.5
        present = target[..., 0]
        letters = torch.from_numpy(labels.characters)
        has_sign = (letters < len(vocabulary.PRINTED_CHARACTERS)).any(dim=1)
        right_sign = (characters.argmax(-1) == letters).all(dim=1)
        off = (places[:, 0] - torch.from_numpy(labels.places)).norm(dim=-1)
        right_patch = patches[..., :-1].argmax(-1) == torch.from_numpy(labels.patch_class)
        return {
            "patch": float(right_patch[torch.from_numpy(labels.patch_class) < NO_OBJECT].float().mean()),
            "objects": float((found[..., 0] == present).all(dim=1).float().mean()),
            "flashing": float((found[..., 1] == target[..., 1]).all(dim=1).float().mean()),
            "flash_seen": float(found[..., 1][target[..., 1]].float().mean()),
            "size": float((found[..., 2] == target[..., 2])[present].float().mean()),
            "place_error": float(off[present].mean()),
            "sign": float(right_sign[has_sign].float().mean()),
            "no_sign": float(right_sign[~has_sign].float().mean()),
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
            errors += _edits(_runs(found, nothing=self.num_words, shortest=4), reference)
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


def _set_target(labels: PictureLabels) -> Tensor:
    """(F, C, 3) float: present, flashing, big."""
    traits = (labels.present, labels.flashing, labels.big)
    return torch.stack([torch.from_numpy(each) for each in traits], dim=-1).float()


def _runs(classes: list[int], *, nothing: int, shortest: int) -> list[int]:
    """Runs of one class, at least ``shortest`` long, without nothing."""
    found, start = [], 0
    for place in range(1, len(classes) + 1):
        if place == len(classes) or classes[place] != classes[start]:
            if classes[start] != nothing and place - start >= shortest:
                found.append(classes[start])
            start = place
    return found


def _edits(given: list[int], wanted: list[int]) -> int:
    """Levenshtein distance."""
    row = list(range(len(wanted) + 1))
    for number, one in enumerate(given, start=1):
        previous, row[0] = row[0], number
        for place, other in enumerate(wanted, start=1):
            previous, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, previous + (one != other))
    return row[-1]
