"""The stream of training batches: exact order, exact resume, shares, padding, bad samples, workers."""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from favor.errors import ConfigurationError
from favor.media import write_clip
from favor.messages import VideoPart
from training import recipe
from training.data import BatchStream, Source, TooManyBadSamplesError, validation_batches
from training.data.mixing import MATCHING_QUESTIONS, Mixer
from training.data.sampler import Pick, Sampler
from training.data.shuffling import shuffled
from training.data.workers import Workers

TONE = 0.3 * np.sin(np.arange(16_000) / 10).astype(np.float32)


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """Clips of half a second to two seconds, with sound and without."""
    folder = tmp_path_factory.mktemp("media")
    for name, num_frames in (("short", 5), ("long", 20)):
        frames = np.full((num_frames, 32, 32, 3), 90, dtype=np.uint8)
        sound = np.tile(TONE, 2)[: num_frames * 1600]
        write_clip(folder / f"{name}.mp4", frames=frames, fps=10, waveform=sound)
        write_clip(folder / f"{name}-silent.mp4", frames=frames, fps=10)
    write_clip(folder / "sound.wav", waveform=TONE, container="wav")
    return folder


def line(question="What?", answer="Rain.", **other):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **other}


def written(folder: Path, lines, name="train.jsonl") -> str:
    path = folder / name
    path.write_text("".join((text if isinstance(text, str) else json.dumps(text)) + "\n" for text in lines), "utf-8")
    return str(path)


def texts(number):
    return [line(f"Q {count}", id=f"q{count}") for count in range(number)]


def data_of(*paths, media=None, **options) -> recipe.Data:
    root = None if media is None else str(media)
    sources = [path if isinstance(path, dict) else {"path": path, "media_root": root} for path in paths]
    return recipe.Data.model_validate({"train": sources, "val": sources, "workers": 0, **options})


def stream_of(data, processor, *, rank=0, world_size=1, micro_batch=2, accumulation=2, seed=5) -> BatchStream:
    return BatchStream(
        data,
        processor,
        seed=seed,
        rank=rank,
        world_size=world_size,
        micro_batch=micro_batch,
        accumulation=accumulation,
    )


def keys_of(stream, steps) -> list[list[tuple[str, ...]]]:
    keys = [[batch.keys for batch in stream.next_step()] for _ in range(steps)]
    stream.close()
    return keys


def assert_equal_batches(ours, theirs):
    assert ours.keys == theirs.keys
    assert (ours.num_target_tokens, ours.av_seconds) == (theirs.num_target_tokens, theirs.av_seconds)
    assert ours.dropped == theirs.dropped
    assert (ours.inputs is None) == (theirs.inputs is None)
    if ours.inputs is not None:
        assert ours.inputs.keys() == theirs.inputs.keys()
        assert all(torch.equal(ours.inputs[name], theirs.inputs[name]) for name in ours.inputs)
        assert ours.inputs.receipts == theirs.inputs.receipts


# --- orders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 1000])
def test_a_shuffled_order_holds_every_place_once_and_depends_on_its_key(size):
    orders = [shuffled(np.arange(size), size, key=key).tolist() for key in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(size))
    assert size < 17 or orders[0] != orders[2]


def test_the_shuffled_order_of_a_seed_stays_what_it_is():
    assert shuffled(np.arange(10), 10, key=7).tolist() == [0, 6, 4, 3, 7, 1, 5, 9, 8, 2]


def test_an_epoch_of_equal_weights_and_sizes_uses_every_sample_once():
    sampler = Sampler([12, 12], [1, 1], seed=0, samples_per_step=4)
    assert sampler.steps_per_epoch == 6
    for epoch in range(3):
        picks = [pick for position in range(0, 24, 4) for pick in sampler.step(epoch, position)]
        assert sorted((pick.source, pick.record) for pick in picks) == [(s, r) for s in (0, 1) for r in range(12)]


def test_shares_follow_the_weights_and_no_sample_comes_a_third_time_before_all_came_twice():
    sampler = Sampler([10, 30], [3, 1], seed=0, samples_per_step=4)
    assert sampler.samples_per_epoch == 120
    seen: Counter[tuple[int, int]] = Counter()
    for epoch in range(3):
        for position in range(0, 120, 4):
            seen.update((pick.source, pick.record) for pick in sampler.step(epoch, position))
    assert sum(number for (source, _), number in seen.items() if source == 0) == 270
    assert {number for (source, _), number in seen.items() if source == 0} == {27}
    assert {number for (source, _), number in seen.items() if source == 1} == {3}


