"""A scene to frames, and to what is to be seen in each of them.

Legend: F frames, S pixels of the square picture's side, N things, C = 24 classes of objects, B pixels of a box's side.
Places are shares of the side, as in the scene; distances while drawing are pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from training.world.scene import Scene, Sign, Span, Thing
from training.world.vocabulary import COLOURS, MAX_PRINTED_CHARACTERS, PRINTED_CHARACTERS, SHAPES, SIZES

OBJECT_CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
NO_OBJECT = len(OBJECT_CLASSES)
BLANK = len(PRINTED_CHARACTERS)
PATCHES_PER_SIDE = 4

_COLOUR_NAMES = tuple(COLOURS)
_PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)
_COLOUR_JITTER = 12.0
_SHADE = 6.0
"""Levels of 255 by which a thing's colour and the background vary."""

RING_COLOUR = (90, 255, 255)
"""Cyan: as far from every colour of the vocabulary as can be."""

_RING_RADIUS = 1.4
"""In radii of the thing: every shape ends within 1.13, so a dark gap stays between."""
_RING_THICKNESS = 0.032
_GAP_THICKNESS = 0.022
"""Shares of the side; the gap lies on both sides of the ring, for a ring on top of another thing."""
_GAP_COLOUR = (0, 0, 0)

_SIGN_UNITS = 32
"""A dot of the font is this part of the side: 2 pixels at 64, and 5 characters span 29/32 of the picture."""
_SIGN_GRID = 64
"""Signs begin on whole pixels of a picture of this side, so that their dots are equally wide there."""
_GLYPH_HEIGHT, _GLYPH_WIDTH, _ADVANCE = 7, 5, 6
_TEXT_COLOUR, _PLATE_COLOUR = (248, 244, 228), (8, 10, 14)

_SAMPLES_PER_PATCH = 6
_LEAST_SAMPLES = 2
"""A patch belongs to what is seen at most of its 6 x 6 samples, and at no fewer than these. So whatever is wholly seen
has a patch, even the thinnest thing where four patches meet."""

_FONT = """
.###. ####. .###. ####. ##### ##### .###. #...# .###. ..### #...# #.... #...# #...# .###. ####. .###. ####.
#...# #...# #...# #...# #.... #.... #...# #...# ..#.. ...#. #..#. #.... ##.## ##..# #...# #...# #...# #...#
#...# #...# #.... #...# #.... #.... #.... #...# ..#.. ...#. #.#.. #.... #.#.# ##..# #...# #...# #...# #...#
##### ####. #.... #...# ####. ####. #.### ##### ..#.. ...#. ##... #.... #.#.# #.#.# #...# ####. #...# ####.
#...# #...# #.... #...# #.... #.... #...# #...# ..#.. ...#. #.#.. #.... #...# #..## #...# #.... #.#.# #.#..
#...# #...# #...# #...# #.... #.... #...# #...# ..#.. #..#. #..#. #.... #...# #..## #...# #.... #..#. #..#.
#...# ####. .###. ####. ##### #.... .###. #...# .###. .##.. #...# ##### #...# #...# .###. #.... .##.# #...#
.#### ##### #...# #...# #...# #...# #...# ##### .###. ..#.. .###. ##### ...#. ##### ..##. ##### .###. .###.
#.... ..#.. #...# #...# #...# #...# #...# ....# #...# .##.. #...# ...#. ..##. #.... .#... ....# #...# #...#
#.... ..#.. #...# #...# #...# .#.#. .#.#. ...#. #..## ..#.. ....# ..#.. .#.#. ####. #.... ...#. #...# #...#
.###. ..#.. #...# #...# #.#.# ..#.. ..#.. ..#.. #.#.# ..#.. ...#. ...#. #..#. ....# ####. ..#.. .###. .####
....# ..#.. #...# #...# #.#.# .#.#. ..#.. .#... ##..# ..#.. ..#.. ....# ##### ....# #...# .#... #...# ....#
....# ..#.. #...# .#.#. #.#.# #...# ..#.. #.... #...# ..#.. .#... #...# ...#. #...# #...# .#... #...# ...#.
####. ..#.. .###. ..#.. .#.#. #...# ..#.. ##### .###. .###. ##### .###. ...#. .###. .###. .#... .###. .##..
"""


