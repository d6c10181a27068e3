"""What a downstream task is: examples, a head over what both encoders make of a clip, a loss, and predictions.

The loop (``training.downstream.run``) knows tasks by these three classes alone. A task is one module of this folder
that ends in ``TASK = ...``; ``TASKS`` names them.

Shapes: B clips, T segments per clip; every segment has one frame and one piece of sound, clip after clip. N visual and
M audio tokens, D and E their widths; K classes.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from torch import Tensor, nn

from favor.adapters.choices import require_choice
from favor.adapters.contract import StreamShape
from training.recipe import Strict

Split = Literal["train", "val", "test"]

Arrays = dict[str, np.ndarray]
"""Predictions by name; the first axis is clips (or, where the truth has others, its rows)."""

Targets = Mapping[str, Tensor]
"""What is right, by name; the first axis is clips."""


class Streams(NamedTuple):
    """What a head is told of the encoders when it is built.

    Args:
        visual, audio: the last tokens: their width, their number in a segment, and whether the first is a CLS token.
        stages: the visual tokens at the end of every stage, before they are merged; one stage if there is but one
            resolution. The last has ``visual``'s shape.
    """

    visual: StreamShape
    audio: StreamShape
    stages: tuple[StreamShape, ...] = ()


class Seen(NamedTuple):
    """What the encoders, with the adapter between them, make of a batch.

    Args:
        visual: (B * T, N, D). audio: (B * T, M, E).
        num_segments: T.
        visual_pooling: (B * T, N), audio_pooling: (B * T, M): weights with sums 1, of adapters that give them.
        stages: visual tokens at the end of every stage, (B * T, N_s, D_s) each, if the task ``needs_stages``.
        other_visual: (B * T, N, D) tokens of another video's frames, from the frozen encoder without adapter and
            without gradient, if the task ``needs_other_video``; None in evaluation.
        text, text_mask: (B, L) int64 and bool, the examples' ``text`` padded with zeros, if they have any.
    """

    visual: Tensor
    audio: Tensor
    num_segments: int
    visual_pooling: Tensor | None = None
    audio_pooling: Tensor | None = None
    stages: tuple[Tensor, ...] = ()
    other_visual: Tensor | None = None
    text: Tensor | None = None
    text_mask: Tensor | None = None

    def pooled(self, streams: Streams) -> tuple[Tensor, Tensor]:
        """One vector per segment and stream, (B, T, D) and (B, T, E): by the adapter's maps, CLS, or the mean."""
        visual = pool(self.visual, self.visual_pooling, has_cls=streams.visual.has_cls)
        audio = pool(self.audio, self.audio_pooling, has_cls=streams.audio.has_cls)
        return visual.unflatten(0, (-1, self.num_segments)), audio.unflatten(0, (-1, self.num_segments))


def pool(tokens: Tensor, weights: Tensor | None, *, has_cls: bool) -> Tensor:
    """(F, N, D) -> (F, D): the weighted sum (DG-SCT, adapters.md 3.1), the CLS token, or the mean (2.5)."""
    if weights is not None:
        return (weights.to(tokens.dtype)[:, None] @ tokens)[:, 0]
    return tokens[:, 0] if has_cls else tokens.mean(dim=1)


Output = TypeVar("Output")
"""A head's own NamedTuple of logits; the first axis of each is clips."""


class Head(nn.Module, ABC, Generic[Output]):
    """The trained end of a task."""

    @abstractmethod
    def forward(self, seen: Seen) -> Output: ...

    @abstractmethod
    def loss(self, output: Output, targets: Targets) -> Tensor:
        """Scalar: the *mean* over the clips, so that accumulated batches can be weighed by their clips."""

    @abstractmethod
    def predictions(self, output: Output) -> Arrays:
        """As ``python -m eval score`` reads them, of these clips; the loop puts batches together along the first axis.

        What cannot be put together so (a matrix of texts x videos) is made by :meth:`Task.finished`.
        """


@dataclass(frozen=True)
class Example:
    """One clip, or one question about one.

    Args:
        name: as the truth calls it; goes into the predictions as ``clips``.
        clip: the media file, relative to the recipe's ``data.root``; the sound of ``sound`` and the pictures of
            ``frames`` are taken in its place where they are given (AVSBench).
        targets: what is right, without a batch axis. What is large is read by :meth:`Task.targets` instead.
        text: token ids of a question or a caption.
        source: the row of the annotation file, for what the task does later.
    """

    name: str
    clip: Path
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)
    text: tuple[int, ...] = ()
    sound: Path | None = None
    frames: tuple[Path, ...] = ()
    source: Any = None


class Task(ABC):
    """A published task.

    ``num_segments``: T. ``sound_s``: seconds of sound in a segment; the pieces begin at equal distances over the clip.
    ``filter_bank``: whose normalisation of spectrograms is used (adapters.md 2.4): ave, avs or avqa.
    ``files``, ``head_settings``: the recipe's sections ``data`` (beside ``root``) and ``head``.
    """

    num_segments: int
    sound_s: float = 1.0
    filter_bank: Literal["ave", "avs", "avqa"] = "ave"
    needs_stages: bool = False
    needs_other_video: bool = False
    files: type[Strict]
    head_settings: type[Strict]

    @abstractmethod
    def examples(self, files: Any, split: Split) -> Sequence[Example]:
        """Of one split, in the order of its truth. ``files`` is of the class ``self.files``; ``files.root`` is there.

        Raises:
            AnnotationError: names file and line.
        """

    @abstractmethod
    def build_head(self, settings: Any, streams: Streams) -> Head[Any]:
        """A fresh head; ``settings`` is of the class ``self.head_settings``."""

    def targets(self, files: Any, example: Example) -> Mapping[str, np.ndarray]:
        """What is right for an example, read now."""
        return example.targets

    def finished(self, arrays: Arrays, examples: Sequence[Example]) -> Arrays:
        """A whole split's predictions, after batches have been put together."""
        return arrays

    def score(self, arrays: Arrays, examples: Sequence[Example]) -> float | None:
        """Higher is better; selects the epoch. None: the loss of the validation split does. Made of :meth:`finished`.

        It is no published figure: those come from ``python -m eval score`` over the written predictions.
        """
        return None

    def write(self, path: Path, arrays: Arrays, examples: Sequence[Example]) -> Path:
        """Write predictions where ``python -m eval score`` reads them; ``path`` has no suffix yet. Returns the file."""
        file = path.with_suffix(".npz")
        draft = file.with_suffix(".draft")
        with draft.open("wb") as target:
            np.savez_compressed(target, clips=np.array([example.name for example in examples]), **arrays)  # type: ignore[arg-type]
        draft.replace(file)
        return file


class Files(Strict):
    """What the section ``data`` of every recipe has; a task adds its annotation files.

    Args:
        root: the folder with the media. suffix: of a clip's file, where the truth has only names.
    """

    root: str
    suffix: str = ".mp4"


TASKS = {name: f"training.downstream.{name}" for name in ("ave", "avvp", "avs", "avqa", "avr", "avc")}
"""Task -> its module."""


def task_named(name: str) -> Task:
    """The task of that name.

    Raises:
        ConfigurationError: there is none.
    """
    require_choice("the task", name, TASKS)
    found = importlib.import_module(TASKS[name]).TASK
    assert isinstance(found, Task), type(found)
    return found
