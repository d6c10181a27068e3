"""The generated world in official formats: read by the readers, scored by the scorers, and what one stream reaches."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageFilter

from eval import scoring
from favor.downstream import ave as ave_files
from favor.downstream import avsbench, llp, music_avqa
from favor.media import SAMPLE_RATE_HZ, MediaOptions, load_video
from training.__main__ import main
from training.world.files import FPS
from training.world.official import ave, avqa, avs, avvp
from training.world.official.cast import VOICES
from training.world.official.command import TASKS
from training.world.picture import seen_things
from training.world.scene import Scene
from training.world.splits import is_held_out
from training.world.vocabulary import COLOURS

NUM_PLANNED = 200
SIZE = 96
SEED = 3
TASK_NAMES = tuple(TASKS)

_planned: dict[str, list] = {}


def plan(task: str) -> list:
    """Enough clips for shares to mean something; none is drawn."""
    if task not in _planned:
        _planned[task] = TASKS[task].plan(NUM_PLANNED, SEED)
    return _planned[task]


def clips_to_test(task: str) -> list:
    return [clip for clip in plan(task) if clip.split == "test"]


@pytest.fixture(scope="module", params=[name for name in TASK_NAMES if name != "ave"])
def written(request, tmp_path_factory) -> tuple[str, Path]:
    """A task and a folder of four of its clips."""
    folder = tmp_path_factory.mktemp(request.param)
    assert main(command(request.param, folder)) == 0
    return request.param, folder


def command(task: str, folder: Path, *, clips: int = 4, seed: int = SEED) -> list[str]:
    return ["downstream-data", task, str(folder), "--clips", str(clips), "--seed", str(seed), "--size", str(SIZE)]


def save(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "predictions.npz", **arrays)
    return folder / "predictions.npz"


# --- all tasks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASK_NAMES)
def test_the_same_seed_plans_the_same_clips_and_another_one_others(task):
    again = TASKS[task].plan(40, SEED)
    assert again == TASKS[task].plan(40, SEED)
    assert [clip.scene for clip in again] != [clip.scene for clip in TASKS[task].plan(40, SEED + 1)]


@pytest.mark.parametrize("task", TASK_NAMES)
def test_splits_are_of_the_sizes_told_and_share_no_scene(task):
    clips = plan(task)
    assert Counter(clip.split for clip in clips) == {"train": 140, "val": 20, "test": 40}
    assert len({clip.scene.seed for clip in clips}) == len({clip.name for clip in clips}) == NUM_PLANNED


@pytest.mark.parametrize("task", TASK_NAMES)
def test_only_test_clips_hold_combinations_that_are_held_out(task):
    for clip in plan(task):
        sources = [sound for sound in clip.scene.sounds if sound.source is not None and _is_asked_about(task, sound)]
        novel = {
            is_held_out(thing.colour, thing.shape, sound.kind)
            for sound in sources
            for thing in (clip.scene.things[sound.source],)
        }
        assert novel <= {clip.slot.is_novel}
    assert [clip.slot.is_novel for clip in clips_to_test(task)] == [False, True] * 20


def _is_asked_about(task: str, sound) -> bool:
    return task != "ave" or sound.kind != ave.NO_CLASS_SOUND


def test_the_files_are_written_once_and_stay_the_same(written, tmp_path):
    task, folder = written
    assert main(command(task, tmp_path)) == 0
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    for file in files:
        if file.suffix == ".mp4":
            assert _difference(folder / file, tmp_path / file) < 1.0
        else:
            assert (folder / file).read_bytes() == (tmp_path / file).read_bytes()


def _difference(first: Path, second: Path) -> float:
    """In levels of 255: the H.264 encoder, on several threads, does not write the same bytes every time."""
    pictures = [load_video(path, options=MediaOptions(frame_size=SIZE)).frames.astype(int) for path in (first, second)]
    return float(np.abs(pictures[0] - pictures[1]).mean())


def test_a_run_that_was_cut_off_writes_what_is_missing_and_nothing_else(written, tmp_path, capsys):
    task, folder = written
    clips = sorted(folder.rglob("*.mp4"))
    assert len(clips) == 4
    lost, kept_ns = clips[1].rename(tmp_path / "lost.mp4"), clips[0].stat().st_mtime_ns
    assert main(command(task, folder)) == 0
    assert "wrote 1 clips" in capsys.readouterr().out
    assert _difference(clips[1], lost) < 1.0
    assert clips[0].stat().st_mtime_ns == kept_ns


def test_a_folder_of_other_clips_is_refused(written, capsys):
    task, folder = written
    assert main(command(task, folder, seed=SEED + 1)) == 2
    assert "Name another folder" in capsys.readouterr().err


def test_too_few_clips_are_refused(tmp_path, capsys):
    assert main(command("ave", tmp_path, clips=39)) == 2
    assert "--clips 39 for ave. Allowed: 40 to 999999" in capsys.readouterr().err


def test_clips_are_read_whole_and_sound_when_the_scene_does(written):
    task, folder = written
    clip = TASKS[task].plan(4, SEED)[0]
    media = load_video(folder / TASKS[task].media_path(clip), options=MediaOptions(frame_size=64))
    assert media.receipt.duration_s == clip.scene.seconds == (5 if task.startswith("avs") else 10)
    assert media.receipt.skipped == ()
    loud = [
        _loudness(media.waveform, sound.span.start_s + 0.05, sound.span.end_s - 0.05) for sound in clip.scene.sounds
    ]
    quiet = [_loudness(media.waveform, second - 0.05, second + 0.05) for second in range(1, int(clip.scene.seconds))]
    assert min(loud) > 2 * max(quiet)


def _loudness(waveform: np.ndarray, start_s: float, end_s: float) -> float:
    return float(np.abs(waveform[int(start_s * SAMPLE_RATE_HZ) : int(end_s * SAMPLE_RATE_HZ)]).mean())


# --- AVE --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ave_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ave")
    ave.write_annotations(plan("ave"), folder)
    return folder


def _ave_accuracy(folder: Path, tmp_path: Path, answer: Callable[[ave.AvePlan], list[str | None]]) -> dict[str, float]:
    """Of an answer: the category of every second, or None for background."""
    names = ave_files.classes_of(ave_files.read_annotations(folder / "Annotations.txt"))
    labels = [[names.index(each) if each else 28 for each in answer(clip)] for clip in clips_to_test("ave")]
    predictions = save(
        tmp_path, scores=np.eye(29)[labels], clips=np.array([clip.name for clip in clips_to_test("ave")])
    )
    return scoring.score_ave(folder / "Annotations.txt", predictions, split=folder / "test_order.txt")


def _heard(scene: Scene, second: int) -> str | None:
    return next((sound.kind for sound in scene.sounds if sound.span.contains(second + 0.5)), None)


def _ringing(scene: Scene, second: int) -> list[int]:
    return [number for number, thing in enumerate(scene.things) if thing.is_flashing(second + 0.5)]


def _ave_both(clip: ave.AvePlan) -> list[str | None]:
    """What rings, with what is heard then."""
    answers: list[str | None] = []
    for second in range(10):
        kind, things = _heard(clip.scene, second), _ringing(clip.scene, second)
        is_event = things and kind not in (None, ave.NO_CLASS_SOUND)
        answers.append(f"{kind} {clip.scene.things[things[0]].shape}" if is_event else None)
    return answers


def _ave_sound_only(clip: ave.AvePlan) -> list[str | None]:
    kinds = [_heard(clip.scene, second) for second in range(10)]
    return [f"{kind} circle" if kind not in (None, ave.NO_CLASS_SOUND) else None for kind in kinds]


def _ave_picture_only(clip: ave.AvePlan) -> list[str | None]:
    things = [_ringing(clip.scene, second) for second in range(10)]
    return [f"bell {clip.scene.things[each[0]].shape}" if each else None for each in things]


def _ave_told_class_sound(clip: ave.AvePlan) -> list[str | None]:
    kind = clip.category.split()[0]
    return [clip.category if _heard(clip.scene, second) == kind else None for second in range(10)]


def _ave_told_class_picture(clip: ave.AvePlan) -> list[str | None]:
    shape = clip.category.split()[1]
    shapes = [{clip.scene.things[number].shape for number in _ringing(clip.scene, second)} for second in range(10)]
    return [clip.category if shape in each else None for each in shapes]


def test_ave_is_read_with_28_classes_and_rows_of_splits(ave_folder):
    clips = ave_files.read_annotations(ave_folder / "Annotations.txt")
    names = ave_files.classes_of(clips)
    assert [(clip.video_id, clip.category, clip.start_s, clip.end_s) for clip in clips] == [
        (clip.name, clip.category, clip.event.start, clip.event.stop) for clip in plan("ave")
    ]
    for split in ("train", "val", "test"):
        rows = ave_files.read_split(ave_folder / f"{split}_order.txt", num_clips=len(clips))
        alone = ave_files.read_annotations(ave_folder / f"{split}Set.txt", classes=names)
        assert [clips[row].video_id for row in rows] == [clip.video_id for clip in alone]
        assert [clip.name for clip in plan("ave") if clip.split == split] == [clip.video_id for clip in alone]


def test_forty_clips_are_enough_for_ave(tmp_path):
    ave.write_annotations(ave.plan(40, 0), tmp_path)
    assert len(ave_files.classes_of(ave_files.read_annotations(tmp_path / "Annotations.txt"))) == 28


def test_ave_needs_both_streams(ave_folder, tmp_path):
    scores = {
        answer.__name__: _ave_accuracy(ave_folder, tmp_path, answer)["segment_accuracy"]
        for answer in (_ave_both, _ave_sound_only, _ave_picture_only, _ave_told_class_sound, _ave_told_class_picture)
    }
    nothing = _ave_accuracy(ave_folder, tmp_path, lambda clip: [None] * 10)
    assert scores["_ave_both"] == 1.0
    assert nothing["segment_accuracy"] == nothing["oracle_all_background"] == pytest.approx(0.7, abs=0.03)
    assert scores["_ave_sound_only"] == pytest.approx(0.480, abs=0.02)
    assert scores["_ave_picture_only"] == pytest.approx(0.460, abs=0.02)
    assert scores["_ave_told_class_sound"] == pytest.approx(0.818, abs=0.02)
    assert scores["_ave_told_class_picture"] == pytest.approx(0.848, abs=0.02)


# --- AVVP -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def avvp_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("avvp")
    avvp.write_annotations(plan("avvp"), folder)
    return folder


def _voices_ringing(scene: Scene) -> np.ndarray:
    """(10, 25) from the picture."""
    marks = np.zeros((10, 25))
    for second in range(10):
        for number in _ringing(scene, second):
            thing = scene.things[number]
            marks[second, _llp_class(VOICES[thing.shape, thing.size])] = 1
    return marks


def _voices_heard(scene: Scene) -> np.ndarray:
    """(10, 25) from the sound."""
    marks = np.zeros((10, 25))
    for sound in scene.sounds:
        marks[int(sound.span.start_s), _llp_class(sound.kind)] = 1
    return marks


def _silence(scene: Scene) -> np.ndarray:
    return np.zeros((10, 25))


def _llp_class(kind: str) -> int:
    return llp.CLASSES.index(avvp.CLASS_NAMES[kind])


def _avvp_scores(folder: Path, tmp_path: Path, *, audio, visual) -> dict[str, float]:
    """Of functions of a scene."""
    scenes = [clip.scene for clip in clips_to_test("avvp")]
    predictions = save(tmp_path, audio=np.stack([*map(audio, scenes)]), visual=np.stack([*map(visual, scenes)]))
    dense = {"audio": folder / "AVVP_eval_audio.csv", "visual": folder / "AVVP_eval_visual.csv"}
    return scoring.score_avvp(folder / "AVVP_test_pd.csv", predictions, **dense)


def test_avvp_is_read_and_weak_labels_are_all_that_is_heard_or_seen(avvp_folder):
    for split, name in avvp.WEAK_FILES.items():
        clips = llp.read_clips(avvp_folder / name)
        planned = [clip for clip in plan("avvp") if clip.split == split]
        assert [clip.filename for clip in clips] == [clip.filename for clip in planned]
        assert len({clip.feature_name for clip in clips}) == len(clips)
        expected = [(_voices_heard(clip.scene) + _voices_ringing(clip.scene)).any(axis=0) for clip in planned]
        np.testing.assert_array_equal(llp.clip_labels(clips), expected)


def test_avvp_tells_nothing_dense_about_training_clips(avvp_folder):
    named = {event.filename for event in llp.read_events(avvp_folder / "AVVP_eval_visual.csv")}
    assert not named & {clip.filename for clip in plan("avvp") if clip.split == "train"}


def test_avvp_needs_both_streams(avvp_folder, tmp_path):
    both = _avvp_scores(avvp_folder, tmp_path, audio=_voices_heard, visual=_voices_ringing)
    assert set(both.values()) == {1.0}
    sound = _avvp_scores(avvp_folder, tmp_path, audio=_voices_heard, visual=_voices_heard)
    picture = _avvp_scores(avvp_folder, tmp_path, audio=_voices_ringing, visual=_voices_ringing)
    nothing = _avvp_scores(avvp_folder, tmp_path, audio=_silence, visual=_silence)
    assert _type_figures(sound) == pytest.approx([1.0, 0.314, 0.445, 0.587, 0.593], abs=0.02)
    assert _type_figures(picture) == pytest.approx([0.314, 1.0, 0.516, 0.610, 0.619], abs=0.02)
    assert _type_figures(nothing) == pytest.approx([0.0, 0.0, 0.075, 0.025, 0.025], abs=0.02)


def _type_figures(scores: dict[str, float]) -> list[float]:
    names = ("segment_audio", "segment_visual", "segment_audio_visual", "segment_type_av", "event_type_av")
    return [scores[name] for name in names]


# --- AVS --------------------------------------------------------------------------------------------------------------

MASK_SIZE = 48


def _masks_of(scene: Scene, choose: Callable[[Scene, int], list[int]]) -> np.ndarray:
    """(5, S, S) of the things chosen for each second."""
    seen = seen_things(scene, avs.FRAME_TIMES_S, MASK_SIZE)
    return np.stack([np.isin(frame, choose(scene, second)) for second, frame in enumerate(seen)])


def _avs_scores(subset: str, tmp_path: Path, choose: Callable[[Scene, int], list[int]]) -> list[float]:
    """mIoU and F-score."""
    scenes = [clip.scene for clip in clips_to_test(f"avs-{subset}")]
    np.savez(tmp_path / "truth.npz", masks=np.stack([avs.masks(scene, MASK_SIZE) for scene in scenes]))
    predictions = save(tmp_path, probabilities=np.stack([_masks_of(scene, choose) for scene in scenes]).astype(float))
    scores = scoring.score_avs(tmp_path / "truth.npz", predictions)
    return [scores["miou"], scores["f_score"]]


def _whose_voice_is_heard(scene: Scene, second: int) -> list[int]:
    heard = {sound.kind for sound in scene.sounds if sound.span.contains(second + 0.5)}
    things = [(number, scene.things[number]) for number in _ringing(scene, second)]
    return [number for number, thing in things if VOICES[thing.shape, thing.size] in heard]


def _first_ringing(scene: Scene, second: int) -> list[int]:
    return _ringing(scene, second)[:1]


@pytest.mark.parametrize(
    "subset, of_all_ringing, of_one_ringing, of_nothing",
    [
        ("s4", (0.497, 0.552), (0.525, 0.525), (0.0, 0.047)),
        ("ms3", (0.602, 0.578), (0.487, 0.453), (0.190, 0.062)),
    ],
)
def test_avs_needs_both_streams(subset, of_all_ringing, of_one_ringing, of_nothing, tmp_path):
    assert _avs_scores(subset, tmp_path, _whose_voice_is_heard) == pytest.approx([1.0, 1.0], abs=1e-6)
    assert _avs_scores(subset, tmp_path, _ringing) == pytest.approx(of_all_ringing, abs=0.02)
    assert _avs_scores(subset, tmp_path, _first_ringing) == pytest.approx(of_one_ringing, abs=0.02)
    assert _avs_scores(subset, tmp_path, lambda scene, second: []) == pytest.approx(of_nothing, abs=0.02)


def test_avs_files_are_where_the_reader_looks_and_masks_are_of_what_sounds(written):
    task, folder = written
    if not task.startswith("avs"):
        pytest.skip("of AVS alone")
    subset = task.removeprefix("avs-")
    read = avsbench.read_clips(folder / f"{subset}_meta_data.csv", subset=subset)
    planned = TASKS[task].plan(4, SEED)
    assert read == tuple(clip.official for clip in planned)
    for official, clip in zip(read, planned):
        home = folder / f"{subset}_data"
        masks = np.stack([np.asarray(Image.open(home / path)) for path in official.masks])
        assert official.num_masks == len(masks) == (1 if task == "avs-s4" and clip.split == "train" else 5)
        np.testing.assert_array_equal(masks, 255 * avs.masks(clip.scene, SIZE)[: len(masks)])
        assert (home / official.sound).exists()
        frames = np.stack([np.asarray(Image.open(home / path)).astype(int) for path in official.frames])
        decoded = _frames_at_seconds(folder / avs.media_path(clip))
        assert np.abs(frames - decoded).mean() < 10  # the file keeps little of the grain
        for number, mask in enumerate(masks):
            _check_place(clip.scene, decoded[number], mask > 0, avs.sounding(clip.scene, number + 0.5))


def _frames_at_seconds(path: Path) -> np.ndarray:
    """(5, S, S, 3) int, the file's frames in the middle of its seconds."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames[FPS // 2 :: FPS]).astype(int)