def _read_font(drawing: str) -> dict[str, np.ndarray]:
    """Character -> (7, 5) bool. Capitals, as on signs; zero is slashed, to differ from o."""
    rows = drawing.split("\n")[1:-1]
    words = [" ".join(rows[row::_GLYPH_HEIGHT]).split() for row in range(_GLYPH_HEIGHT)]
    return {
        character: np.array([[dot == "#" for dot in row[number]] for row in words])
        for number, character in enumerate(PRINTED_CHARACTERS)
    }


GLYPHS = _read_font(_FONT)


def object_class(colour: str, shape: str) -> int:
    """The number of the pair in OBJECT_CLASSES."""
    return _COLOUR_NAMES.index(colour) * len(SHAPES) + SHAPES.index(shape)


@dataclass(frozen=True)
class PictureLabels:
    """What is to be seen in every frame.

    Args:
        present: (F, 24) bool, is an object of this class on the picture?
        flashing, big: (F, 24) bool, does it wear its ring, is it big? False where absent.
        places: (F, 24, 2) float32, (x, y) of its middle; 0 where absent.
        characters: (F, 5) int64, the sign's text as indices into PRINTED_CHARACTERS, from the left; BLANK elsewhere.
        patch_class: (F, 16) int64, the object that most is seen of in each patch of a 4x4 grid, row by row; NO_OBJECT
            where none is. What another thing or a sign hides is not seen.
        patch_flashing: (F, 16) bool, does that object wear its ring?
        patch_characters: (F, 16, 2) int64, the sign's character across the left and the right half of each patch; BLANK
            elsewhere.
    """

    present: np.ndarray
    flashing: np.ndarray
    big: np.ndarray
    places: np.ndarray
    characters: np.ndarray
    patch_class: np.ndarray
    patch_flashing: np.ndarray
    patch_characters: np.ndarray


def draw(scene: Scene, times_s: Sequence[float] | np.ndarray, size: int, *, first_frame: int = 0) -> np.ndarray:
    """The scene at these times; the same arguments give the same bytes.

    Args:
        times_s: F seconds. A still scene looks the same at all of them, but for its grain.
        size: S pixels.
        first_frame: number of the first frame, by which its grain is chosen; for a clip drawn in several parts.

    Returns:
        (F, S, S, 3) uint8 RGB.
    """
    times = np.asarray(times_s, dtype=np.float64)
    random = np.random.default_rng([scene.seed, 1])
    jitter = random.uniform(-_COLOUR_JITTER, _COLOUR_JITTER, size=(len(scene.things), 3)).astype(np.float32)
    canvas = np.empty((times.size, size, size, 3), dtype=np.float32)
    canvas[:] = _background(scene, size, random)
    for thing, tint in zip(scene.things, jitter):
        _draw_thing(canvas, thing, _track(scene, thing, times), tint)
    for sign, is_shown in _shown_signs(scene, times):
        _draw_sign(canvas, sign, is_shown)
    _add_grain(canvas, scene, first_frame, random)
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)


def label(scene: Scene, times_s: Sequence[float] | np.ndarray) -> PictureLabels:
    """The labels of ``draw(scene, times_s, ...)``, from the scene alone."""
    times = np.asarray(times_s, dtype=np.float64)
    num_frames, frames = times.size, np.arange(times.size)
    tracks = [_track(scene, thing, times) for thing in scene.things]
    present, flashing, big = (np.zeros((num_frames, NO_OBJECT), dtype=bool) for _ in range(3))
    places = np.zeros((num_frames, NO_OBJECT, 2), dtype=np.float32)
    for thing, track in zip(scene.things, tracks):
        seen, classes = frames[track.is_visible], track.object_classes(thing)[track.is_visible]
        present[seen, classes] = True
        flashing[seen, classes] = track.is_flashing[track.is_visible]
        big[seen, classes] = thing.size == "big"
        places[seen, classes] = np.stack([track.x, track.y], axis=-1)[track.is_visible]
    patch_class, patch_flashing = _label_patches(scene, times, tracks)
    return PictureLabels(
        present,
        flashing,
        big,
        places,
        characters=_label_characters(scene, times),
        patch_class=patch_class,
        patch_flashing=patch_flashing,
        patch_characters=_label_patch_characters(scene, times),
    )


