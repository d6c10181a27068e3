"""A scene to the files that a user would send: an mp4, a wav, a png, or a png with a wav."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from favor.media import write_clip
from training.world.picture import draw
from training.world.scene import Scene
from training.world.sound import play

FPS = 25
"""The least whole rate at which picture and sound can keep to 20 ms of each other: half a frame."""

_FRAMES_AT_ONCE = 32


def write(scene: Scene, folder: Path, stem: str) -> tuple[Path | None, Path | None]:
    """Write what a user would send of the scene into ``folder``.

    Returns:
        The picture's file and the sound's: (mp4, None) for a video, which holds its own sound; (png, None), (None, wav)
        or (png, wav) for the other kinds.
    """
    picture, sound = (None if name is None else folder / name for name in names(scene, stem))
    if picture is not None and not scene.is_still:
        write_mp4(scene, picture)
    elif picture is not None:
        write_png(scene, picture)
    if sound is not None:
        write_wav(scene, sound)
    return picture, sound


def names(scene: Scene, stem: str) -> tuple[str | None, str | None]:
    """What :func:`write` calls the picture's file and the sound's."""
    if scene.has_picture and not scene.is_still:
        return f"{stem}.mp4", None
    return f"{stem}.png" if scene.has_picture else None, f"{stem}.wav" if scene.has_sound else None


def write_mp4(scene: Scene, path: Path, *, size: int = 256, fps: int = FPS) -> None:
    """Frames of ``size`` pixels' side with the scene's sound.

    Frame n is on the screen from n / fps to (n + 1) / fps and is drawn as the scene is in the middle of that, at
    (n + 1/2) / fps. So what happens at t is first seen in the frame that begins nearest to t, at most half a frame
    before or after: 20 ms at 25 frames a second. Drawn at n / fps it would be up to 40 ms late, and never early.
    """
    write_clip(path, frames=_frames(scene, size, fps), fps=fps, waveform=play(scene))


def write_wav(scene: Scene, path: Path) -> None:
    """The scene's sound, 16 kHz, 16 bits."""
    write_clip(path, waveform=play(scene), container="wav")


def write_png(scene: Scene, path: Path, size: int = 256) -> None:
    """The scene at its beginning; ``size`` pixels' side."""
    Image.fromarray(draw(scene, [0.0], size)[0]).save(path, "PNG")


def _frames(scene: Scene, size: int, fps: int) -> Iterator[np.ndarray]:
    """(S, S, 3) uint8 each; a last frame that would end after the scene is left out."""
    num_frames = max(int(scene.seconds * fps + 1e-6), 1)
    for first in range(0, num_frames, _FRAMES_AT_ONCE):
        numbers = np.arange(first, min(first + _FRAMES_AT_ONCE, num_frames))
        yield from draw(scene, (numbers + 0.5) / fps, size, first_frame=first)
