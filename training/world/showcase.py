"""``python -m training showcase``: the clip that the demo asks about, and a picture of it for the README.

The scene is written by hand, and every one of its things makes a sound that no thing of its colour and shape makes in
training (`training.world.splits`). Two flashes of the square and a sound from nowhere make guessing from either
stream alone fail.

Legend: F frames, S pixels of a frame's side, N samples.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from favor.media import SAMPLE_RATE_HZ, Clip, MediaOptions, load_video
from training.world.files import write_mp4
from training.world.picture import RING_COLOUR
from training.world.scene import Scene, Sound, Span, Thing, Waypoint

CLIP = Path("serving/demo_clip.mp4")
STRIP = Path("docs/demo_strip.png")

# All begin and end with a frame of the mp4, so not even half a frame lies between sound and flash.
_BELL, _WHISTLE, _SILENT = Span(0.72, 1.6), Span(2.52, 3.32), Span(4.12, 4.92)
_DRUM, _HISS = Span(5.72, 6.72), Span(7.92, 8.8)
_SECONDS = 10.0

SCENE = Scene(
    seed=20231009,
    kind="video",
    seconds=_SECONDS,
    things=(
        Thing(
            colour="red",
            shape="circle",
            size="big",
            path=(
                Waypoint(0.0, 0.24, 0.26),
                Waypoint(2.0, 0.24, 0.26),
                Waypoint(7.0, 0.76, 0.26),
                Waypoint(_SECONDS, 0.76, 0.26),
            ),
            flashes=(_BELL,),
        ),
        Thing("blue", "square", "big", (Waypoint(0.0, 0.26, 0.74), Waypoint(_SECONDS, 0.26, 0.74)), (_SILENT, _HISS)),
        Thing("yellow", "triangle", "big", (Waypoint(0.0, 0.74, 0.72), Waypoint(_SECONDS, 0.74, 0.72)), (_DRUM,)),
    ),
    sounds=(
        Sound("bell", _BELL, pitch=0.5, level_db=-14.0, source=0),
        Sound("whistle", _WHISTLE, pitch=0.4, level_db=-18.0),
        Sound("drum", _DRUM, pitch=0.6, level_db=-12.0, source=2),
        Sound("hiss", _HISS, pitch=0.5, level_db=-16.0, source=1),
    ),
    background=(28, 28, 34),
    grain=2.0,
    noise_db=-60.0,
)

FAMILIES = ("avssd.source", "avssd.sound", "after.next_event_by_sound")
"""What the demo's questions ask, in its order; see :mod:`training.world.questions`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clip", type=Path, default=CLIP, help="the mp4 to write (default: %(default)s)")
    parser.add_argument("--strip", type=Path, default=STRIP, help="the png to write (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Write both."""
    for path in (options.clip, options.strip):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(SCENE, options.clip)
    draw_strip(options.clip, SCENE).save(options.strip, "PNG", optimize=True)
    for path in (options.clip, options.strip):
        print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


# The picture: rows of frames, each as wide as the half second that it shows, above what is heard in that time --------

_STEP_S = 0.5
_STEPS_PER_ROW = 10
_FRAME_PX = 120
_GAP_PX = 4
_MARGIN_PX = 14
_WAVE_PX = 64
_LABEL_PX = 22
_TICKS_PX = 24
_BETWEEN_ROWS_PX = 20
_BARS_PER_STEP = 40
_NUM_COLOURS = 128

_PAPER, _INK, _FAINT = (250, 250, 251), (52, 56, 64), (214, 218, 224)
_SOUND_COLOUR, _QUIET_COLOUR = (18, 132, 150), (150, 158, 168)


@dataclass(frozen=True)
class _Row:
    """One row of the strip: times of the clip to pixels of the picture."""

    start_s: float
    end_s: float
    top: int

    @property
    def wave_top(self) -> int:
        return self.top + _FRAME_PX + _LABEL_PX

    @property
    def wave_bottom(self) -> int:
        return self.wave_top + _WAVE_PX

    def x(self, time_s: float) -> int:
        return _MARGIN_PX + round((time_s - self.start_s) / _STEP_S * _FRAME_PX)


def draw_strip(clip: Path, scene: Scene) -> Image.Image:
    """What the file shows in the middle of every half second and what it sounds like, with names from the scene."""
    seen = load_video(clip, options=MediaOptions(frame_size=_FRAME_PX - _GAP_PX))
    rows = _rows(scene.seconds)
    size = (2 * _MARGIN_PX + _STEPS_PER_ROW * _FRAME_PX, rows[-1].wave_bottom + _TICKS_PX + _MARGIN_PX)
    strip = Image.new("RGB", size, _PAPER)
    for row in rows:
        _draw_frames(strip, row, seen)
        _draw_wave(strip, row, seen.waveform, scene)
        _draw_names(strip, row, scene)
        _draw_seconds(strip, row)
    return strip.quantize(_NUM_COLOURS, dither=Image.Dither.NONE)


def _rows(seconds: float) -> list[_Row]:
    row_s = _STEPS_PER_ROW * _STEP_S
    height = _FRAME_PX + _LABEL_PX + _WAVE_PX + _TICKS_PX + _BETWEEN_ROWS_PX
    edges_s = [*np.arange(0.0, seconds, row_s).tolist(), seconds]
    return [_Row(start, end, _MARGIN_PX + n * height) for n, (start, end) in enumerate(pairwise(edges_s))]


def _draw_frames(strip: Image.Image, row: _Row, clip: Clip) -> None:
    for number in range(round(row.start_s / _STEP_S), round(row.end_s / _STEP_S)):
        strip.paste(Image.fromarray(clip.frames[number]), (row.x(number * _STEP_S) + _GAP_PX // 2, row.top))


def _draw_wave(strip: Image.Image, row: _Row, waveform: np.ndarray, scene: Scene) -> None:
    """Bars as high as the loudest sample of their time, coloured where a sound is named."""
    pen, middle = ImageDraw.Draw(strip), (row.wave_top + row.wave_bottom) // 2
    loudest = float(np.abs(waveform).max())
    bar_s = _STEP_S / _BARS_PER_STEP
    for number in range(round(row.start_s / bar_s), round(row.end_s / bar_s)):
        first, last = (round(edge * bar_s * SAMPLE_RATE_HZ) for edge in (number, number + 1))
        peak = float(np.abs(waveform[first:last]).max(initial=0.0)) / loudest
        half = max(round(peak * _WAVE_PX / 2), 1)
        is_named = any(sound.span.contains((number + 0.5) * bar_s) for sound in scene.sounds)
        x = row.x(number * bar_s)
        pen.line((x, middle - half, x, middle + half), _SOUND_COLOUR if is_named else _QUIET_COLOUR, width=2)


def _draw_names(strip: Image.Image, row: _Row, scene: Scene) -> None:
    """The sounds' names where they begin, and a line of the rings' colour below frames while a thing flashes."""
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(15)
    flashes = [(thing, flash) for thing in scene.things for flash in thing.flashes]
    for _, flash in flashes:
        if row.start_s <= flash.start_s < row.end_s:
            y = row.top + _FRAME_PX - 1
            pen.line((row.x(flash.start_s), y, row.x(min(flash.end_s, row.end_s)), y), _dark(RING_COLOUR), width=4)
    heard = [(sound.span, sound.kind + ("" if sound.source is not None else " (off screen)")) for sound in scene.sounds]
    silent = [(flash, "no sound") for _, flash in flashes if all(flash != sound.span for sound in scene.sounds)]
    for span, text in (*heard, *silent):
        if row.start_s <= span.start_s < row.end_s:
            colour = _SOUND_COLOUR if (span, text) in heard else _QUIET_COLOUR
            pen.text((row.x(span.start_s), row.top + _FRAME_PX + 3), text, colour, font)


def _draw_seconds(strip: Image.Image, row: _Row) -> None:
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(13)
    y = row.wave_bottom + 4
    pen.line((row.x(row.start_s), y, row.x(row.end_s), y), _FAINT, width=1)
    for second in range(round(row.start_s), round(row.end_s) + 1):
        x = row.x(second)
        pen.line((x, y, x, y + 5), _INK, width=1)
        anchor = "la" if second == round(row.start_s) else "ra" if second == round(row.end_s) else "ma"
        pen.text((x, y + 6), f"{second} s", _INK, font, anchor)


def _dark(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """The ring's cyan is too bright for paper."""
    return colour[0] * 7 // 10, colour[1] * 7 // 10, colour[2] * 7 // 10