def _check_place(scene: Scene, frame: np.ndarray, mask: np.ndarray, sounding: list[int]) -> None:
    """A mask lies where the frame has the colours of what sounds, which nothing else has."""
    colours = [COLOURS[scene.things[number].colour] for number in sounding]
    is_coloured = np.zeros_like(mask)
    for colour in colours:
        is_coloured |= np.abs(frame - colour).max(axis=-1) < 70
    assert mask.any() == bool(sounding)
    assert (is_coloured & mask).sum() >= 0.7 * mask.sum()
    assert (is_coloured & ~_grown(mask)).sum() <= 0.25 * mask.sum()  # a ring's blurred edge may be like a thing


def _grown(mask: np.ndarray) -> np.ndarray:
    """By two pixels, over which a small picture's colours spread."""
    return np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(5))) > 0


# --- AVQA -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def avqa_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("avqa")
    avqa.write_annotations(plan("avqa"), folder)
    return folder


def _avqa_scores(
    folder: Path, tmp_path: Path, answer: Callable[[Scene, music_avqa.Question], str]
) -> dict[str, float | None]:
    """On the train file: it has the most questions."""
    scenes = {clip.name: clip.scene for clip in plan("avqa")}
    questions = music_avqa.read_questions(folder / "avqa-train.json")
    lines = [
        json.dumps({"question_id": question.question_id, "answer": answer(scenes[question.video_id], question)})
        for question in questions
    ]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines))
    return scoring.score_avqa(folder / "avqa-train.json", tmp_path / "answers.jsonl")


