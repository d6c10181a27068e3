"""``python -m training connect RECIPE.yaml``: teach the connector with dense labels, before any language.

Of the queries of a window two belong to each of its steps: throw-away heads must read off the first what is seen in
that step, and off the second what is heard. So the soft tokens come to hold it all, in order of time, long before the
few words of an answer could teach them to, and a small language model finds things where they happen.

Shapes: W windows, k steps of a window, N = 2 k queries, H their width, S = W * k steps of all windows.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from favor.checkpoint import load_folder
from favor.errors import ConfigurationError
from favor.modeling import FavorForConditionalGeneration
from favor.sync import AUDIO_FRAMES_PER_STEP, STEP_S, num_steps, num_windows, step_centres_s
from training.base_model import use_fastest_attention
from training.recipe import load_settings, recipe_arguments
from training.world import picture, sound, vocabulary
from training.world.dense import SetHead, SetTarget, join
from training.world.happenings import MOTIONS, NAMES, UNKNOWN, WHAT, ZONES, Happenings, happenings_of
from training.world.scene import Scene
from training.world.shards import Shards, media_inputs
from training.world.teaching import Lesson, teach

QUERIES_PER_STEP = 2
"""One for what is seen, one for what is heard."""

WORDS_PER_STEP = 2
"""Words that may begin in half a second; a third one is not asked for."""

_NO_WORD = len(vocabulary.SPOKEN_WORDS)
_SHORTEST_WORD = 2  # in sound vectors of 20 ms


class Connection(Lesson):
    """One run.

    Args:
        model: a folder with taught encoders, as `assemble` writes it; the output is one more, with a taught connector.
        features, val: folders of `encode`, to learn from and to score.
        batch: clips.
    """

    model: str
    features: str
    val: str
    held_out_batch: int = 128


add_arguments = recipe_arguments


def run(options: argparse.Namespace) -> int:
    """Teach it and write the model folder."""
    connect(load_settings(Connection, options.recipe, options.overrides))
    return 0


def connect(recipe: Connection) -> dict[str, float]:
    """Teach the connector; the folder's scores are those of held-out clips."""
    torch.manual_seed(recipe.seed)
    model, processor = load_folder(recipe.model)
    use_fastest_attention(model, device=torch.device("cpu"), precision=recipe.precision)
    shards = {"train": Shards(recipe.features), "test": Shards(recipe.val)}
    for each in shards.values():
        each.refuse_other_encoders(model)
    steps = model.config.connector_config.window_steps

    def batch_of(split: str, step: int, number: int) -> tuple[dict[str, Tensor], StepTarget]:
        rng = random.Random(f"connect {split} {recipe.seed} {step}")
        drawn = rng.sample(range(len(shards[split])), min(number, len(shards[split])))
        clips = [shards[split].clip(place) for place in drawn]
        targets = [target_of(shards[split].scene(place), window_steps=steps) for place in drawn]
        return media_inputs(clips, chunk_steps=model.config.audio_chunk_steps), StepTarget.joined(targets)

    heads = StepHeads(model)
    scores = teach(recipe, heads, batch_of)
    model.save_pretrained(recipe.output)
    processor.save_pretrained(recipe.output)
    return scores


