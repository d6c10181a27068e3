"""From an example's media to what both encoders take, and batches of them.

Shapes: B clips, T segments; S samples at 16 kHz; R rows of sound of all clips.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from favor.encoders import Meetings
from favor.errors import ConfigurationError
from favor.media import SAMPLE_RATE_HZ, MediaOptions, load_audio, load_image, load_video
from training.downstream.contract import Example, Task
from training.downstream.hosts import Heard, OpenHost


class Decoded(NamedTuple):
    """Frames (T, size, size, 3) uint8, one for each segment, and the clip's whole sound (S,) float32."""

    frames: np.ndarray
    waveform: np.ndarray


class Sample(NamedTuple):
    """One example, ready for the encoders; ``other`` are the frames of another clip, where the task wants them."""

    frames: Tensor
    heard: Heard
    targets: Mapping[str, np.ndarray]
    text: tuple[int, ...]
    other: Tensor | None


@dataclass(frozen=True)
class Batch:
    """What is perceived and what is right.

    Args:
        frames: (B * T, 3, size, size). sound: (R, ...). meetings: of frames and pieces.
        pieces: (B * T, n) which pieces a segment hears, of all clips'.
        targets: (B, ...) each. text, text_mask: (B, L). other_frames: (B * T, 3, size, size).
    """

    frames: Tensor
    sound: Tensor
    meetings: Meetings
    pieces: Tensor
    targets: Mapping[str, Tensor]
    text: Tensor | None = None
    text_mask: Tensor | None = None
    other_frames: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        return Batch(**{item.name: _moved(getattr(self, item.name), device) for item in fields(self)})


class Clips(Dataset[Sample]):
    """Examples of one split as samples.

    Asked by (number, partner): the partner's frames are the other video's; -1 for none.
    """

    def __init__(
        self, examples: Sequence[Example], *, task: Task, files: Any, host: OpenHost, cache: Path | None = None
    ) -> None:
        self.examples, self.task, self.files, self.host, self.cache = examples, task, files, host, cache
        _refuse_missing(examples, Path(files.root))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        number, partner = place
        example = self.examples[number]
        seen, waveform = self.decoded(example)
        return Sample(
            frames=self.host.look(seen),
            heard=self.host.hear(waveform, self.task.num_segments),
            targets=self.task.targets(self.files, example),
            text=example.text,
            other=None if partner < 0 else self.host.look(self.decoded(self.examples[partner]).frames),
        )

    def decoded(self, example: Example) -> Decoded:
        """Out of the cache if it is there and the file has not changed since."""
        given = {"num_segments": self.task.num_segments, "size": self.host.frame_size}
        if self.cache is None:
            return decode(example, Path(self.files.root), **given)
        kept = self.cache / f"{_fingerprint(example, Path(self.files.root), given)}.npz"
        if kept.is_file():
            with np.load(kept) as arrays:
                return Decoded(arrays["frames"], arrays["waveform"])
        made = decode(example, Path(self.files.root), **given)
        draft = kept.with_suffix(f".{np.random.default_rng().integers(2**63)}")  # several workers may meet one clip
        with draft.open("wb") as file:
            np.savez(file, frames=made.frames, waveform=made.waveform)
        draft.replace(kept)
        return made

    def places(self, order: Sequence[int], generator: torch.Generator | None) -> list[tuple[int, int]]:
        """Each number with a partner of another clip, drawn by ``generator``; without one there are no partners."""
        if generator is None:
            return [(number, -1) for number in order]
        draws = torch.randint(len(self.examples), (len(order),), generator=generator).tolist()
        return [(number, self._other(number, draw)) for number, draw in zip(order, draws, strict=True)]

    def _other(self, number: int, draw: int) -> int:
        """The first example from ``draw`` on that has another clip; -1 if there is none."""
        size = len(self.examples)
        around = ((draw + further) % size for further in range(size))
        return next((one for one in around if self.examples[one].clip != self.examples[number].clip), -1)


