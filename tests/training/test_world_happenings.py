"""What things do in every step, as labels."""

from __future__ import annotations

import torch

from training.world.happenings import MOTIONS, NAMES, UNKNOWN, WHAT, happenings_of
from training.world.scene import Recolour, Scene, Span, Thing, Waypoint
from training.world.vocabulary import COLOURS

RED, GREEN = (tuple(COLOURS).index(colour) for colour in ("red", "green"))
SQUARE = NAMES.index("square")

SCENE = Scene(
    1,
    "video",
    4.0,
    things=(
        Thing(
            "red",
            "square",
            "big",
            path=(Waypoint(1.0, 0.1, 0.5), Waypoint(2.0, 0.1, 0.5), Waypoint(3.0, 0.9, 0.5)),
            flashes=(Span(1.6, 2.3),),
            recolour=Recolour(2.5, "green", "sound", 0),
        ),
    ),
)


def begun(what: str, colour: int) -> list[int]:
    return happenings_of(SCENE, steps=8, filled=10).begins[:, WHAT.index(what), colour].nonzero().flatten().tolist()


def test_something_begins_in_the_first_step_whose_frame_shows_it() -> None:
    assert begun("comes", RED) == [2]  # frames at 0.25, 0.75, 1.25 s
    assert begun("flashes", RED) == [3]
    assert begun("turns", GREEN) == [5]
    assert begun("leaves", GREEN) == [6]


def test_places_and_motions_stand_by_colour_and_by_shape_while_it_is_visible() -> None:
    labels = happenings_of(SCENE, steps=8, filled=10)
    is_placed = (labels.zones[:, SQUARE] != UNKNOWN).all(dim=1)
    assert is_placed.nonzero().flatten().tolist() == [2, 3, 4, 5]
    assert labels.zones[2, SQUARE].tolist() == [0, 2]  # x 0.1 and y 0.5 in fifths
    assert torch.equal(labels.zones[2, RED], labels.zones[2, SQUARE])
    assert (labels.zones[5, RED] == UNKNOWN).all()
    assert torch.equal(labels.zones[5, GREEN], labels.zones[5, SQUARE])
    told = [None if label == UNKNOWN else MOTIONS[label] for label in labels.motions[:, SQUARE].tolist()]
    assert told[2:6] == ["stays", "stays", "right", "right"] or told[2:6] == [None, "stays", "right", "right"]


def test_without_a_picture_nothing_is_seen() -> None:
    labels = happenings_of(Scene(1, "sounds", 4.0), steps=8, filled=10)
    assert not labels.begins.any()
    assert (labels.zones == UNKNOWN).all()
    assert labels.begins.shape == (10, len(WHAT), len(COLOURS))
