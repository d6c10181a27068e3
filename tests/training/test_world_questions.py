"""Questions about scenes: right answers on scenes made by hand, balance and clearness over many drawn ones."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter, defaultdict
from functools import cache
from typing import get_args

import pytest

from training.world.question import TASKS, Question
from training.world.questions import FAMILIES, REFUSALS, WORDINGS, ask, ask_family, normalise, outside, score, timeline
from training.world.questions.typing_habits import OPENINGS, typed
from training.world.scene import Collision, Kind, Recolour, Scene, Sign, Sound, Span, Thing, Utterance, Waypoint
from training.world.scenes import make


def thing(name: str, start_s: float = 0.0, end_s: float = 10.0, x: float = 0.5, y: float = 0.5, **changes) -> Thing:
    colour, shape = name.split()
    to_x, to_y = changes.pop("to", (x, y))
    return Thing(
        colour, shape, changes.pop("size", "big"), (Waypoint(start_s, x, y), Waypoint(end_s, to_x, to_y)), **changes
    )


def sound(kind: str, start_s: float, source: int | None = None) -> Sound:
    return Sound(kind, Span(start_s, start_s + 0.6), 0.5, -18.0, source)


VIDEO = Scene(
    1,
    "video",
    10.0,
    things=(
        thing("red circle", 0.0, 10.0, x=0.2, to=(0.7, 0.5), flashes=(Span(2.0, 2.8), Span(7.0, 7.6))),
        thing("blue square", 4.0, 8.5, flashes=(Span(5.0, 5.7),)),
        thing("white cross", 5.9, 10.0, y=0.8),
    ),
    sounds=(sound("bell", 2.0, 0), sound("hiss", 3.0), sound("drum", 5.0, 1), sound("hiss", 9.2)),
    signs=(Sign("stop", Span(0, 10), 0.5, 0.1),),
)
CAUSE = Scene(
    2,
    "cause",
    8.0,
    things=(
        thing("red circle", 0, 8, recolour=Recolour(4.3, "green", "sound", 1)),
        thing("blue square", 0, 6, x=0.1),
    ),
    sounds=(sound("hum", 1.0), sound("bell", 4.0)),
)
BUMP = Scene(
    3,
    "cause",
    8.0,
    things=(
        thing("red circle", 0, 8, recolour=Recolour(4.3, "green", "collision", 0)),
        thing("blue square", 0, 8, x=0.1),
    ),
    sounds=(sound("hum", 1.0),),
    collisions=(Collision(4.0, 0, 1),),
)
IMAGE = Scene(
    4,
    "image",
    0.0,
    things=(thing("red circle", 0, 0, x=0.2), thing("blue square", 0, 0, x=0.8, size="small")),
    signs=(Sign("42", Span(0, 0), 0.5, 0.1),),
)


def answers(scene: Scene, family: str) -> dict[str, str]:
    """Every question of a family that some draws give -> its answer."""
    drawn = (ask_family(scene, family, random.Random(seed)) for seed in range(150))
    return {question.text: question.answer for question in drawn if question}


@pytest.mark.parametrize(
    ("scene", "family", "words", "answer"),
    [
        (VIDEO, "ac.caption", "", "bell then hiss then drum then hiss"),
        (VIDEO, "ocr.read", "", "stop"),
        (VIDEO, "video_qa.direction", "circle", "right"),
        (VIDEO, "video_qa.direction", "square", "it stays"),
        (VIDEO, "video_qa.colour", "cross", "white"),
        (VIDEO, "video_qa.shape", "blue", "square"),
        (VIDEO, "video_qa.number", "", "3"),
        (VIDEO, "video_qa.first", "first", "red circle"),
        (VIDEO, "video_qa.first", "last", "white cross"),
        (VIDEO, "video_qa.before", "blue square .*before the red circle", "no"),
        (VIDEO, "avssd.source", "drum", "blue square"),
        (VIDEO, "avssd.sound", "red circle", "bell"),
        (VIDEO, "avssd.sound", "white cross", "none"),
        (VIDEO, "while.heard_flashing", "blue square", "drum"),
        (VIDEO, "while.flashing", "bell", "red circle"),
        (VIDEO, "while.visible", "bell", "circle"),
        (VIDEO, "while.heard_visible", "blue square", "drum"),
        (VIDEO, "after.next_event", "blue square leaves", "absent"),
        (VIDEO, "after.next_event_by_sound", "bell", "blue square comes"),
        (VIDEO, "after.previous_event", "blue square appears", "red circle flashes"),
        (VIDEO, "after.next_sound_by_event", "blue square appears", "drum"),
        (VIDEO, "after.previous_sound_by_event", "blue square appears", "hiss"),
        (VIDEO, "after.next_sound", "bell", "hiss"),
        (VIDEO, "after.previous_sound", "drum", "hiss"),
        (VIDEO, "after.next_thing", "red circle", "blue square"),
        (VIDEO, "count.sound", "hiss", "2"),
        (VIDEO, "count.flashes", "red circle", "2"),
        (VIDEO, "count.heard_flashes", "red circle", "1"),
        (VIDEO, "count.kinds", "", "3"),
        (VIDEO, "count.sounds", "", "4"),
        (VIDEO, "order.sounds", "", "bell, hiss, drum, hiss"),
        (VIDEO, "order.things", "", "red circle, blue square, white cross"),
        (VIDEO, "order.is_before", "drum .*blue square", "no"),
        (VIDEO, "order.is_before", "drum .*white cross", "yes"),
        (VIDEO, "order.first", "drum.*blue square|blue square.*drum", "blue square"),
        (VIDEO, "when.sound", "drum", "5"),
        (VIDEO, "when.appears", "blue square", "4"),
        (VIDEO, "when.leaves", "blue square", "9"),
        (VIDEO, "when.flashes", "blue square", "5"),
        (CAUSE, "cause.what", "circle", "bell"),
        (CAUSE, "cause.did", "hum", "no"),
        (CAUSE, "cause.did", "bell", "yes"),
        (CAUSE, "cause.effect", "circle", "green"),
        (BUMP, "cause.what", "circle", "blue square"),
        (IMAGE, "ic.caption", "", "a big red circle and a small blue square; the sign says 42"),
        (IMAGE, "ocr.read", "", "42"),
        (IMAGE, "vqa.size", "square", "small"),
        (IMAGE, "vqa.where", "square", "right"),
        (IMAGE, "vqa.number", "", "2"),
        (IMAGE, "vqa.exists", "red square", "no"),
        (IMAGE, "vqa.exists", "red circle", "yes"),
        (IMAGE, "vqa.relation", "left", "circle"),
        (IMAGE, "vqa.is_left", "circle .*left .*square", "yes"),
        (IMAGE, "vqa.is_left", "square .*left .*circle", "no"),
    ],
)
def test_a_family_answers_rightly_about_a_scene_made_by_hand(scene: Scene, family: str, words: str, answer: str):
    found = {reply for text, reply in answers(scene, family).items() if re.search(words, text)}
    assert found == (set() if answer == "absent" else {answer})


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("what colour is the circle", "red"),
        ("what shape is blue", "square"),
        ("which shape is small", "square"),
        ("how many shapes are there", "2"),
        ("what is written", "42"),
        ("where is the blue square", "right"),
        ("is there a red square", "no"),
        ("is there a circle", "yes"),
        ("what is the dog", None),
        ("what colour is the cross", None),
    ],
)
def test_a_spoken_question_is_answered_from_the_picture(text: str, answer: str | None):
    scene = Scene(5, "spoken_question", 3.0, IMAGE.things, (), (Utterance(text, 0.2, "en"),), IMAGE.signs)
    question = ask_family(scene, "isqa.answer", random.Random(1))
    assert (question.answer if question else None) == answer


def test_a_dialogue_leads_to_its_last_question_without_giving_the_answer_away():
    for family in ("avsd.colour", "avsd.shape", "avsd.sound"):
        for seed in range(200):
            question = ask_family(VIDEO, family, random.Random(seed))
            if question:
                said = " ".join(itertools.chain(*question.before))
                assert question.before
                assert not re.search(rf"\b{question.answer}\b", said)


def test_the_timeline_tells_everything_in_order():
    assert timeline(VIDEO, random.Random(1)).answer == (
        "red circle comes, red circle moves right, sign stop, bell with red circle, hiss, blue square comes, "
        "drum with blue square, white cross comes, red circle flashes, blue square leaves, hiss"
    )
    assert timeline(CAUSE, random.Random(1)).answer == (
        "blue square comes, red circle comes, hum, bell, circle turns green, blue square leaves"
    )
    assert "red circle hits blue square, circle turns green" in timeline(BUMP, random.Random(1)).answer
    assert timeline(IMAGE, random.Random(1)).answer == "red circle, blue square, sign 42"


def test_a_detailed_timeline_adds_seconds_sizes_and_places():
    assert timeline(VIDEO, random.Random(1), is_detailed=True).answer.startswith(
        "at 0 big red circle comes left, at 0 red circle moves right, at 0 sign stop, at 2 bell with red circle"
    )
    assert timeline(IMAGE, random.Random(1), is_detailed=True).answer == (
        "big red circle left, small blue square right, sign 42"
    )


def test_an_unclear_moment_is_not_asked_about():
    near = Scene(
        6,
        "video",
        10.0,
        things=(thing("red circle", 3.0), thing("blue square", 3.4), thing("white cross", 6.0, 9.0)),
        sounds=(sound("bell", 3.2), sound("hiss", 7.0)),
    )
    for family in ("after.next_event_by_sound", "order.things", "video_qa.first"):
        assert not any("bell" in text or family != "after.next_event_by_sound" for text in answers(near, family))
    for text in answers(near, "order.is_before"):
        assert "bell" not in text or "white cross" in text


@cache
def drawn() -> tuple[tuple[Scene, Question], ...]:
    """Questions about several hundred scenes of each kind."""
    rng = random.Random(7)
    pairs = []
    for kind in get_args(Kind):
        for seed in range(1500 if kind in ("video", "cause", "match") else 400):
            scene = make(seed, kind=kind)
            pairs += [(scene, question) for question in ask(scene, rng, 8)]
    return tuple(pairs)


def by_family() -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = defaultdict(list)
    for _, question in drawn():
        found[question.family].append(question)
    return found


def test_every_family_and_every_task_is_asked():
    assert set(by_family()) == set(FAMILIES)
    assert {family.task for family in FAMILIES.values()} == set(TASKS)


def test_every_answer_is_among_what_a_guesser_would_choose_from():
    for _, question in drawn():
        assert question.answer in question.unskilled, question
        assert len(set(question.unskilled)) == len(question.unskilled)


def test_temporal_questions_always_leave_a_guesser_a_choice():
    for _, question in drawn():
        if question.task in ("after", "while", "cause", "order", "when", "count", "avm", "avssd", "avsd"):
            assert len(question.unskilled) > 1, question


def test_yes_and_no_are_balanced():
    for family, questions in by_family().items():
        replies = [question.answer for question in questions if set(question.unskilled) == {"yes", "no"}]
        if len(replies) > 60:
            assert 0.4 < replies.count("yes") / len(replies) < 0.6, (family, Counter(replies))


def test_no_answer_dominates_an_open_family():
    for family, questions in by_family().items():
        replies = Counter(question.answer for question in questions)
        if set(replies) <= {"yes", "no", "big", "small"}:
            continue
        answer, times = replies.most_common(1)[0]
        assert times / len(questions) < (0.6 if family.startswith("count") else 0.48), (family, answer)
        assert replies["none"] / len(questions) < 0.27, family


def test_the_time_of_a_thing_does_not_tell_whether_a_sound_came_before_it():
    replies = defaultdict(list)
    for scene, question in drawn():
        if question.family == "order.is_before":
            name = next(thing.name for thing in scene.things if thing.name in question.text)
            start_s = next(thing.visible.start_s for thing in scene.things if thing.name == name)
            replies[start_s > scene.seconds / 2].append(question.answer == "yes")
    for is_late, found in replies.items():
        assert len(found) > 60
        assert 0.33 < sum(found) / len(found) < 0.67, is_late


def test_an_independent_reading_of_the_scene_gives_the_same_answers():
    checked = Counter()
    for scene, question in drawn():
        kinds = [(sound.span.start_s, sound.kind) for sound in sorted(scene.sounds, key=lambda s: s.span.start_s)]
        named = [thing for thing in scene.things if thing.name in question.text]
        said = [kind for kind in dict.fromkeys(kind for _, kind in kinds) if re.search(rf"\b{kind}\b", question.text)]
        expected = None
        if question.family == "after.next_sound":
            index = [kind for _, kind in kinds].index(said[0])
            assert [kind for _, kind in kinds].count(said[0]) == 1
            expected = kinds[index + 1][1]
        elif question.family == "avssd.source":
            (heard,) = [sound for sound in scene.sounds if sound.kind == said[0]]
            expected = "none" if heard.source is None else scene.things[heard.source].name
        elif question.family == "count.sound":
            expected = str([kind for _, kind in kinds].count(said[0]))
        elif question.family == "order.is_before":
            (time_s,) = [time_s for time_s, kind in kinds if kind == said[0]]
            expected = "yes" if time_s < named[0].visible.start_s else "no"
        elif question.family == "while.visible":
            (heard,) = [sound for sound in scene.sounds if sound.kind == said[0]]
            (seen,) = [thing for thing in scene.things if thing.visible.overlaps(heard.span)]
            expected = seen.shape
        elif question.family == "when.appears":
            assert abs(float(question.answer) - named[0].visible.start_s) <= 0.5
        elif question.family == "after.next_sound_by_event" and "appears" in question.text:
            expected = min(pair for pair in kinds if pair[0] > named[0].visible.start_s)[1]
        if expected:
            checked[question.family] += 1
            assert question.answer == expected, (scene, question)
    assert len(checked) == 6


def test_the_same_seed_asks_the_same_questions_and_none_twice():
    for seed in range(100):
        scene = make(seed, kind="video")
        first, second = (ask(scene, random.Random(seed), 8) for _ in range(2))
        assert first == second
        assert max(Counter(question.family for question in first).values()) <= 2
        assert len(set(first)) == len(first)


def test_questions_are_worded_in_many_ways_and_some_only_in_tests():
    assert set(WORDINGS) == {*FAMILIES, "timeline.events", "timeline.details"}
    for wording in WORDINGS.values():
        assert len(set(wording.train)) >= 10
        assert len(set(wording.test)) == 2
    texts = {ask_family(IMAGE, "vqa.number", random.Random(seed), wording="test").text for seed in range(40)}
    assert texts == set(WORDINGS["vqa.number"].test)


def test_no_training_wording_is_one_of_the_tests_but_for_its_capitals_stops_spelling_or_opening():
    openings = ("", *itertools.chain(*OPENINGS.values()))
    tests = {normalise(text) for wording in WORDINGS.values() for text in wording.test}
    trains = {normalise(start + text) for wording in WORDINGS.values() for text in wording.train for start in openings}
    assert not trains & tests


def test_all_wordings_of_a_family_ask_for_the_same_slots():
    for family, wording in WORDINGS.items():
        slots = {frozenset(re.findall(r"{(\w+)}", text)) for text in (*wording.train, *wording.test)}
        assert len(slots) == 1, family


def test_people_type_in_lower_case_without_stops_and_politely_each_as_often_as_said():
    text = "Tell me the Order of the sounds."
    rng = random.Random(1)
    found = [typed(text, rng) for _ in range(20000)]
    assert sum(text.islower() for text in found) / len(found) == pytest.approx(0.15, abs=0.01)
    assert sum(text[-1] != "." for text in found) / len(found) == pytest.approx(0.1, abs=0.01)
    assert sum(text.lower().startswith("please") for text in found) / len(found) == pytest.approx(0.05, abs=0.01)
    assert {normalise(text) for text in found} == {normalise(start + text) for start in ("", *OPENINGS["."])}
    assert all(typed("Hello!", rng).lower().startswith("hello") for _ in range(200))


def test_only_training_is_typed_as_people_do():
    scenes = [make(seed, kind="video") for seed in range(60)]
    worded = {
        name: {q.text for scene in scenes for q in ask(scene, random.Random(1), 8, wording=name)}
        for name in ("train", "test")
    }
    assert any(text.islower() for text in worded["train"])
    assert not any(text.islower() or text[-1] not in "?." for text in worded["test"])


def test_questions_outside_the_world_are_many_and_always_refused():
    rng = random.Random(1)
    questions = [outside(rng) for _ in range(2000)]
    assert len({question.text for question in questions}) > 500
    assert {question.answer for question in questions} == set(REFUSALS)
    assert not any("{" in question.text for question in questions)


def test_every_kind_of_scene_has_a_timeline():
    for kind in get_args(Kind):
        for seed in range(30):
            assert timeline(make(seed, kind=kind), random.Random(seed)).answer


@pytest.mark.parametrize(
    ("task", "right", "said", "is_right"),
    [
        ("cause", "blue square", "The blue square.", True),
        ("cause", "blue square", "blue circle", False),
        ("count", "2", "Two", True),
        ("when", "4", "5 seconds", True),
        ("when", "4", "at three", True),
        ("when", "4", "6", False),
        ("when", "4", "soon", False),
        ("order", "bell, hiss", "bell hiss", True),
        ("order", "bell, hiss", "hiss, bell", False),
    ],
)
def test_an_answer_is_right_whatever_its_capitals_points_and_articles(task: str, right: str, said: str, is_right: bool):
    question = Question(task, f"{task}.any", "?", right, (right,), frozenset())
    assert score(question, said) is is_right