def seen_things(scene: Scene, times_s: Sequence[float] | np.ndarray, size: int) -> np.ndarray:
    """Which thing every pixel of ``draw(scene, times_s, size)`` shows.

    Returns:
        (F, S, S) int64 numbers of things; -1 where the background, a ring or a sign is seen.
    """
    times = np.asarray(times_s, dtype=np.float64)
    at = (np.arange(size) + 0.5) / size
    owner = np.full((times.size, size, size), -1)
    for number, thing in enumerate(scene.things):  # as they are drawn: a ring, then its thing
        track, radius = _track(scene, thing, times), SIZES[thing.size]
        x, y = at - track.x[:, None, None], at[:, None] - track.y[:, None, None]  # (F, 1, S), (F, S, 1)
        is_ring = np.abs(_from_circle(x, y, _RING_RADIUS * radius)) < _RING_THICKNESS / 2 + _GAP_THICKNESS
        owner[is_ring & (track.is_visible & track.is_flashing)[:, None, None]] = -1
        owner[(_DISTANCES[thing.shape](x, y, radius) < 0) & track.is_visible[:, None, None]] = number
    return np.where(_is_under_signs(scene, times, at), -1, owner)


@dataclass(frozen=True)
class _Track:
    """A thing in every frame: (F,) arrays; x, y float64 shares, colour int64 index into the vocabulary's colours."""

    x: np.ndarray
    y: np.ndarray
    is_visible: np.ndarray
    is_flashing: np.ndarray
    colour: np.ndarray

    def object_classes(self, thing: Thing) -> np.ndarray:
        """(F,) int64."""
        return self.colour * len(SHAPES) + SHAPES.index(thing.shape)


def _track(scene: Scene, thing: Thing, times: np.ndarray) -> _Track:
    times = np.zeros_like(times) if scene.is_still else times
    waypoints = [point.time_s for point in thing.path]
    x = np.interp(times, waypoints, [point.x for point in thing.path])
    y = np.interp(times, waypoints, [point.y for point in thing.path])
    is_visible = np.full(times.shape, scene.is_still) | _is_within(thing.visible, times)
    is_flashing = np.zeros(times.shape, dtype=bool)
    for flash in thing.flashes:
        is_flashing |= _is_within(flash, times)
    colour = np.full(times.shape, _COLOUR_NAMES.index(thing.colour))
    if thing.recolour is not None:
        colour[times >= thing.recolour.time_s] = _COLOUR_NAMES.index(thing.recolour.colour)
    radius = SIZES[thing.size]
    is_inside = (np.abs(x - 0.5) < 0.5 + radius) & (np.abs(y - 0.5) < 0.5 + radius)
    return _Track(x, y, is_visible & is_inside, is_flashing, colour)


def _is_within(span: Span, times: np.ndarray) -> np.ndarray:
    return (span.start_s <= times) & (times < span.end_s)


def _shown_signs(scene: Scene, times: np.ndarray) -> Iterator[tuple[Sign, np.ndarray]]:
    """Every sign with its (F,) bool."""
    for sign in scene.signs:
        yield sign, np.full(times.shape, scene.is_still) | _is_within(sign.span, times)


_Distance = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""Offsets from the middle x, y (broadcast together) and a radius to the signed distance, negative inside."""


def _from_circle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.sqrt(x * x + y * y) - radius


def _from_square(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.8 * radius


def _from_triangle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Equilateral, upright, its corners at 1.13 radii."""
    return np.maximum(np.sqrt(0.75) * np.abs(x) - 0.5 * y, y) - 0.565 * radius