def test_uneven_epochs_are_filled_to_whole_steps_and_stay_fair():
    sampler = Sampler([5], [1], seed=3, samples_per_step=4)
    assert sampler.steps_per_epoch == 2
    steps = sampler.steps(0, 0)
    seen = Counter(pick.record for _ in range(10) for pick in next(steps))
    assert set(seen.values()) == {8}


def test_a_step_is_found_without_the_steps_before_it():
    through, there = (
        Sampler([100], [1], seed=1, samples_per_step=4, length_of=lambda pick: pick.record % 7) for _ in "ab"
    )
    steps = through.steps(0, 0)
    walked = [next(steps) for _ in range(60)]
    assert there.step(2, 24) == walked[2 * 25 + 6]


# --- the stream -----------------------------------------------------------------------------------------------------


def test_batches_are_the_same_for_any_number_of_workers(tiny, media, tmp_path):
    lines = [line(f"<video>Q {n}", videos=[("short.mp4", "long.mp4", "short-silent.mp4")[n % 3]]) for n in range(7)]
    path = written(tmp_path, lines)
    runs = []
    for workers in (0, 1, 2):
        data = data_of(path, media=media, workers=workers, max_bad_share=1)
        stream = stream_of(data, tiny.processor)
        runs.append([batch for _ in range(4) for batch in stream.next_step()])
        stream.close()
    assert any(batch.dropped for batch in runs[0])
    for ours, theirs, others in zip(*runs, strict=True):
        assert_equal_batches(ours, theirs)
        assert_equal_batches(ours, others)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_continues_exactly_where_its_state_was_taken(tiny, media, tmp_path, workers):
    lines = [line(f"<video>Q {n}", videos=[("short.mp4", "long-silent.mp4")[n % 4 == 3]]) for n in range(9)]
    path = written(tmp_path, lines)
    data = data_of(path, media=media, max_bad_share=1, mixing={"matching_questions": 0.5})
    whole = stream_of(data, tiny.processor)
    for _ in range(4):
        whole.next_step()
    state = json.loads(json.dumps(whole.state()))
    resumed = stream_of(data.model_copy(update={"workers": workers}), tiny.processor)
    resumed.next_step()
    resumed.load_state(state)
    for _ in range(3):
        for ours, theirs in zip(resumed.next_step(), whole.next_step(), strict=True):
            assert_equal_batches(ours, theirs)
    assert resumed.state() == whole.state()
    resumed.close()
    whole.close()


def test_one_rank_with_accumulation_sees_what_two_ranks_see(tiny, tmp_path):
    path = written(tmp_path, texts(13))
    for group_by_length in (False, True):
        data = data_of(path, group_by_length=group_by_length)
        alone = keys_of(stream_of(data, tiny.processor, micro_batch=2, accumulation=4), 5)
        ranks = [
            keys_of(stream_of(data, tiny.processor, rank=rank, world_size=2, micro_batch=2, accumulation=2), 5)
            for rank in (0, 1)
        ]
        for one, first, second in zip(alone, *ranks, strict=True):
            assert sorted(one) == sorted(first + second)


def test_a_state_of_other_data_or_another_seed_is_refused(tiny, tmp_path):
    stream = stream_of(data_of(written(tmp_path, texts(5))), tiny.processor)
    state = stream.state()
    other_path = written(tmp_path, texts(6), "other.jsonl")
    others = {
        "other data": stream_of(data_of(other_path), tiny.processor),
        "another seed": stream_of(data_of(written(tmp_path, texts(5))), tiny.processor, seed=6),
        "steps of another size": stream_of(data_of(written(tmp_path, texts(5))), tiny.processor, micro_batch=3),
    }
    for what, other in others.items():
        with pytest.raises(ConfigurationError, match=f"the saved position is of {what}"):
            other.load_state(state)
        other.close()
    stream.load_state(state)
    stream.close()


def test_a_moved_manifest_is_still_the_same_data(tiny, tmp_path):
    (tmp_path / "moved").mkdir()
    states = [
        stream_of(data_of(written(folder, texts(5))), tiny.processor).state()
        for folder in (tmp_path, tmp_path / "moved")
    ]
    assert states[0] == states[1]