def _right_answer(scene: Scene, question: music_avqa.Question) -> str:
    """From what happens in the scene alone, worked out apart from the code that asks."""
    heard, sources = [sound.kind for sound in scene.sounds], [sound.source for sound in scene.sounds]
    made = [scene.things[source] for source in sources if source is not None]
    named = {thing.name: thing for thing in scene.things}
    match question.category, question.type:
        case "Audio", "Counting":
            return avqa.NUMBERS[len(set(heard))]
        case "Audio", "Comparative":
            return _yes(heard.count(question.words[2]) > heard.count(question.words[-1]))
        case "Visual", "Counting":
            return avqa.NUMBERS[sum(bool(thing.flashes) for thing in scene.things)]
        case "Visual", "Location":
            return _side(named[question.words[-1]])
        case "Audio-Visual", "Existential":
            return _yes(any(kind == question.words[-1] and s is not None for kind, s in zip(heard, sources)))
        case "Audio-Visual", "Counting":
            return avqa.NUMBERS[len({thing.name for thing in made})]
        case "Audio-Visual", "Location":
            kinds = [kind for kind, source in zip(heard, sources) if source is not None]
            return _side(made[kinds.index(question.words[-1])])
        case "Audio-Visual", "Comparative":
            return _yes(made.count(named[question.words[2]]) > made.count(named[question.words[-1]]))
        case _:
            return made[0].shape


