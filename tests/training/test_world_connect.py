"""Teaching with dense labels: what a step's target says, what a connector is asked, and a loop that goes on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from favor import presets
from favor.sync import AUDIO_FRAMES_PER_STEP
from training.world import scenes, sound, vocabulary
from training.world.connect import step_heads
from training.world.dense import SetTarget
from training.world.scene import Scene, Sound, Span, Thing, Utterance, Waypoint
from training.world.shards import ClipFeatures, media_inputs
from training.world.speech import VOICES
from training.world.steps import WORDS_PER_STEP, StepTarget, Told, shares, target_of
from training.world.teaching import Lesson, teach

CIRCLE = Thing("red", "circle", "big", (Waypoint(0.0, 0.5, 0.5), Waypoint(9.0, 0.5, 0.5)), flashes=(Span(1.6, 2.4),))
BELL = Sound("bell", Span(1.6, 2.4), pitch=0.5, level_db=-18.0, source=0)


def names(classes: torch.Tensor) -> list[str]:
    words = [*vocabulary.SPOKEN_WORDS, ""]
    return [words[number] for number in classes.flatten().tolist() if words[number]]


def test_a_step_tells_what_is_seen_and_heard_in_it():
    target = target_of(Scene(1, "video", 3.0, things=(CIRCLE,), sounds=(BELL,)), window_steps=10)
    assert target.is_seen.tolist() == target.is_heard.tolist() == [True] * 6 + [False] * 4
    red, bell = list(vocabulary.COLOURS).index("red"), vocabulary.SOUNDS.index("bell")
    seen = SetTarget.of(target.labels)
    assert seen.flashing[:, red].tolist() == [False, False, False, True, True, False]  # 1.75 and 2.25 s
    assert seen.present[:, red].all()
    assert target.sounds[:6, bell].tolist() == [0, 0, 0, 1, 1, 0]
    assert target.begins[:6, bell].tolist() == [0, 0, 0, 1, 0, 0]


def test_words_stand_in_the_steps_in_which_they_begin():
    scene = Scene(2, "speech", 4.0, utterances=(Utterance("find the red ball", 0.3, VOICES[0]),))
    target = target_of(scene, window_steps=10)
    assert names(target.words) == ["find", "the", "red", "ball"]
    heard = sound.label(scene, 8 * AUDIO_FRAMES_PER_STEP).words
    first = int((heard == vocabulary.SPOKEN_WORDS.index("ball")).argmax()) // AUDIO_FRAMES_PER_STEP
    assert "ball" in names(target.words[first])
    assert not target.is_seen.any()


def test_a_silent_image_is_one_step():
    scene = scenes.make(5, kind="image")
    target = target_of(scene, window_steps=10)
    assert (int(target.is_seen.sum()), int(target.is_heard.sum())) == (1, 0)
    assert names(target.words) == []


@pytest.fixture(scope="module")
def model():
    return presets.untrained("favor-mini")[0]


def test_every_step_of_every_window_is_asked_about(model):
    config = model.config.connector_config
    made = [scenes.make(seed, kind=kind) for seed, kind in ((1, "video"), (2, "image"), (3, "sounds"))]
    targets = [target_of(scene, window_steps=config.window_steps) for scene in made]
    clips = []
    for scene, target in zip(made, targets, strict=True):
        steps = int((target.is_seen | target.is_heard).sum())
        visual = torch.randn(steps if scene.has_picture else 0, config.tokens_per_step, config.visual_width)
        audio = torch.randn(steps if scene.has_sound else 0, AUDIO_FRAMES_PER_STEP, config.audio_widths[0])
        clips.append(ClipFeatures(visual, audio, scene.is_still, scene.seed))
    heads, target = step_heads(model), StepTarget.joined(targets)
    media = media_inputs(clips, chunk_steps=model.config.audio_chunk_steps)
    assert len(heads(media).seeing) == len(target.is_seen)
    loss = heads.loss(media, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert model.connector.query_tokens.grad is not None
    assert 0.0 <= heads.scores(media, target)["objects"] <= 1.0
    assert target.words.shape[1] == WORDS_PER_STEP


def test_the_truth_is_right_everywhere_and_binding_asks_for_both_senses_at_once():
    target = target_of(Scene(1, "video", 3.0, things=(CIRCLE,), sounds=(BELL,)), window_steps=10)
    true = Told.truth(target)
    found = shares(true, target)
    assert {name for name, share in found.items() if share != 1.0} == {"sign", "words", "leaves_found", "turns_found"}
    assert found["binding"] == 1.0
    for blind in ({"flashing": torch.zeros_like(true.flashing)}, {"begins": torch.zeros_like(true.begins)}):
        missed = shares(true._replace(**blind), target)
        assert missed["binding"] == 0.0
        assert missed["zones"] == missed["sounds"] == 1.0


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return ((self.slope - 3.0) * x).square().mean()

    def scores(self, x: torch.Tensor) -> dict[str, float]:
        return {"off": float((self.slope.detach() - 3.0).abs())}


def test_a_lesson_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    def lesson(folder: str, steps: int) -> Lesson:
        return Lesson(
            output=str(tmp_path / folder), steps=20, batch=4, learning_rate=0.5, warmup_steps=2, save_every=steps
        )

    def batch_of(split: str, step: int, number: int) -> tuple[torch.Tensor]:
        if split == "train" and step == stop_at:
            raise KeyboardInterrupt
        return (torch.full((number,), 1.0 + step),)

    stop_at = -1
    whole = teach(lesson("whole", 20), Line(), batch_of)
    stop_at = 10
    with pytest.raises(KeyboardInterrupt):
        teach(lesson("stopped", 5), Line(), batch_of)
    stop_at = -1
    assert teach(lesson("stopped", 5), Line(), batch_of) == whole
    assert whole["off"] < 1.0