def test_length_grouping_saves_padding_and_still_uses_every_sample(tiny, tmp_path):
    lines = [line("Q" * (5 + (number * 37) % 200), id=f"q{number}") for number in range(96)]
    path = written(tmp_path, lines)
    padding, used = {}, {}
    for grouped in (False, True):
        stream = stream_of(data_of(path, group_by_length=grouped), tiny.processor, micro_batch=4, accumulation=1)
        batches = [batch for _ in range(24) for batch in stream.next_step()]
        stream.close()
        masks = [batch.inputs["attention_mask"] for batch in batches]
        padding[grouped] = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
        used[grouped] = sorted(key for batch in batches for key in batch.keys)
    assert used[True] == used[False] == sorted(f"q{number}" for number in range(96))
    assert padding[True] < 0.5 * padding[False], padding


def test_stated_seconds_count_for_length_grouping(tiny, tmp_path):
    lines = [line("Q", id=f"{number % 2}-{number}", seconds=30.0 * (number % 2)) for number in range(64)]
    stream = stream_of(data_of(written(tmp_path, lines)), tiny.processor, micro_batch=2, accumulation=1)
    kinds = [{key[0] for key in keys} for step in keys_of(stream, 32) for keys in step]
    assert sum(len(kind) == 1 for kind in kinds) >= 28


def test_targets_are_counted_without_position_zero_and_seconds_as_decoded(tiny, media, tmp_path):
    path = written(tmp_path, [line("<video>?", "Yes", videos=["long.mp4"])])
    stream = stream_of(data_of(path, media=media), tiny.processor, micro_batch=1, accumulation=1)
    (batch,) = stream.next_step()
    stream.close()
    assert batch.num_target_tokens == len("Yes") + 1, "a token a letter, and the end token"
    assert batch.av_seconds == pytest.approx(2.0, abs=0.1)
    assert batch.inputs["labels"].shape == batch.inputs["input_ids"].shape


def test_a_clip_over_max_seconds_is_a_bad_sample(tiny, media, tmp_path):
    path = written(tmp_path, [line("<video>?", videos=["long.mp4"]), line("<video>?", videos=["short.mp4"])])
    data = data_of(path, media=media, max_seconds=1.0, max_bad_share=1)
    stream = stream_of(data, tiny.processor, accumulation=1)
    (batch,) = stream.next_step()
    stream.close()
    assert batch.keys == ("train.jsonl:2",)
    assert "at most 1.0 s" in batch.dropped[0].error
    assert tiny.processor.max_seconds > 1.0, "the caller's processor stays as it is"


# --- bad samples ----------------------------------------------------------------------------------------------------


def test_every_kind_of_bad_sample_is_dropped_by_its_key_and_counted(tiny, media, tmp_path, caplog):
    (media / "cut.mp4").write_bytes((media / "long.mp4").read_bytes()[:900])
    lines = [
        line("<video>Good?", videos=["short.mp4"]),
        line("<video>No sound?", videos=["short-silent.mp4"]),
        '{"messages": [',
        line("<video>Cut?", videos=["cut.mp4"]),
        line("<video>Missing?", videos=["nowhere.mp4"], id="gone"),
        line("<video><video>One?", videos=["short.mp4"]),
        line("Nothing?", answer=""),
        line("<video>Silent on purpose?", videos=["short-silent.mp4"], use_audio_in_video=False),
    ]
    data = data_of(written(tmp_path, lines), media=media, max_bad_share=1)
    stream = stream_of(data, tiny.processor, micro_batch=8, accumulation=1)
    with caplog.at_level(logging.WARNING, logger="favor.training"):
        (batch,) = stream.next_step()
    stream.close()
    assert sorted(batch.keys) == ["train.jsonl:1", "train.jsonl:8"]
    says = {sample.key: sample.error for sample in batch.dropped}
    assert sorted(says) == ["gone", *(f"train.jsonl:{number}" for number in (2, 3, 4, 6, 7))]
    assert "short-silent.mp4 has no sound" in says["train.jsonl:2"]
    assert "train.jsonl:3: not JSON" in says["train.jsonl:3"]
    assert "nowhere.mp4" in says["gone"]
    assert stream.state()["bad"] == {"train.jsonl": 6}
    assert stream.state()["seen"] == {"train.jsonl": 8}
    assert all(key in caplog.text for key in says)
    assert str(media) not in caplog.text