def _rings_alone(scene: Scene, question: music_avqa.Question) -> str:
    """Takes every ring for a sound; a yes where rings say nothing."""
    if question.category != "Audio-Visual":
        return ""
    ringing = sorted((thing for thing in scene.things if thing.flashes), key=lambda thing: thing.flashes[0].start_s)
    named = {thing.name: thing for thing in scene.things}
    match question.type:
        case "Existential":
            return "yes"
        case "Counting":
            return avqa.NUMBERS[min(len(ringing), 2)]
        case "Location":
            return _side(ringing[0])
        case "Comparative":
            return _yes(len(named[question.words[2]].flashes) > len(named[question.words[-1]].flashes))
        case _:
            return ringing[0].shape


def _sounds_alone(scene: Scene, question: music_avqa.Question) -> str:
    """Takes every kind of sound for a thing's; guesses where it is and what it looks like."""
    guess = {"Existential": "yes", "Location": "left", "Comparative": "yes", "Temporal": "circle"}
    return guess.get(question.type, avqa.NUMBERS[min(len({sound.kind for sound in scene.sounds}), 2)])


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _side(thing) -> str:
    return "left" if thing.path[0].x < 0.5 else "right"


def test_avqa_is_read_and_all_nine_types_are_asked(avqa_folder):
    train, val, test = (
        music_avqa.read_questions(avqa_folder / f"avqa-{name}.json") for name in ("train", "val", "test")
    )
    assert len({question.question_id for question in (*train, *val, *test)}) == len(train) + len(val) + len(test)
    words = music_avqa.words_of(train)
    assert all(music_avqa.word_numbers(question, words).shape == (14,) for question in (*train, *val, *test))
    assert set(music_avqa.answers_of(train)) >= {question.answer for question in (*val, *test)}
    asked = {(question.category, question.type) for question in test}
    assert asked == {(category, kind) for category, kinds in music_avqa.TYPES.items() for kind in kinds}


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_answers_of_a_type_come_equally_often(split, avqa_folder):
    counts: dict[tuple[str, str], Counter[str]] = {}
    for question in music_avqa.read_questions(avqa_folder / f"avqa-{split}.json"):
        counts.setdefault((question.category, question.type), Counter())[question.answer] += 1
    for kind in avqa.QUESTION_TYPES:
        answers = {case.split(",")[0] for case in kind.cases}
        given = [counts[kind.category, kind.type][answer] for answer in answers]
        assert max(given) - min(given) <= 2 * len(kind.cases) // len(answers)


def test_avqa_needs_both_streams(avqa_folder, tmp_path):
    assert set(_avqa_scores(avqa_folder, tmp_path, _right_answer).values()) == {1.0}
    rings = _avqa_scores(avqa_folder, tmp_path, _rings_alone)
    sounds = _avqa_scores(avqa_folder, tmp_path, _sounds_alone)
    figures = zip((0.5, 1 / 3, 0.5, 0.5, 1 / 3), (0.5, 1 / 3, 0.5, 0.5, 1 / 4), music_avqa.TYPES["Audio-Visual"])
    for of_rings, of_sounds, name in figures:  # no better than a guess among what rings, and among all answers
        assert rings[f"Audio-Visual {name}"] == pytest.approx(of_rings, abs=0.07)
        assert sounds[f"Audio-Visual {name}"] == pytest.approx(of_sounds, abs=0.07)
    assert rings["Audio-Visual"] == pytest.approx(0.444, abs=0.02)
    assert sounds["Audio-Visual"] == pytest.approx(0.419, abs=0.02)
