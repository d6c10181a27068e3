"""Small pairs of encoders with inputs of three moments, for tests of what runs between encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import ClapAudioConfig, InstructBlipVisionConfig, Swinv2Config, ViTConfig, WhisperConfig

from favor.encoders import EvaViT, HtsAt, LayeredEncoder, Meetings, PlainViT, SwinV2, WhisperAudioEncoder


@dataclass(frozen=True)
class SmallHost:
    """An eye and an ear.

    Args:
        visual, audio: build them; without ``audio`` one encoder serves both.
        frame, sound: shapes of one frame and of one row of sound. audio_tokens: of a piece of sound.
        pieces_per_row: of sound; three pieces are heard.
    """

    visual: Callable[[], LayeredEncoder]
    frame: tuple[int, ...]
    sound: tuple[int, ...]
    audio: Callable[[], LayeredEncoder] | None = None
    audio_tokens: int | None = None
    pieces_per_row: int = 1

    @property
    def is_one_piece_per_row(self) -> bool:
        return self.pieces_per_row == 1

    def encoders(self) -> tuple[LayeredEncoder, LayeredEncoder]:
        torch.manual_seed(2)
        visual = _shaken(self.visual())
        return visual, visual if self.audio is None else _shaken(self.audio())

    def inputs(self) -> tuple[Tensor, Tensor, Meetings]:
        """Three frames, each with its sound."""
        made = torch.Generator().manual_seed(3)
        rows = -(-3 // self.pieces_per_row)
        frames = torch.randn(3, *self.frame, generator=made, dtype=torch.float64)
        sound = torch.randn(rows, *self.sound, generator=made, dtype=torch.float64)
        return frames, sound, self._meetings(3, 3)

    def with_other_sound(self, sound: Tensor, *, piece: int) -> Tensor:
        """Another sound at a moment (and, where a row holds several moments, at those beside it)."""
        sound = sound.clone()
        sound[piece // self.pieces_per_row] = torch.randn(self.sound, dtype=sound.dtype)
        return sound

    def only_frames(self, number: int) -> Meetings:
        return self._meetings(number, 0)

    def only_sound(self, rows: int) -> Meetings:
        return self._meetings(0, rows * self.pieces_per_row)

    def with_a_lone_frame(self, meetings: Meetings) -> Meetings:
        """One frame more, of another clip without sound."""
        return replace(
            meetings,
            lone_frames=torch.cat((meetings.lone_frames, torch.tensor([3]))),
            lone_moments=torch.cat((meetings.lone_moments, torch.tensor([0]))),
        )

    def _meetings(self, frames: int, pieces: int) -> Meetings:
        return Meetings.of_clips([frames], [pieces], [False], chunk_steps=self.pieces_per_row, window_steps=3)


def _shaken(encoder: LayeredEncoder) -> LayeredEncoder:
    """Weights of useful size, in float64: fresh ones hide faults, and so does rounding."""
    for weight in encoder.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    return encoder.double()


def _vit() -> PlainViT:
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return PlainViT(ViTConfig(**size, image_size=32, patch_size=8))


def _swin() -> SwinV2:
    return SwinV2(
        Swinv2Config(image_size=16, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4)
    )


def _hts_at() -> HtsAt:
    return HtsAt(
        ClapAudioConfig(
            window_size=4,
            num_mel_bins=16,
            spec_size=32,
            patch_size=2,
            patch_stride=(2, 2),
            patch_embeds_hidden_size=8,
            depths=(1, 2),
            num_attention_heads=(2, 4),
            hidden_size=16,
        )
    )


def _eva() -> EvaViT:
    size = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    return EvaViT(InstructBlipVisionConfig(**size, image_size=28, patch_size=14))


def _whisper() -> WhisperAudioEncoder:
    size = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    return WhisperAudioEncoder(WhisperConfig(**size, max_source_positions=50, num_mel_bins=8))


HOSTS = {
    "vit": SmallHost(_vit, frame=(3, 32, 32), sound=(3, 16, 32), audio_tokens=9),
    "swin": SmallHost(_swin, frame=(3, 16, 16), sound=(3, 16, 16)),
    "swin_and_hts_at": SmallHost(_swin, frame=(3, 16, 16), sound=(1, 61, 16), audio=_hts_at),
    "whisper_and_eva": SmallHost(
        _eva, frame=(3, 28, 28), sound=(8, 100), audio=_whisper, audio_tokens=25, pieces_per_row=2
    ),
}
