"""Every word of the world: what things, sounds, prints and utterances can be.

The order of each tuple is the order of the classes in the dense labels, so a change here makes trained encoders stale.
"""

from __future__ import annotations

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 90, 230),
    "yellow": (235, 210, 50),
    "purple": (160, 60, 190),
    "white": (240, 240, 240),
}
"""Colour of a thing -> RGB, 0-255; rendering varies it a little. Backgrounds are dark greys and browns."""

SHAPES = ("circle", "square", "triangle", "cross")

SIZES = {"small": 0.09, "big": 0.15}
"""Size of a thing -> radius as a share of the picture's side."""

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Way a thing moves -> (x, y); x grows to the right, y downwards."""

SOUNDS = ("bell", "beep", "hum", "hiss", "siren", "clicks", "whistle", "drum")
"""Timbres of sound events; pitch, length and level vary."""

PRINTED_WORDS = (
    "stop", "open", "exit", "cafe", "zoo", "taxi", "milk", "book", "park", "shop",
    "bank", "hotel", "east", "west", "north", "south", "push", "pull", "sale", "bus",
)  # fmt: skip
"""Words on signs; signs also show numbers of one to three digits."""

PRINTED_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
MAX_PRINTED_CHARACTERS = 5

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NOUNS = ("dog", "cat", "bird", "car", "boat", "tree", "house", "ball", "cup", "key")
VERBS = ("take", "find", "move", "bring", "drop", "see")

SPOKEN_WORDS = (
    *DIGITS, *NOUNS, *VERBS, *COLOURS, *SHAPES, *SIZES,
    "the", "a", "and", "near", "under", "what", "colour", "shape", "is", "how", "many", "shapes", "are", "there",
    "written", "which", "where",
)  # fmt: skip
"""All words that are ever spoken."""
