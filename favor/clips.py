"""From a media part to a decoded clip and its receipt: what was seen and heard, and what it costs the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from favor.configuration import Align, FavorConfig, LengthRule
from favor.errors import MediaError
from favor.media import Clip, MediaLimits, MediaOptions, Receipt, load_audio, load_image, load_video
from favor.messages import AudioPart, ImagePart, MediaPart, VideoPart
from favor.sync import STEPS_PER_AUDIO_CHUNK, ClipSteps, num_windows

Progress = Callable[[float, float], None]
TooLongRule = Literal["refuse", "cut"]


@dataclass(frozen=True)
class ClipReceipt:
    """What a clip became: what was decoded, and how much of the model's input it takes."""

    media: Receipt
    kind: Literal["video", "audio", "image"]
    num_steps: int
    num_windows: int
    num_soft_tokens: int

    def to_dict(self) -> dict[str, Any]:
        """The receipt as one JSON-ready object."""
        return {
            **self.media.to_dict(),
            "kind": self.kind,
            "num_steps": self.num_steps,
            "num_windows": self.num_windows,
            "num_soft_tokens": self.num_soft_tokens,
        }


@dataclass(frozen=True)
class ClipReader:
    """Decodes clips as one model wants them.

    Args:
        options: which frames, how large, how long a clip may be.
        limits: what is refused whatever the model.
        num_query_tokens, window_steps, align, length_rule: as in :class:`favor.configuration.ConnectorConfig`.
        audio_chunk_steps: as in :class:`favor.configuration.FavorConfig`.
    """

    options: MediaOptions
    num_query_tokens: int
    window_steps: int
    align: Align
    length_rule: LengthRule
    audio_chunk_steps: int = STEPS_PER_AUDIO_CHUNK
    limits: MediaLimits = field(default_factory=MediaLimits)

    @classmethod
    def for_config(cls, config: FavorConfig, options: MediaOptions) -> ClipReader:
        """A reader for models of this configuration."""
        connector = config.connector_config
        return cls(
            options=options,
            num_query_tokens=connector.num_query_tokens,
            window_steps=connector.window_steps,
            align=connector.align,
            length_rule=connector.length_rule,
            audio_chunk_steps=config.audio_chunk_steps,
        )

    def load(self, part: MediaPart, *, progress: Progress | None = None) -> Clip:
        """Frames and waveform of one media part.

        Raises:
            MediaError: it cannot be used; says what, what is allowed, what to do. Its ``subject`` is the part's name.
        """
        try:
            return self._load(part, progress)
        except MediaError as error:
            error.subject = part.name
            raise

    def _load(self, part: MediaPart, progress: Progress | None) -> Clip:
        options, limits = self.options, self.limits
        match part:
            case VideoPart(source, sound, name, use_audio):
                return load_video(
                    source,
                    sound=sound,
                    use_audio=use_audio,
                    name=name,
                    options=options,
                    limits=limits,
                    progress=progress,
                )
            case ImagePart(source, sound, name):
                return load_image(source, sound=sound, name=name, options=options, limits=limits)
            case AudioPart(source, name):
                return load_audio(source, name=name, options=options, limits=limits)

    def receipt(self, clip: Clip) -> ClipReceipt:
        """What the clip will take of the model's input."""
        steps = ClipSteps.of_clip(
            num_frames=len(clip.frames),
            num_audio_steps=clip.num_audio_steps,
            is_image=clip.is_image,
            length_rule=self.length_rule,
            chunk_steps=self.audio_chunk_steps,
        ).length(self.align)
        windows = num_windows(steps, self.window_steps)
        return ClipReceipt(
            media=clip.receipt,
            kind="image" if clip.is_image else "video" if len(clip.frames) else "audio",
            num_steps=steps,
            num_windows=windows,
            num_soft_tokens=windows * self.num_query_tokens,
        )
