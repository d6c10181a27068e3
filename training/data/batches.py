"""From picks to a batch: read the lines, decode the clips, leave bad samples out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from favor.clips import ClipReceipt
from favor.errors import FavorError, MissingStreamError
from favor.feature_cache import FeatureMissError
from favor.messages import MediaPart, VideoPart
from favor.processor import FavorInputs, FavorProcessor
from favor.prompt import IGNORED
from training.data.manifest import Sample
from training.data.sampler import Pick
from training.data.sources import Source


@dataclass(frozen=True)
class DroppedSample:
    """A bad sample: its key, its source, and what is wrong with it."""

    key: str
    source: str
    error: str


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """One micro-batch of one rank.

    Args:
        inputs: with labels; None when every sample of the batch was bad.
        keys: samples in it, in the order of its rows.
        num_target_tokens: labels that are learnt from; position 0 of a row is never predicted.
        av_seconds: seconds of sound and picture in it, as decoded.
        dropped: samples that were left out.
        sources: the source of every row.
    """

    inputs: FavorInputs | None
    keys: tuple[str, ...]
    num_target_tokens: int
    av_seconds: float
    dropped: tuple[DroppedSample, ...]
    sources: tuple[str, ...] = ()


EMPTY = TrainingBatch(None, (), 0, 0.0, ())


@dataclass(frozen=True)
class BatchReader:
    """Makes batches of picks; runs in workers.

    Args:
        sources: the mixture.
        processor: see :func:`strict`.
        features: encoder features on disk, handed on to the processor; None encodes live.
        change: what becomes of a sample at its place in the stream (mixed-modality sampling).
    """

    sources: Sequence[Source]
    processor: FavorProcessor
    features: Any = None
    change: Callable[[Sample, Pick], Sample] = lambda sample, pick: sample

    def __call__(self, picks: Sequence[Pick]) -> TrainingBatch:
        samples: list[Sample] = []
        dropped: list[DroppedSample] = []
        for pick in picks:
            source = self.sources[pick.source]
            try:
                samples.append(self.change(source.read(pick.record), pick))
            except FavorError as error:
                dropped.append(DroppedSample(source.index.key(pick.record), source.name, str(error)))
        try:
            inputs = self._inputs(samples)
        except FeatureMissError:  # the cache is not filled: no sample's fault
            raise
        except FavorError:
            samples, bad = self._sorted_out(samples)
            dropped += bad
            inputs = self._inputs(samples)
        return _batch(inputs, samples, dropped)

    def _sorted_out(self, samples: Sequence[Sample]) -> tuple[list[Sample], list[DroppedSample]]:
        """Tries every sample alone: the good ones, and the bad ones with their errors."""
        good, bad = [], []
        for sample in samples:
            try:
                self._inputs([sample])
                good.append(sample)
            except FeatureMissError:
                raise
            except FavorError as error:
                bad.append(DroppedSample(sample.key, sample.source, str(error)))
        return good, bad

    def _inputs(self, samples: Sequence[Sample]) -> FavorInputs | None:
        return encode(samples, self.processor, features=self.features) if samples else None


def encode(samples: Sequence[Sample], processor: FavorProcessor, *, features: Any = None) -> FavorInputs:
    """Inputs with labels of some samples.

    Raises:
        FavorError: one of them cannot be used; MissingStreamError when its sound is stated and not there.
    """
    options = {} if features is None else {"features": features}
    inputs = processor([sample.question for sample in samples], answer=[sample.answer for sample in samples], **options)
    for sample, receipts in zip(samples, inputs.receipts, strict=True):
        for part, receipt in zip(sample.media, receipts, strict=True):
            require_sound(part, receipt)
    return inputs


def require_sound(part: MediaPart, receipt: ClipReceipt) -> None:
    """A video whose sound is to be used must have sound: the model would take its absence for silence.

    Raises:
        MissingStreamError: it has none.
    """
    if isinstance(part, VideoPart) and part.use_audio and receipt.media.audio is None:
        raise MissingStreamError(
            f"{receipt.media.name} has no sound, and the sample says that it has",
            allowed="a video with sound, or use_audio_in_video: false",
            advice="Correct the file or the line",
        )


def strict(processor: FavorProcessor, *, max_seconds: float) -> FavorProcessor:
    """A copy that refuses clips longer than ``max_seconds``."""
    processor = copy.copy(processor)
    processor.max_seconds, processor.when_too_long = max_seconds, "refuse"
    return processor


def num_targets(labels: torch.Tensor) -> int:
    """Labels (B, T) that are learnt from; position 0 of a row is never predicted."""
    return int((labels[:, 1:] != IGNORED).sum())


def _batch(inputs: FavorInputs | None, samples: Sequence[Sample], dropped: Sequence[DroppedSample]) -> TrainingBatch:
    if inputs is None:
        return TrainingBatch(None, (), 0, 0.0, tuple(dropped))
    return TrainingBatch(
        inputs,
        keys=tuple(sample.key for sample in samples),
        num_target_tokens=num_targets(inputs["labels"]),
        av_seconds=sum(receipt.media.duration_s for chat in inputs.receipts for receipt in chat),
        dropped=tuple(dropped),
        sources=tuple(sample.source for sample in samples),
    )