def test_a_batch_of_bad_samples_alone_has_no_inputs(tiny, tmp_path):
    path = written(tmp_path, [line(answer="")])
    stream = stream_of(data_of(path, max_bad_share=1), tiny.processor, micro_batch=1, accumulation=1)
    (batch,) = stream.next_step()
    stream.close()
    assert (batch.inputs, batch.keys, batch.num_target_tokens) == (None, (), 0)
    assert len(batch.dropped) == 1


def test_a_first_step_of_bad_samples_alone_stops_the_run_at_once(tiny, tmp_path):
    stream = stream_of(data_of(written(tmp_path, [line(answer="")] * 9)), tiny.processor)
    with pytest.raises(TooManyBadSamplesError, match=r"4 of 4 samples are bad \(train.jsonl: 4 of 4\); the first are"):
        stream.next_step()
    stream.close()


def test_too_many_bad_samples_stop_the_run_with_counts_by_source(tiny, tmp_path):
    good, bad = written(tmp_path, texts(60)), written(tmp_path, [line(), line(answer="")] * 30, "worse.jsonl")
    stream = stream_of(data_of(good, bad, max_bad_share=0.1), tiny.processor, micro_batch=5)
    for _ in range(9):
        stream.next_step()
    with pytest.raises(TooManyBadSamplesError, match=r"of 100 samples are bad \(worse.jsonl: \d+ of \d+\)"):
        stream.next_step()
    stream.close()


# --- mixing ---------------------------------------------------------------------------------------------------------


def mixed(tmp_path, lines, number=2000, **shares):
    source = Source(written(tmp_path, lines))
    mixer = Mixer(recipe.Mixing(**shares), [source], seed=3)
    return [mixer(source.read(0), Pick(0, 0, 0, slot)) for slot in range(number)]


SOUND = line("<audio>Who speaks?", "A man.", audios=["sound.wav"])


def test_pictures_get_unrelated_sounds_and_half_of_them_both_questions(tmp_path):
    lines = [line("<image>What is shown?", "A bus", images=["bus.jpg"]), SOUND]
    samples = mixed(tmp_path, lines, unpaired_image_audio=0.5)
    heard = [sample for sample in samples if sample.media[0].sound is not None]
    assert len(heard) == pytest.approx(1000, abs=80)
    asked = Counter((sample.question[-1].text, sample.answer) for sample in heard)
    both_ways = {
        ("In the picture, what is shown, and in the sound, who speaks?", "A bus. A man."),
        ("In the sound, who speaks, and in the picture, what is shown?", "A man. A bus"),
    }
    assert set(asked) == both_ways | {("What is shown?", "A bus")}
    assert asked["What is shown?", "A bus"] == pytest.approx(len(heard) / 2, abs=60)
    assert {sample.media[0].sound.name for sample in heard} == {"sound.wav"}


def test_videos_without_sound_are_asked_about_an_unrelated_sound_one_time_in_five(tmp_path):
    lines = [line("<video>What happens?", "Rain.", videos=["a.mp4"], use_audio_in_video=False), SOUND]
    samples = mixed(tmp_path, lines, unpaired_video_audio=1.0)
    joint = [sample for sample in samples if sample.media[0].use_audio]
    assert len(joint) == pytest.approx(400, abs=60)
    assert all(sample.media[0].sound.name == "sound.wav" for sample in joint)
    assert all("in the video, what happens" in sample.question[-1].text.lower() for sample in joint)
    assert {sample.answer for sample in joint} == {"Rain. A man.", "A man. Rain."}
    alone = next(sample for sample in samples if not sample.media[0].use_audio)
    assert (alone.question[-1].text, alone.media[0].sound) == ("What happens?", None)


def test_matching_questions_replace_paired_samples_and_half_have_a_wrong_sound(tmp_path):
    lines = [line("<video>What happens?", videos=["a.mp4"]), line("<video>Else?", videos=["b.mp4"]), SOUND]
    samples = mixed(tmp_path, lines, matching_questions=0.1)
    asked = [sample for sample in samples if sample.question[-1].text in MATCHING_QUESTIONS]
    assert len(asked) == pytest.approx(200, abs=50)
    assert {sample.question[-1].text for sample in asked} == set(MATCHING_QUESTIONS)
    wrong = [sample for sample in asked if sample.answer == "No."]
    assert len(wrong) == pytest.approx(len(asked) / 2, abs=30)
    assert {sample.media[0].sound.name for sample in wrong} == {"b.mp4", "sound.wav"}, "never its own"
    right = [sample for sample in asked if sample.answer == "Yes."]
    assert {sample.media[0] for sample in right} == {VideoPart(tmp_path / "a.mp4")}


