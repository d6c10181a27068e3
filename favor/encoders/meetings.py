"""Which frame meets which piece of sound: an adapter works on pairs that share a moment.

Whisper hears long rows of sound at once, so a row is many pieces; a spectrogram of a ViT is one piece.

Shapes: F frames, K rows of sound, S pieces in a row, R meetings; N tokens of a frame, M of a piece; D and E widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from favor.sync import num_audio_chunks

_INDICES = ("frames", "pieces", "moments", "lone_frames", "lone_moments", "lone_pieces")


@dataclass(frozen=True)
class Meetings:
    """Pairs of frames and pieces, and who is left alone.

    Args:
        frames, pieces: (R,) int64, meeting r joins frame ``frames[r]`` and piece ``pieces[r]`` of all K * S.
        moments: (R,) int64, the place of the frame in its clip, or in its window.
        lone_frames, lone_moments: frames without sound and their places. lone_pieces: sound without a picture.
        pieces_per_row: S.

    A frame that has several meetings, as an image with sound, gets the mean of what they add.
    """

    frames: Tensor
    pieces: Tensor
    moments: Tensor
    lone_frames: Tensor
    lone_moments: Tensor
    lone_pieces: Tensor
    pieces_per_row: int = 1

    @classmethod
    def one_to_one(cls, num_frames: int, *, frames_per_clip: int | None = None) -> Meetings:
        """Frame f with piece f, as in clips cut into segments; all frames are of one clip unless said otherwise."""
        every = torch.arange(num_frames)
        nobody = every[:0]
        moments = every if frames_per_clip is None else every % frames_per_clip
        return cls(every, every, moments, nobody, nobody, nobody)

    @classmethod
    def of_clips(
        cls,
        num_frames: Sequence[int],
        num_audio_steps: Sequence[int],
        is_image: Sequence[bool],
        *,
        chunk_steps: int,
        window_steps: int,
    ) -> Meetings:
        """FAVOR's clips: frame t meets the sound of step t; an image meets all of its sound.

        Args:
            num_frames, num_audio_steps, is_image: one per clip. chunk_steps: steps in a row of sound.
            window_steps: of a window; a frame's moment is its place in its window, for clips have no longest length.
        """
        columns: dict[str, list[int]] = {name: [] for name in _INDICES}
        first_frame = first_piece = 0
        for seen, heard, image in zip(num_frames, num_audio_steps, is_image, strict=True):
            met = heard if image and seen else min(seen, heard)
            places = [0] * met if image else list(range(met))
            alone = list(range(min(met, seen), seen)) if image else list(range(met, seen))
            columns["frames"] += [first_frame + place for place in places]
            columns["pieces"] += range(first_piece, first_piece + met)
            columns["moments"] += [place % window_steps for place in places]
            columns["lone_frames"] += [first_frame + place for place in alone]
            columns["lone_moments"] += [place % window_steps for place in alone]
            columns["lone_pieces"] += range(first_piece + met, first_piece + heard)
            first_frame += seen
            first_piece += num_audio_chunks(heard, chunk_steps) * chunk_steps
        made = {name: torch.tensor(column, dtype=torch.int64) for name, column in columns.items()}
        return cls(pieces_per_row=chunk_steps, **made)

    def to(self, device: torch.device) -> Meetings:
        """All indices on a device."""
        moved = {name: getattr(self, name).to(device) for name in _INDICES}
        return Meetings(pieces_per_row=self.pieces_per_row, **moved)

    def cut(self, audio: Tensor) -> Tensor:
        """Rows of sound as pieces, (K, S * M, E) -> (K * S, M, E)."""
        return audio.unflatten(1, (self.pieces_per_row, -1)).flatten(0, 1)

    def join(self, pieces: Tensor) -> Tensor:
        """Back to rows, (K * S, M, E) -> (K, S * M, E)."""
        return pieces.unflatten(0, (-1, self.pieces_per_row)).flatten(1, 2)


def spread(additions: Tensor | None, places: Tensor, num_rows: int) -> Tensor | None:
    """What meetings add, at the rows that it is for: (R, ...) -> (num_rows, ...); the mean where a row repeats.

    None where nothing is added.
    """
    if additions is None or not len(places):
        return None
    total = additions.new_zeros(num_rows, *additions.shape[1:]).index_add(0, places, additions)
    counts = torch.bincount(places, minlength=num_rows).clamp(min=1)
    return total / counts.to(additions.dtype).view(-1, *[1] * (additions.dim() - 1))
