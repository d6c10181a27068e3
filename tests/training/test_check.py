"""``python -m training check``: every item is read, every problem named with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from favor.errors import ConfigurationError
from favor.media import write_clip
from training import recipe
from training.__main__ import main
from training.data import BatchStream, Source
from training.data.check import check

TONE = 0.3 * np.sin(np.arange(48_000) / 10).astype(np.float32)
FRAMES = np.random.default_rng(0).integers(0, 255, (10, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "good.mp4", frames=FRAMES, fps=10, waveform=TONE[:16_000])
    write_clip(folder / "silent.mp4", frames=FRAMES, fps=10)
    write_clip(folder / "uneven.mp4", frames=FRAMES, fps=10, waveform=TONE)
    write_clip(folder / "sound.wav", waveform=TONE[:8_000], container="wav")
    (folder / "cut.mp4").write_bytes((folder / "good.mp4").read_bytes()[:-3000])
    (folder / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    return folder


def line(question="What?", answer="Rain.", **other):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **other}


BAD_DATA = [
    (line("<video>What?", videos=["good.mp4"]), None),
    (line("<video>What?", videos=["nowhere.mp4"]), "media_not_found"),
    ('{"messages": [', "malformed_line"),
    (line("<video><video>What?", videos=["good.mp4"]), "placeholder_mismatch"),
    (line("<video>What?", "", videos=["good.mp4"]), "empty_answer"),
    (line("<video>What?", videos=["cut.mp4"]), "unreadable_media"),
    (line("<video>What?", videos=["noise.mp4"]), "unreadable_media"),
    (line("<video>What?", videos=["silent.mp4"]), "missing_stream"),
    (line("<video>What?", videos=["silent.mp4"], use_audio_in_video=False), None),
    (line("<video>What?", videos=["uneven.mp4"]), "length_difference"),
    (line("<audio>What?", audios=["silent.mp4"]), "missing_stream"),
    (line("<video>What?", video=["good.mp4"]), "unknown_key"),
    (line("<audio>Who?", audios=["sound.wav"]), None),
    (line("Q" * 9000), "too_many_tokens"),
    ("\udcff", "not_utf8"),
]


@pytest.fixture
def manifest(tmp_path) -> Path:
    path = tmp_path / "train.jsonl"
    lines = [text if isinstance(text, str) else json.dumps(text) for text, _ in BAD_DATA]
    path.write_bytes("".join(f"{text}\n" for text in lines).encode("utf-8", "surrogateescape"))
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_every_problem_of_the_bad_data_table_is_named_with_file_and_line(tiny, media, manifest, workers):
    report = check([manifest], media_root=media, processor=tiny.processor, context_tokens=8192, workers=workers)
    expected = {number: kind for number, (_, kind) in enumerate(BAD_DATA, 1) if kind is not None}
    assert {problem.line: problem.kind for problem in report.problems} == expected
    assert {problem.file for problem in report.problems} == {"train.jsonl"}
    assert (report.num_samples, report.num_good) == (len(BAD_DATA), 3)
    assert report.seconds == pytest.approx(2.5, abs=0.2)
    assert not any(str(media) in problem.text for problem in report.problems)


def test_several_bad_clips_of_one_item_are_all_named(media, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(line("<video><video>?", videos=["nowhere.mp4", "silent.mp4"])), "utf-8")
    report = check([path], media_root=media)
    assert [problem.kind for problem in report.problems] == ["media_not_found", "missing_stream"]


def test_the_command_reports_cleans_and_exits_with_one(media, manifest, tmp_path, capsys):
    report, clean = tmp_path / "report.json", media / "clean.jsonl"
    arguments = ["check", str(manifest), "--media-root", str(media), "--model", "tiny", "--workers", "0"]
    assert main([*arguments, "--report", str(report), "--clean", str(clean)]) == 1
    shown = capsys.readouterr().out
    assert "unreadable_media" in shown
    assert "train.jsonl:6, train.jsonl:7" in shown
    assert f"3 of {len(BAD_DATA)} items are good" in shown
    found = json.loads(report.read_text("utf-8"))
    assert found["counts"]["missing_stream"] == 2
    assert found["problems"][0]["line"] == 2
    kept = Source(clean)
    seconds = [kept.read(number).seconds for number in range(len(kept))]
    assert seconds == pytest.approx([1.0, 1.0, 0.5], abs=0.1)
    assert not clean.with_name("clean.jsonl.partial").exists()
    assert main(["check", str(clean), "--model", "tiny", "--workers", "0"]) == 0


def test_a_cleaned_manifest_elsewhere_still_finds_its_media_and_trains(tiny, media, tmp_path):
    source, clean = media / "legacy.json", tmp_path / "clean.jsonl"
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "Rain."}]
    source.write_text(json.dumps([{"image_name": ["silent.mp4", "sound.wav"], "conversation": turns}]), "utf-8")
    assert check([source], format="favor", clean=clean).problems == ()
    assert not Path(json.loads(clean.read_text("utf-8"))["videos"][0]).is_absolute()
    data = recipe.Data(train=(recipe.Source(path=str(clean)),), workers=0)
    stream = BatchStream(data, tiny.processor, seed=0, rank=0, world_size=1, micro_batch=1, accumulation=1)
    (batch,) = stream.next_step()
    stream.close()
    assert batch.keys == ("clean.jsonl:1",)
    assert batch.inputs.receipts[0][0].media.audio is not None


@pytest.mark.parametrize("content", [None, ""])
def test_input_that_cannot_be_used_exits_with_two(tmp_path, capsys, content):
    path = tmp_path / "train.jsonl"
    if content is not None:
        path.write_text(content, "utf-8")
    assert main(["check", str(path)]) == 2
    assert "train.jsonl" in capsys.readouterr().err


def test_a_cleaned_manifest_never_replaces_the_data(manifest):
    with pytest.raises(ConfigurationError, match=r"train.jsonl is one of the files to check"):
        check([manifest], clean=manifest)