def test_a_samples_mixing_depends_on_its_place_alone(tmp_path):
    lines = [line("<video>What happens?", videos=["a.mp4"]), SOUND]
    samples = mixed(tmp_path, lines, matching_questions=0.5, number=100)
    again = mixed(tmp_path, lines, matching_questions=0.5, number=100)
    assert samples == again
    assert len({replace(sample, seconds=0) for sample in samples}) > 2


def test_mixing_without_sounds_to_mix_in_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="needs samples with sound alone"):
        mixed(tmp_path, texts(3), unpaired_image_audio=0.5)


def test_samples_that_no_option_fits_stay_as_they_are(tmp_path):
    shares = {"unpaired_image_audio": 1, "unpaired_video_audio": 1, "matching_questions": 1}
    for sample in (SOUND, line("Text alone?"), line("<image><image>Two?", images=["a.jpg", "b.jpg"])):
        samples = mixed(tmp_path, [sample, SOUND], number=5, **shares)
        assert set(samples) == {Source(tmp_path / "train.jsonl").read(0)}


def test_mixed_samples_are_read_with_their_new_sound(tiny, media, tmp_path):
    lines = [line("<video>What?", videos=["short-silent.mp4"], use_audio_in_video=False), SOUND]
    data = data_of(written(tmp_path, lines), media=media, mixing={"unpaired_video_audio": 1.0})
    stream = stream_of(data, tiny.processor, micro_batch=2, accumulation=8)
    batches = stream.next_step()
    stream.close()
    clips = [receipt.media for batch in batches for chat in batch.inputs.receipts for receipt in chat]
    assert {clip.video is None for clip in clips if clip.audio} == {True, False}


# --- workers and validation -----------------------------------------------------------------------------------------


def test_no_process_is_left_behind(tiny, tmp_path):
    before = set(multiprocessing.active_children())
    stream = stream_of(data_of(written(tmp_path, texts(9)), workers=2), tiny.processor)
    stream.next_step()
    processes = set(multiprocessing.active_children()) - before
    assert len(processes) == 2
    stream.close()
    stream.close()
    assert not any(process.is_alive() for process in processes)
    batches = validation_batches(
        data_of(written(tmp_path, texts(9)), workers=2), tiny.processor, rank=0, world_size=1, micro_batch=2
    )
    next(batches)
    batches.close()
    assert set(multiprocessing.active_children()) - before == set()


def test_starting_workers_leaves_the_random_state_of_training_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    workers = Workers(abs, [-1, -2, -3], number=1)
    assert list(workers) == [1, 2, 3]
    workers.close()
    assert torch.equal(before, torch.get_rng_state())


def test_garbage_of_the_training_process_is_never_collected_in_a_worker(tmp_path):
    """A decoded frame may hold FFmpeg's threads; they are not in the fork, and freeing it there waits for them."""
    home, mark = os.getpid(), tmp_path / "collected"

    class Frame:
        def __del__(self):
            if os.getpid() != home:
                mark.touch()

    def make_garbage():
        frame = Frame()
        frame.itself = frame

    def collect(number):
        return gc.collect() and number

    gc.disable()
    make_garbage()
    workers = Workers(collect, [1, 2], number=1)
    gc.enable()
    assert len(list(workers)) == 2
    workers.close()
    assert not mark.exists()


def test_an_exception_in_a_worker_arrives_with_its_traceback():
    def fail(number):
        return 1 / number

    workers = Workers(fail, [1, 0], number=1)
    assert next(workers) == 1.0
    with pytest.raises(ZeroDivisionError, match=r"in fail\n[\s\S]*return 1 / number"):
        next(workers)
    workers.close()


def test_validation_passes_once_in_order_with_equal_numbers_of_batches(tiny, tmp_path):
    data = data_of(written(tmp_path, texts(5)))
    ranks = [list(validation_batches(data, tiny.processor, rank=rank, world_size=2, micro_batch=2)) for rank in (0, 1)]
    assert [batch.keys for batch in ranks[0]] == [("q0", "q1"), ("q4",)]
    assert [batch.keys for batch in ranks[1]] == [("q2", "q3"), ()]
    assert ranks[1][1].inputs is None


def test_validation_of_nothing_is_nothing(tiny, tmp_path):
    data = recipe.Data(train=(recipe.Source(path="unread"),))
    assert list(validation_batches(data, tiny.processor, rank=0, world_size=1, micro_batch=1)) == []