class StepTarget(NamedTuple):
    """What is seen and heard in every step of every window.

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


class StepHeads(nn.Module):
    """Tells every step of a window from its two queries."""

    def __init__(self, model: FavorForConditionalGeneration) -> None:
        super().__init__()
        config = model.config.connector_config
        self.connector = model.connector
        self._soft_tokens = model.get_soft_tokens  # a bound method: the rest of the model is not taught
        if config.num_query_tokens != QUERIES_PER_STEP * config.window_steps:
            raise ConfigurationError(
                f"a window has {config.num_query_tokens} queries and {config.window_steps} steps",
                allowed=f"{QUERIES_PER_STEP} queries per step",
                advice="Set connector_config.num_query_tokens",
            )
        width, self.window_steps = config.hidden_size, config.window_steps
        self.sets = SetHead(width)
        self.characters = nn.Linear(width, vocabulary.MAX_PRINTED_CHARACTERS * (picture.BLANK + 1))
        self.begun = nn.Linear(width, len(WHAT) * len(vocabulary.COLOURS))
        self.zones = nn.Linear(width, len(NAMES) * 2 * ZONES)
        self.motions = nn.Linear(width, len(NAMES) * len(MOTIONS))
        self.sounds = nn.Linear(width, 2 * len(vocabulary.SOUNDS))
        self.words = nn.Linear(width, WORDS_PER_STEP * (_NO_WORD + 1))

    def forward(self, media: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The queries of sight and of hearing of all steps, (S, H) each, and the diversity of all queries."""
        made = self._soft_tokens(**media)
        of_steps = made.queries.unflatten(1, (self.window_steps, QUERIES_PER_STEP)).flatten(0, 1)  # (S, 2, H)
        return of_steps[:, 0], of_steps[:, 1], made.diversity

    def loss(self, media: dict[str, Tensor], target: StepTarget) -> Tensor:
        """Scalar."""
        seeing, hearing, diversity = self(media)
        total = 0.1 * diversity.float()
        if target.is_seen.any():
            seen = seeing[target.is_seen]
            total = total + self.sets.loss(seen[:, None], SetTarget.of(target.labels))
            letters = torch.from_numpy(target.labels.characters)
            spelt = self._spelt(seen)
            each = cross_entropy(spelt.flatten(0, 1), letters.flatten(), reduction="none").view_as(letters)
            has_sign = (letters < picture.BLANK).any(dim=1)
            total = total + (each * torch.where(has_sign, 1.0, 0.1)[:, None]).mean() * 2
            total = total + self._loss_of_happenings(seen, target)
        if target.is_heard.any():
            heard = hearing[target.is_heard]
            active, begin = self.sounds(heard).float().chunk(2, dim=-1)
            total = total + 5 * binary_cross_entropy_with_logits(active, target.sounds[target.is_heard])
            total = total + 5 * binary_cross_entropy_with_logits(begin, target.begins[target.is_heard])
            wanted = target.words[target.is_heard].flatten()
            each = cross_entropy(self._spoken(heard).flatten(0, 1), wanted, reduction="none")
            weight = torch.where(wanted == _NO_WORD, 0.1, 1.0)
            total = total + (each * weight).sum() / weight.sum()
        return total

    def _loss_of_happenings(self, seen: Tensor, target: StepTarget) -> Tensor:
        begins, zones, motions = (each[target.is_seen] for each in target.happenings)
        total = 5 * binary_cross_entropy_with_logits(self.begun(seen).float(), begins.flatten(1))
        for told, wanted in ((self._zones(seen), zones), (self._motions(seen), motions)):
            if (wanted != UNKNOWN).any():
                total = total + cross_entropy(told.flatten(0, -2), wanted.flatten(), ignore_index=UNKNOWN)
        return total

    @torch.no_grad()
    def scores(self, media: dict[str, Tensor], target: StepTarget) -> dict[str, float]:
        """Shares of steps that are told exactly, of words that are told, and how far off places are."""
        seeing, hearing, diversity = self(media)
        seen, heard = seeing[target.is_seen], hearing[target.is_heard]
        wanted = SetTarget.of(target.labels)
        present, shape, flashing, _, places = (each[:, 0] for each in self.sets(seen[:, None]))
        right = ((present > 0) == wanted.present) & ((shape.argmax(-1) == wanted.shape) | ~wanted.present)
        right_flash = ((flashing > 0) & (present > 0)) == wanted.flashing
        letters = torch.from_numpy(target.labels.characters)
        has_sign = (letters < picture.BLANK).any(dim=1)
        right_sign = (self._spelt(seen).argmax(-1) == letters).all(dim=1)
        active, begin = self.sounds(heard).float().chunk(2, dim=-1)
        begins, zones, motions = (each[target.is_seen] for each in target.happenings)
        begun = self.begun(seen).float().unflatten(-1, (len(WHAT), -1)) > 0
        words, spoken = target.words[target.is_heard], self._spoken(heard).argmax(-1)
        return {
            "objects": _share(right.all(dim=1)),
            "flashing": _share(right_flash.all(dim=1)),
            "place_error": float((places - wanted.places).norm(dim=-1)[wanted.present].mean()),
            "sign": _share(right_sign[has_sign]),
            "zones": _share((self._zones(seen).argmax(-1) == zones)[zones != UNKNOWN]),
            "motions": _share((self._motions(seen).argmax(-1) == motions)[motions != UNKNOWN]),
            **{f"{what}_found": _share(begun[:, n][begins[:, n] > 0.5]) for n, what in enumerate(WHAT)},
            "sounds": _share(((active > 0) == (target.sounds[target.is_heard] > 0.5)).all(dim=1)),
            "begins": _share(((begin > 0) == (target.begins[target.is_heard] > 0.5)).all(dim=1)),
            "begins_found": _share((begin > 0)[target.begins[target.is_heard] > 0.5]),
            "words": _share((spoken == words)[words != _NO_WORD]),
            "diversity": float(diversity),
        }

    def _zones(self, steps: Tensor) -> Tensor:
        return self.zones(steps).float().unflatten(-1, (len(NAMES), 2, ZONES))

    def _motions(self, steps: Tensor) -> Tensor:
        return self.motions(steps).float().unflatten(-1, (len(NAMES), len(MOTIONS)))

    def _spelt(self, steps: Tensor) -> Tensor:
        return self.characters(steps).float().unflatten(-1, (vocabulary.MAX_PRINTED_CHARACTERS, -1))

    def _spoken(self, steps: Tensor) -> Tensor:
        return self.words(steps).float().unflatten(-1, (WORDS_PER_STEP, -1))


def _share(values: Tensor) -> float:
    return float(values.float().mean())
