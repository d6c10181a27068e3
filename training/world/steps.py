"""What the steps of a clip show, as dense labels, and the heads that must read it off a vector for each of them.

Where the vectors come from is another module's business: ``connect`` hands in two queries for every step, the ablation
a reader of the soft tokens.

Shapes: S steps of all clips, F of them with a frame, A of them with sound, C colours, K names of a thing, H width of
the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from favor.sync import AUDIO_FRAMES_PER_STEP, STEP_S, num_steps, num_windows, step_centres_s
from training.world import picture, sound, vocabulary
from training.world.dense import SetHead, SetTarget, join
from training.world.happenings import MOTIONS, NAMES, UNKNOWN, WHAT, ZONES, Happenings, happenings_of
from training.world.scene import Scene
from training.world.shards import StreamName

WORDS_PER_STEP = 2
"""Words that may begin in half a second; a third one is not asked for."""

_NO_WORD = len(vocabulary.SPOKEN_WORDS)
_SHORTEST_WORD = 2  # in sound vectors of 20 ms

RARE = 8.0
"""How much more a step counts in which something begins: without, no leaving was found in 750 steps of `connect`."""

STAYING = 0.2
"""How much less a thing counts that stays, as four in five do."""


class StepTarget(NamedTuple):
    """What is seen and heard in every step.

    Args:
        is_seen: (S,) bool, the step has a frame. labels: of those frames alone, in order.
        is_heard: (S,) bool, the step has sound.
        sounds, begins: (S, 8) float, which sounds are heard, and which begin.
        words: (S, 2) int64, the words that begin, in order; the number of words where none does.
        happenings: what things do in every step.
    """

    is_seen: Tensor
    labels: picture.PictureLabels
    is_heard: Tensor
    sounds: Tensor
    begins: Tensor
    words: Tensor
    happenings: Happenings

    @classmethod
    def joined(cls, targets: Sequence[StepTarget]) -> StepTarget:
        names = [name for name in cls._fields if name not in ("labels", "happenings")]
        columns = {name: torch.cat([getattr(each, name) for each in targets]) for name in names}
        happenings = Happenings.joined([each.happenings for each in targets])
        return cls(labels=join([each.labels for each in targets]), happenings=happenings, **columns)

    def without(self, stream: StreamName) -> StepTarget:
        """Nothing is asked of the stream."""
        if stream == "sound":
            return self._replace(is_heard=torch.zeros_like(self.is_heard))
        columns = (getattr(self.labels, column.name) for column in fields(picture.PictureLabels))
        labels = picture.PictureLabels(*(column[:0] for column in columns))
        return self._replace(is_seen=torch.zeros_like(self.is_seen), labels=labels)


def target_of(scene: Scene, *, window_steps: int) -> StepTarget:
    """The target of one clip, filled up to whole windows."""
    length = max(num_steps(scene.seconds), 1)
    filled = num_windows(length, window_steps) * window_steps
    is_seen, is_heard = torch.zeros(filled, dtype=torch.bool), torch.zeros(filled, dtype=torch.bool)
    is_seen[:length], is_heard[:length] = scene.has_picture, scene.has_sound
    times = step_centres_s(length) if scene.has_picture else []
    heard = sound.label(scene, length * AUDIO_FRAMES_PER_STEP) if scene.has_sound else None
    sounds, begins = torch.zeros(filled, len(vocabulary.SOUNDS)), torch.zeros(filled, len(vocabulary.SOUNDS))
    words = torch.full((filled, WORDS_PER_STEP), _NO_WORD)
    if heard is not None:
        _fill_sounds(sounds, begins, scene)
        _fill_words(words, heard.words)
    happenings = happenings_of(scene, steps=length, filled=filled)
    return StepTarget(is_seen, picture.label(scene, times), is_heard, sounds, begins, words, happenings)


def _fill_sounds(sounds: Tensor, begins: Tensor, scene: Scene) -> None:
    """A sound is heard in the steps that it fills by a fifth or more."""
    for event in scene.sounds:
        kind = vocabulary.SOUNDS.index(event.kind)
        first, last = int(event.span.start_s / STEP_S), int((event.span.end_s - 0.1) / STEP_S)
        first = min(first + (event.span.start_s - STEP_S * first > 0.4), last)
        sounds[first : last + 1, kind] = 1.0
        begins[first, kind] = 1.0


def _fill_words(words: Tensor, heard: np.ndarray) -> None:
    """A word stands in the step in which it begins."""
    begins = np.flatnonzero(np.diff(heard, prepend=_NO_WORD) != 0)
    ends = np.append(begins, len(heard))[1:]
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        if heard[begin] == _NO_WORD or end - begin < _SHORTEST_WORD:
            continue
        slots = words[begin // AUDIO_FRAMES_PER_STEP]
        free = (slots == _NO_WORD).nonzero()
        if len(free):
            slots[int(free[0])] = int(heard[begin])


class StepVectors(NamedTuple):
    """Of every step of a :class:`StepTarget`.

    Args:
        seeing, hearing: (S, H), what the heads for the picture read, and those for the sound.
        diversity: scalar, the connector's diversity loss.
    """

    seeing: Tensor
    hearing: Tensor
    diversity: Tensor


class Told(NamedTuple):
    """What is said of the steps with a frame (F rows) and of those with sound (A rows).

    Args:
        present, flashing: (F, C) bool. shape: (F, C) int64, counts where present. places: (F, C, 2).
        characters: (F, 5) int64.
        begun: (F, 4, C) bool. zones: (F, K, 2), motions: (F, K) int64.
        sounds, begins: (A, 8) bool. words: (A, 2) int64.
    """

    present: Tensor
    flashing: Tensor
    shape: Tensor
    places: Tensor
    characters: Tensor
    begun: Tensor
    zones: Tensor
    motions: Tensor
    sounds: Tensor
    begins: Tensor
    words: Tensor

    @classmethod
    def truth(cls, target: StepTarget) -> Told:
        """What would be right; UNKNOWN zones and motions stay so."""
        frames = SetTarget.of(target.labels)
        begun, zones, motions = (each[target.is_seen] for each in target.happenings)
        sounds, begins, words = (each[target.is_heard] for each in (target.sounds, target.begins, target.words))
        return cls(
            present=frames.present,
            flashing=frames.flashing,
            shape=frames.shape,
            places=frames.places,
            characters=torch.from_numpy(target.labels.characters),
            begun=begun > 0.5,
            zones=zones,
            motions=motions,
            sounds=sounds > 0.5,
            begins=begins > 0.5,
            words=words,
        )

    @classmethod
    def joined(cls, parts: Sequence[Told]) -> Told:
        return cls(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def shares(told: Told, target: StepTarget) -> dict[str, float]:
    """Shares of steps that are told exactly, of words and beginnings that are told; NaN where there are none.

    ``binding``: of the steps in which a sound begins while a thing flashes, those where both are told right, which
    sounds begin and which colours flash.
    """
    true = Told.truth(target)
    right = (told.present == true.present) & ((told.shape == true.shape) | ~true.present)
    right_flash = (told.flashing == true.flashing).all(dim=1)
    right_begin = (told.begins == true.begins).all(dim=1)
    has_sign = (true.characters < picture.BLANK).any(dim=1)
    of_frames, of_sounds = target.is_heard[target.is_seen], target.is_seen[target.is_heard]  # the steps with both
    is_bound = true.flashing.any(dim=1)[of_frames] & true.begins.any(dim=1)[of_sounds]
    return {
        "objects": _share(right.all(dim=1)),
        "flashing": _share(right_flash),
        "sign": _share((told.characters == true.characters).all(dim=1)[has_sign]),
        "zones": _share((told.zones == true.zones)[true.zones != UNKNOWN]),
        "motions": _share((told.motions == true.motions)[true.motions != UNKNOWN]),
        **{f"{what}_found": _share(told.begun[:, n][true.begun[:, n]]) for n, what in enumerate(WHAT)},
        "sounds": _share((told.sounds == true.sounds).all(dim=1)),
        "begins": _share(right_begin),
        "begins_found": _share(told.begins[true.begins]),
        "words": _share((told.words == true.words)[true.words != _NO_WORD]),
        "binding": _share((right_flash[of_frames] & right_begin[of_sounds])[is_bound]),
    }


class StepHeads(nn.Module):
    """Tells what every step shows from its vectors; both are taught together.

    Args:
        steps: media inputs to :class:`StepVectors`.
        width: of the vectors.
        diversity_weight: of the connector's diversity loss in the whole.
    """

    def __init__(self, steps: nn.Module, *, width: int, diversity_weight: float) -> None:
        super().__init__()
        self.steps, self.diversity_weight = steps, diversity_weight
        self.sets = SetHead(width)
        self.characters = nn.Linear(width, vocabulary.MAX_PRINTED_CHARACTERS * (picture.BLANK + 1))
        self.begun = nn.Linear(width, len(WHAT) * len(vocabulary.COLOURS))
        self.zones = nn.Linear(width, len(NAMES) * 2 * ZONES)
        self.motions = nn.Linear(width, len(NAMES) * len(MOTIONS))
        self.sounds = nn.Linear(width, 2 * len(vocabulary.SOUNDS))
        self.words = nn.Linear(width, WORDS_PER_STEP * (_NO_WORD + 1))

    def forward(self, media: dict[str, Tensor]) -> StepVectors:
        """The vectors of all steps."""
        made: StepVectors = self.steps(media)
        return made

    def loss(self, media: dict[str, Tensor], target: StepTarget) -> Tensor:
        """Scalar."""
        seeing, hearing, diversity = self(media)
        total = self.diversity_weight * diversity.float()
        if target.is_seen.any():
            total = total + self._loss_of_frames(seeing[target.is_seen], target)
        if target.is_heard.any():
            total = total + self._loss_of_sound(hearing[target.is_heard], target)
        return total

    def _loss_of_frames(self, seen: Tensor, target: StepTarget) -> Tensor:
        total = self.sets.loss(seen[:, None], SetTarget.of(target.labels))
        letters = torch.from_numpy(target.labels.characters)
        each = cross_entropy(self._spelt(seen).flatten(0, 1), letters.flatten(), reduction="none").view_as(letters)
        has_sign = (letters < picture.BLANK).any(dim=1)
        total = total + (each * torch.where(has_sign, 1.0, 0.1)[:, None]).mean() * 2
        begun, zones, motions = (each[target.is_seen] for each in target.happenings)
        rare = torch.full(begun.shape[1:], RARE)
        total = total + 5 * binary_cross_entropy_with_logits(self._begun(seen), begun, pos_weight=rare)
        moving = torch.tensor([STAYING if word == "stays" else 1.0 for word in MOTIONS])
        for told, wanted, weight in ((self._zones(seen), zones, None), (self._motions(seen), motions, moving)):
            if (wanted != UNKNOWN).any():
                flat = told.flatten(0, -2), wanted.flatten()
                total = total + cross_entropy(*flat, weight=weight, ignore_index=UNKNOWN)
        return total

    def _loss_of_sound(self, heard: Tensor, target: StepTarget) -> Tensor:
        active, begin = self._heard(heard)
        total = 5 * binary_cross_entropy_with_logits(active, target.sounds[target.is_heard])
        total = total + 5 * binary_cross_entropy_with_logits(begin, target.begins[target.is_heard])
        wanted = target.words[target.is_heard].flatten()
        each = cross_entropy(self._spoken(heard).flatten(0, 1), wanted, reduction="none")
        weight = torch.where(wanted == _NO_WORD, 0.1, 1.0)
        return total + (each * weight).sum() / weight.sum()

    @torch.no_grad()
    def scores(self, media: dict[str, Tensor], target: StepTarget) -> dict[str, float]:
        """Its :func:`shares`, how far off places are as a share of the picture's side, and the diversity."""
        vectors = self(media)
        told, frames = self.told(vectors, target), SetTarget.of(target.labels)
        place_error = (told.places - frames.places).norm(dim=-1)[frames.present].mean()
        return {**shares(told, target), "place_error": float(place_error), "diversity": float(vectors.diversity)}

    @torch.no_grad()
    def told(self, vectors: StepVectors, target: StepTarget) -> Told:
        """What it says; of the target it takes only which steps have a frame, and which have sound."""
        seen, heard = vectors.seeing[target.is_seen], vectors.hearing[target.is_heard]
        present, shape, flashing, _, places = (each[:, 0] for each in self.sets(seen[:, None]))
        active, begin = self._heard(heard)
        return Told(
            present=present > 0,
            flashing=(flashing > 0) & (present > 0),
            shape=shape.argmax(-1),
            places=places,
            characters=self._spelt(seen).argmax(-1),
            begun=self._begun(seen) > 0,
            zones=self._zones(seen).argmax(-1),
            motions=self._motions(seen).argmax(-1),
            sounds=active > 0,
            begins=begin > 0,
            words=self._spoken(heard).argmax(-1),
        )

    def _begun(self, steps: Tensor) -> Tensor:
        return self.begun(steps).float().unflatten(-1, (len(WHAT), -1))

    def _zones(self, steps: Tensor) -> Tensor:
        return self.zones(steps).float().unflatten(-1, (len(NAMES), 2, ZONES))

    def _motions(self, steps: Tensor) -> Tensor:
        return self.motions(steps).float().unflatten(-1, (len(NAMES), len(MOTIONS)))

    def _spelt(self, steps: Tensor) -> Tensor:
        return self.characters(steps).float().unflatten(-1, (vocabulary.MAX_PRINTED_CHARACTERS, -1))

    def _heard(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        active, begin = self.sounds(steps).float().chunk(2, dim=-1)
        return active, begin

    def _spoken(self, steps: Tensor) -> Tensor:
        return self.words(steps).float().unflatten(-1, (WORDS_PER_STEP, -1))


def _share(values: Tensor) -> float:
    return float(values.float().mean())