def decode(example: Example, root: Path, *, num_segments: int, size: int) -> Decoded:
    """Frames at the middles of T equal parts of the clip, and all of its sound; a clip without sound is silent.

    The media room gives one frame for each half second; the one shown in the middle's half second is taken.

    Raises:
        MediaError: names the clip.
    """
    options = MediaOptions(frame_size=size)
    if example.frames:
        frames = np.concatenate([load_image(root / path, options=options).frames for path in example.frames])
        assert example.sound is not None, "pictures of their own want a sound file"
        return Decoded(frames, load_audio(root / example.sound, options=options).waveform)
    clip = load_video(
        root / example.clip, sound=None if example.sound is None else root / example.sound, options=options
    )
    middles = (np.arange(num_segments) + 0.5) / num_segments
    chosen = np.minimum((middles * len(clip.frames)).astype(int), len(clip.frames) - 1)
    waveform = clip.waveform if clip.waveform.size else np.zeros(round(clip.receipt.duration_s * SAMPLE_RATE_HZ), "f4")
    return Decoded(clip.frames[chosen], waveform)


def batch_of(samples: Sequence[Sample], pieces_per_row: int) -> Batch:
    """Samples put together, clip after clip."""
    text, mask = _padded([sample.text for sample in samples])
    others = [sample.other for sample in samples if sample.other is not None]
    meetings, pieces = _meetings([sample.heard for sample in samples], pieces_per_row)
    return Batch(
        frames=torch.cat([sample.frames for sample in samples]),
        sound=torch.cat([sample.heard.rows for sample in samples]),
        meetings=meetings,
        pieces=pieces,
        targets={
            name: torch.stack([torch.as_tensor(np.asarray(sample.targets[name])) for sample in samples])
            for name in samples[0].targets
        },
        text=text,
        text_mask=mask,
        other_frames=torch.cat(others) if len(others) == len(samples) else None,
    )


def _meetings(heard: Sequence[Heard], pieces_per_row: int) -> tuple[Meetings, Tensor]:
    """Each segment's frame meets all pieces that it hears; sound that no segment hears is alone."""
    pieces, lone, first = [], [], 0
    for one in heard:
        pieces.append(one.pieces + first)
        unheard = set(range(one.num_real)) - set(one.pieces.flatten().tolist())
        lone += [first + piece for piece in sorted(unheard)]
        first += len(one.rows) * pieces_per_row
    joined = torch.cat(pieces)  # (B * T, n)
    frames = torch.arange(len(joined)).repeat_interleave(joined.shape[1])
    nobody = torch.zeros(0, dtype=torch.int64)
    meetings = Meetings(
        frames=frames,
        pieces=joined.flatten(),
        moments=frames % len(heard[0].pieces),
        lone_frames=nobody,
        lone_moments=nobody,
        lone_pieces=torch.tensor(lone, dtype=torch.int64),
        pieces_per_row=pieces_per_row,
    )
    return meetings, joined


def _padded(texts: Sequence[tuple[int, ...]]) -> tuple[Tensor | None, Tensor | None]:
    if not any(texts):
        return None, None
    length = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (length - len(text))] for text in texts])
    return ids, torch.tensor([[place < len(text) for place in range(length)] for text in texts])


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {name: tensor.to(device) for name, tensor in value.items()}
    return None if value is None else value.to(device)


def _files_of(example: Example) -> Iterator[Path]:
    yield from example.frames or (example.clip,)
    if example.sound is not None:
        yield example.sound


def _refuse_missing(examples: Sequence[Example], root: Path) -> None:
    missing = [path for example in examples for path in _files_of(example) if not (root / path).is_file()]
    if missing:
        raise ConfigurationError(
            f"{len(missing)} files of {len(examples)} examples are not there, {missing[0]} among them",
            allowed="every clip of the annotation files, under data.root",
            advice="Fetch them, or leave their rows out of the split (and say so with the score)",
        )


def _fingerprint(example: Example, root: Path, given: Mapping[str, int]) -> str:
    """Of the files as they are now, and of what is made of them."""
    facts = [f"{path} {(root / path).stat().st_size} {(root / path).stat().st_mtime_ns}" for path in _files_of(example)]
    return hashlib.sha256(f"{facts} {sorted(given.items())}".encode()).hexdigest()[:32]
