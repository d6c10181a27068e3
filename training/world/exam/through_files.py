"""The same questions about clips that were really written and read again: mp4, wav and png change no answer."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from favor.messages import AudioPart, ImagePart, MediaPart, VideoPart
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorProcessor
from training.world import files
from training.world.questions import normalise, score
from training.world.scene import Scene

from .answering import conversation, greedily
from .paper import Paper

_QUESTIONS_PER_FILE = 2  # the processor reads a clip again for every conversation


@dataclass(frozen=True)
class Agreement:
    """Over the ``items`` about ``clips`` clips: share of the same answers, and both shares that are right."""

    clips: int
    items: int
    agreement: float
    score: float
    score_through_files: float

    def to_dict(self) -> dict[str, float]:
        """JSON-ready; four decimals."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


@torch.no_grad()
def ask_through_files(
    model: FavorForConditionalGeneration,
    processor: FavorProcessor,
    paper: Paper,
    answers: Sequence[str],
    *,
    num_clips: int,
) -> Agreement:
    """Write some clips, of every kind in turn, and ask a part of what the paper asks about them.

    Args:
        answers: to all items, under the condition ``both``.
    """
    chosen = _spread(paper, num_clips)
    numbers: list[int] = []
    texts: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for clip in chosen:
            items = [number for number, item in enumerate(paper.items) if item.clip == clip][:_QUESTIONS_PER_FILE]
            part = _part(paper.clips[clip].scene, Path(folder), f"clip-{clip}")
            inputs = processor([conversation(paper.items[number].question, part) for number in items])
            written = greedily(model, processor)(**inputs.to(model.device))
            numbers += items
            texts += processor.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    asked = [paper.items[number].question for number in numbers]
    kept = [answers[number] for number in numbers]
    return Agreement(
        clips=len(chosen),
        items=len(numbers),
        agreement=float(np.mean([normalise(one) == normalise(other) for one, other in zip(kept, texts)])),
        score=float(np.mean([score(question, text) for question, text in zip(asked, kept)])),
        score_through_files=float(np.mean([score(question, text) for question, text in zip(asked, texts)])),
    )


def _spread(paper: Paper, number: int) -> list[int]:
    """Numbers of some clips: the first of every kind, then the second of every kind, and so on."""
    kinds: dict[str, list[int]] = defaultdict(list)
    for clip, entry in enumerate(paper.clips):
        kinds[entry.scene.kind].append(clip)
    ranks = {clip: (rank, kind) for kind, some in kinds.items() for rank, clip in enumerate(some)}
    return sorted(ranks, key=lambda clip: ranks[clip])[:number]


def _part(scene: Scene, folder: Path, stem: str) -> MediaPart:
    """What a user would send."""
    picture, sound = files.write(scene, folder, stem)
    if picture is None:
        assert sound is not None, "a clip without picture and sound"
        return AudioPart(sound)
    return ImagePart(picture, sound=sound) if scene.is_still else VideoPart(picture)