def _from_cross(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    across, down = np.abs(x), np.abs(y)
    arm = 0.34 * radius
    return np.minimum(np.maximum(across - radius, down - arm), np.maximum(across - arm, down - radius))


_DISTANCES: dict[str, _Distance] = dict(
    zip(SHAPES, (_from_circle, _from_square, _from_triangle, _from_cross), strict=True)
)


def _background(scene: Scene, size: int, random: np.random.Generator) -> np.ndarray:
    """(S, S, 3) float32, with half a level added because the end truncates."""
    waves, phase = random.uniform(-0.7, 0.7, size=2), random.uniform(0, 2 * np.pi)
    at = (np.arange(size) + 0.5) / size
    shade = _SHADE * np.cos(2 * np.pi * (waves[0] * at + waves[1] * at[:, None]) + phase)
    return (np.array(scene.background) + 0.5 + shade[..., None]).astype(np.float32)  # (S, S) -> (S, S, 3)


def _draw_thing(canvas: np.ndarray, thing: Thing, track: _Track, tint: np.ndarray) -> None:
    size = canvas.shape[1]
    radius, thickness, gap = (size * share for share in (SIZES[thing.size], _RING_THICKNESS, _GAP_THICKNESS))
    reach = _RING_RADIUS * radius + thickness / 2 + gap
    for frames, x, y, left, top in _boxes(track, track.is_visible & track.is_flashing, reach, size):
        from_ring = np.abs(_from_circle(x, y, _RING_RADIUS * radius)) - thickness / 2
        _blend(canvas, frames, left, top, from_ring - gap, np.array([_GAP_COLOUR] * frames.size, dtype=np.float32))
        _blend(canvas, frames, left, top, from_ring, np.array([RING_COLOUR] * frames.size, dtype=np.float32))
    for frames, x, y, left, top in _boxes(track, track.is_visible, 1.14 * radius, size):
        distance = _DISTANCES[thing.shape](x, y, radius)
        _blend(canvas, frames, left, top, distance, _PALETTE[track.colour[frames]] + tint)


def _boxes(track: _Track, chosen: np.ndarray, reach: float, size: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Nothing, or once: the K chosen frames' numbers (K,); the pixels' offsets from the thing's middle, x (K, 1, B) and
    y (K, B, 1), float32 pixels; the boxes' first columns and rows (K,). A box never leaves the picture."""
    frames = np.flatnonzero(chosen)
    if not frames.size:
        return
    side = min(2 * int(np.ceil(reach)) + 3, size)
    middle_x, middle_y = track.x[frames] * size, track.y[frames] * size
    left, top = (np.clip(np.floor(middle - side / 2), 0, size - side).astype(int) for middle in (middle_x, middle_y))
    pixels = np.arange(side) + 0.5
    x = ((left - middle_x)[:, None] + pixels).astype(np.float32)[:, None, :]
    y = ((top - middle_y)[:, None] + pixels).astype(np.float32)[:, :, None]
    yield frames, x, y, left, top


def _blend(
    canvas: np.ndarray, frames: np.ndarray, left: np.ndarray, top: np.ndarray, distance: np.ndarray, colours: np.ndarray
) -> None:
    """Paint (K, 3) ``colours`` into K boxes, where ``distance`` (K, B, B) in pixels is negative; edges are smooth."""
    side = distance.shape[1]
    cover = np.clip(0.5 - distance, 0, 1)[..., None]  # (K, B, B) -> (K, B, B, 1)
    for number, frame in enumerate(frames.tolist()):
        column, row = left[number], top[number]
        box = canvas[frame, row : row + side, column : column + side]
        box += cover[number] * (colours[number] - box)


def _plate(sign: Sign) -> tuple[float, float, float, float]:
    """Left, top, width and height of a sign's dark plate, shares of the side; pushed back onto the picture."""
    width = (_ADVANCE * len(sign.text) + 1) / _SIGN_UNITS
    height = (_GLYPH_HEIGHT + 2) / _SIGN_UNITS
    left, top = (
        round(_SIGN_GRID * min(max(middle - extent / 2, 0.0), 1 - extent)) / _SIGN_GRID
        for middle, extent in ((sign.x, width), (sign.y, height))
    )
    return left, top, width, height


def _draw_sign(canvas: np.ndarray, sign: Sign, is_shown: np.ndarray) -> None:
    """The nearest dot of the plate to every pixel."""
    size = canvas.shape[1]
    left, top, width, height = (size * share for share in _plate(sign))
    columns = np.arange(round(left), round(left + width))
    rows = np.arange(round(top), round(top + height))
    dots = _dots(sign.text)
    down = np.clip((rows + 0.5 - top) * _SIGN_UNITS / size, 0, dots.shape[0] - 1).astype(int)
    across = np.clip((columns + 0.5 - left) * _SIGN_UNITS / size, 0, dots.shape[1] - 1).astype(int)
    colours = np.array([_PLATE_COLOUR, _TEXT_COLOUR], dtype=np.float32)
    canvas[is_shown, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = colours[dots[np.ix_(down, across)]]


def _dots(text: str) -> np.ndarray:
    """(9, 6 * characters + 1) int64: 1 where light, with a margin of one dot."""
    assert 0 < len(text) <= MAX_PRINTED_CHARACTERS, text
    dots = np.zeros((_GLYPH_HEIGHT + 2, _ADVANCE * len(text) + 1), dtype=np.int64)
    for number, character in enumerate(text):
        begin = 1 + _ADVANCE * number
        dots[1:-1, begin : begin + _GLYPH_WIDTH] = GLYPHS[character]
    return dots


def _add_grain(canvas: np.ndarray, scene: Scene, first_frame: int, random: np.random.Generator) -> None:
    """Every frame takes another stretch of one field of noise: normal numbers cost more than all the rest."""
    if scene.grain <= 0:
        return
    length = canvas[0].size if len(canvas) else 0
    field = random.standard_normal(length + length // 2, dtype=np.float32) * np.float32(scene.grain)
    for number, frame in enumerate(canvas):
        begin = (first_frame + number + 1) * 7919 * 104729 % (length // 2)
        frame += field[begin : begin + length].reshape(frame.shape)


def _label_characters(scene: Scene, times: np.ndarray) -> np.ndarray:
    """(F, 5) int64; of several signs the last, which is drawn on top."""
    characters = np.full((times.size, MAX_PRINTED_CHARACTERS), BLANK)
    for sign, is_shown in _shown_signs(scene, times):
        text = [PRINTED_CHARACTERS.index(character) for character in sign.text]
        characters[is_shown] = text + [BLANK] * (MAX_PRINTED_CHARACTERS - len(text))
    return characters


def _label_patch_characters(scene: Scene, times: np.ndarray) -> np.ndarray:
    """(F, 16, 2) int64, by the character under the middle of each half patch, in the rows that a sign reaches well."""
    side = PATCHES_PER_SIDE
    found = np.full((times.size, side, side, 2), BLANK)
    halves = (np.arange(2 * side) + 0.5) / (2 * side)  # x of their middles
    for sign, is_shown in _shown_signs(scene, times):
        left, top, _, height = _plate(sign)
        places = np.floor((halves - left) * _SIGN_UNITS / _ADVANCE).astype(int)
        row = [PRINTED_CHARACTERS.index(sign.text[n]) if 0 <= n < len(sign.text) else BLANK for n in places]
        is_reached = [min(top + height, (n + 1) / side) - max(top, n / side) > 0.25 / side for n in range(side)]
        found[np.ix_(is_shown, np.array(is_reached))] = np.reshape(row, (side, 2))
    return found.reshape(times.size, side * side, 2)


def _label_patches(scene: Scene, times: np.ndarray, tracks: Sequence[_Track]) -> tuple[np.ndarray, np.ndarray]:
    """patch_class and patch_flashing, by who is in front at every sample."""
    num_frames, side = times.size, PATCHES_PER_SIDE * _SAMPLES_PER_PATCH
    at = (np.arange(side) + 0.5) / side
    owner = np.full((num_frames, side, side), -1)
    for number, (thing, track) in enumerate(zip(scene.things, tracks)):
        x, y = at - track.x[:, None, None], at[:, None] - track.y[:, None, None]  # (F, 1, 24), (F, 24, 1)
        is_covered = _DISTANCES[thing.shape](x, y, SIZES[thing.size]) < 0
        owner[is_covered & track.is_visible[:, None, None]] = number
    owner[_is_under_signs(scene, times, at)] = -1
    return _most_seen(owner, scene.things, tracks)


def _is_under_signs(scene: Scene, times: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(F, n, n) bool, does a sign's plate hide what is at these n places along x and along y?"""
    is_hidden = np.zeros((times.size, at.size, at.size), dtype=bool)
    for sign, is_shown in _shown_signs(scene, times):
        left, top, width, height = _plate(sign)
        is_covered = (np.abs(at - left - width / 2) < width / 2) & (np.abs(at - top - height / 2) < height / 2)[:, None]
        is_hidden |= is_covered & is_shown[:, None, None]
    return is_hidden


def _most_seen(owner: np.ndarray, things: Sequence[Thing], tracks: Sequence[_Track]) -> tuple[np.ndarray, np.ndarray]:
    """(F, 24, 24) numbers of things at the samples, -1 for none, to patch_class and patch_flashing."""
    num_frames, num_patches = owner.shape[0], PATCHES_PER_SIDE**2
    patch_class = np.full((num_frames, num_patches), NO_OBJECT)
    patch_flashing = np.zeros((num_frames, num_patches), dtype=bool)
    most = np.full((num_frames, num_patches), _LEAST_SAMPLES - 1)
    samples = owner.reshape(num_frames, PATCHES_PER_SIDE, _SAMPLES_PER_PATCH, PATCHES_PER_SIDE, _SAMPLES_PER_PATCH)
    for number, (thing, track) in enumerate(zip(things, tracks)):
        count = (samples == number).sum((2, 4)).reshape(num_frames, num_patches)
        is_most = count > most
        most = np.maximum(most, count)
        patch_class = np.where(is_most, track.object_classes(thing)[:, None], patch_class)
        patch_flashing = np.where(is_most, track.is_flashing[:, None], patch_flashing)
    return patch_class, patch_flashing
