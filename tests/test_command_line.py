"""The command line: answers on stdout, everything else on stderr, and one line for whatever cannot be used."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from favor import presets
from favor.__main__ import main
from favor.chat import Chat
from favor.decoding import Decoding
from favor.messages import AudioPart, ImagePart, MediaPart, VideoPart, user
from tests import bad_media, small_media
from tests.bad_media import BAD_CLIPS, BadClip
from tests.conftest import Tiny

ROOT = Path(__file__).resolve().parent.parent
NOTE = "note: the model 'tiny' has random weights; its words mean nothing.\n"


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """A folder with one clip of each kind."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "clip.mp4").write_bytes(small_media.video(2.0))
    (folder / "silent.mp4").write_bytes(small_media.video(2.0, has_sound=False))
    (folder / "long.mp4").write_bytes(small_media.video(6.0))
    (folder / "sound.wav").write_bytes(small_media.sound(1.5))
    (folder / "picture.png").write_bytes(small_media.picture())
    return folder


@pytest.fixture
def run(media, capsys, monkeypatch):
    """Runs a command where the clips lie, by default with ``tiny``; gives (status, stdout, stderr)."""
    monkeypatch.chdir(media)
    monkeypatch.setattr(presets, "DEFAULT", "tiny")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # answers are compared to the CPU's

    def run_it(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        return status, *capsys.readouterr()

    return run_it


@pytest.fixture
def error_of(run, tmp_path, media):
    """Runs a command that must fail; gives what it says."""

    def run_it(*arguments: str) -> str:
        status, out, err = run(*arguments)
        assert (status, out) == (2, "")
        assert_one_clean_line(err, media, tmp_path)
        return err

    return run_it


def assert_one_clean_line(err: str, *folders: Path) -> None:
    assert err.startswith("error (")
    assert err.endswith(".\n")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not any(str(folder) in err for folder in folders)
    assert "/" not in err


# --- ask ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["clip.mp4"], VideoPart(small_media.video(2.0))),
        (["sound.wav"], AudioPart(small_media.sound(1.5))),
        (["picture.png"], ImagePart(small_media.picture())),
        (["clip.mp4", "--no-audio"], VideoPart(small_media.video(2.0), use_audio=False)),
        (["clip.mp4", "--as", "audio"], AudioPart(small_media.video(2.0))),
        (["silent.mp4", "--sound", "sound.wav"], VideoPart(small_media.video(2.0), sound=small_media.sound(1.5))),
        (["picture.png", "--sound", "sound.wav"], ImagePart(small_media.picture(), sound=small_media.sound(1.5))),
    ],
    ids=["video", "sound", "picture", "sound left out", "sound of a video", "other sound", "picture with sound"],
)
def test_the_answer_about_a_clip_goes_to_stdout(tiny: Tiny, run, arguments: list[str], part: MediaPart):
    status, out, err = run("ask", *arguments, "What happens?", "--max-tokens", "9")
    expected = Chat("tiny", *tiny).answer([user(part, "What happens?")], Decoding(max_new_tokens=9))
    assert (status, out, err) == (0, f"{expected}\n", NOTE)


def test_an_answer_has_at_most_so_many_tokens(run):
    _, short, _ = run("ask", "clip.mp4", "What?", "--max-tokens", "2")
    _, long, _ = run("ask", "clip.mp4", "What?", "--max-tokens", "20")
    assert len(short) <= 3 < len(long)
    assert long.startswith(short.rstrip("\n"))


def test_sampling_follows_the_seed(run):
    def sample(seed: str) -> str:
        return run("ask", "sound.wav", "What?", "--max-tokens", "12", "--temperature", "1.5", "--seed", seed)[1]

    assert sample("1") == sample("1") != sample("2")


def test_the_released_decoding_may_be_asked_for(tiny, run):
    _, out, _ = run("ask", "sound.wav", "What?", "--max-tokens", "6", "--beams")
    decoding = Decoding(max_new_tokens=6, num_beams=5, repetition_penalty=1.5)
    part = AudioPart(small_media.sound(1.5))
    assert out == Chat("tiny", *tiny).answer([user(part, "What?")], decoding) + "\n"


def test_a_saved_folder_answers_without_a_note(tiny, run, tmp_path):
    tiny.model.save_pretrained(tmp_path / "mine")
    tiny.processor.save_pretrained(tmp_path / "mine")
    question = ("ask", "sound.wav", "What?", "--max-tokens", "6")
    run("inspect", "sound.wav")  # what was said while saving is not what we ask about
    assert run(*question, "--model", str(tmp_path / "mine")) == (0, run(*question)[1], "")


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["ask", "gone.mp4", "What?"], "(media_not_found): gone.mp4 does not exist"),
        (["ask", "clip.mp4", "What?", "--sound", "gone.wav"], "(media_not_found): gone.wav does not exist"),
        (["ask", "clip.mp4", "What?", "--sound", "silent.mp4"], "(missing_stream): silent.mp4 has 0 sound"),
        (["ask", "sound.wav", "What?", "--as", "video"], "(missing_stream): sound.wav has 0 picture"),
        (["ask", "sound.wav", "What?", "--sound", "sound.wav"], "--sound with a sound file"),
        (["ask", "sound.wav", "What?", "--no-audio"], "--no-audio"),
        (["ask", "picture.png", "What?", "--no-audio"], "--no-audio"),
        (["ask", "clip.mp4", "What?", "--no-audio", "--sound", "sound.wav"], "--no-audio"),
        (["ask", "clip.mp4", "What?", "--max-seconds", "1"], "clip.mp4 is 2.0 s long. Allowed: at most 1.0 s"),
        (["ask", "clip.mp4", "What?", "--max-tokens", "0"], "max_new_tokens is 0"),
        (["ask", "clip.mp4", "What?", "--temperature", "3"], "temperature is 3.0"),
        (["ask", "clip.mp4", "What?", "--model", "tyni"], "Did you mean 'tiny'"),
        (["ask", "clip.mp4", "What?", "--model", "."], "is not a model folder"),
        (["ask", "clip.mp4", "What?", "--model", "clip.mp4"], "'clip.mp4' is not a model folder"),
        (["ask", "clip.mp4", "What?", "--model", "favor-7b"], "(invalid_checkpoint): 'instructblip-vicuna-13b'"),
        (["ask", "clip.mp4", "long " * 1800], "(invalid_message): the conversation takes 90"),
        (["ask", "clip.mp4", "caf\udce9?"], "(invalid_message): a user message holds half a character"),
        (["inspect", "clip.mp4", "--model", "tyni"], "Did you mean 'tiny'"),
        (["inspect", "clip.mp4", "--model", "."], "cannot be read"),
        (["inspect", "."], "(media_not_found)"),
        (["inspect", ""], "(media_not_found)"),
        (["inspect", "two\nlines \x1b[31m.mp4"], "two lines  [31m.mp4 does not exist"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(error_of, arguments, says):
    assert says in error_of(*arguments)


def test_a_folder_with_pickled_weights_is_told_in_one_line(error_of, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text('{"model_type": "favor"}')
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"")
    assert "'old' is not a model folder" in error_of("ask", "clip.mp4", "?", "--model", str(tmp_path / "old"))


def test_an_interrupted_answer_ends_with_status_1(run, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Chat, "stream", interrupted)
    assert run("ask", "clip.mp4", "What?") == (1, "", "\ninterrupted\n")


@pytest.mark.parametrize("arguments", [[], ["sing"], ["ask"], ["ask", "clip.mp4"], ["inspect", "clip.mp4", "--blah"]])
def test_a_command_that_is_none_shows_the_usage(run, arguments, capsys):
    with pytest.raises(SystemExit) as raised:
        run(*arguments)
    assert raised.value.code == 2
    assert "usage: python -m favor" in capsys.readouterr().err


# --- inspect --------------------------------------------------------------------------------------------------------


def inspected(run, *arguments: str) -> dict:
    status, out, err = run("inspect", *arguments, "--json")
    assert (status, err) == (0, "")
    assert out.count("\n") == 1
    return json.loads(out)


def test_inspect_tells_what_is_seen_and_heard_as_json(run):
    receipt = inspected(run, "long.mp4")
    assert receipt["name"] == "long.mp4"
    assert receipt["kind"] == "video"
    assert receipt["duration_s"] == pytest.approx(6.0, abs=0.1)
    assert receipt["video"].items() >= {"codec": "h264", "num_frames": 12, "width": 64, "height": 48}.items()
    assert receipt["video"]["times_s"] == [0.25 + 0.5 * step for step in range(12)]
    assert receipt["audio"]["codec"] == "aac"
    assert receipt["audio"]["seconds"] == pytest.approx(6.0, abs=0.1)
    assert receipt["audio"]["start_s"] == pytest.approx(0.0, abs=0.1)
    assert (receipt["num_steps"], receipt["num_windows"], receipt["num_soft_tokens"]) == (12, 2, 64)
    assert receipt["skipped"] == []


def test_inspect_counts_what_ask_would_spend(tiny, run):
    for name in ("clip.mp4", "sound.wav", "picture.png"):
        receipt = inspected(run, name)
        path = Path(name)
        part = {"video": VideoPart, "audio": AudioPart, "image": ImagePart}[receipt["kind"]](path)
        assert tiny.processor([user(part)]).receipts[0][0].to_dict() == receipt


def test_inspect_knows_sound_pictures_and_what_is_left_out(run):
    assert inspected(run, "sound.wav")["video"] is None
    assert inspected(run, "picture.png")["audio"] is None
    assert inspected(run, "picture.png")["num_soft_tokens"] == 32
    assert inspected(run, "picture.png", "--sound", "sound.wav")["num_steps"] == 3
    muted = inspected(run, "clip.mp4", "--no-audio")
    assert muted["audio"] is None
    assert muted["skipped"]


def test_a_clip_that_is_too_long_is_refused_or_cut(run, error_of):
    assert "long.mp4 is 6.0 s long. Allowed: at most 2.0 s" in error_of("inspect", "long.mp4", "--max-seconds", "2")
    cut = inspected(run, "long.mp4", "--max-seconds", "2", "--cut")
    assert cut["num_steps"] == 4
    assert any("2.0 s" in sentence for sentence in cut["skipped"])


def test_inspect_reads_as_the_chosen_model_does(tiny, run, tmp_path):
    assert inspected(run, "clip.mp4", "--model", "favor-7b")["num_soft_tokens"] == 32
    processor = copy.deepcopy(tiny.processor)
    processor.num_query_tokens, processor.window_steps = 7, 2
    processor.save_pretrained(tmp_path)
    receipt = inspected(run, "clip.mp4", "--model", str(tmp_path))
    assert (receipt["num_windows"], receipt["num_soft_tokens"]) == (2, 14)


def test_how_long_a_clip_may_be_is_the_models_own_unless_it_is_said(tiny, run, error_of, tmp_path):
    processor = copy.deepcopy(tiny.processor)
    processor.max_seconds = 2.0
    tiny.model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for command in (("inspect", "long.mp4"), ("ask", "long.mp4", "What?", "--max-tokens", "1")):
        assert "at most 2.0 s" in error_of(*command, "--model", str(tmp_path))
        assert run(*command, "--model", str(tmp_path), "--max-seconds", "10")[0] == 0
        assert run(*command, "--model", str(tmp_path), "--cut")[0] == 0


def test_inspect_shows_a_table(run):
    status, out, err = run("inspect", "clip.mp4")
    assert (status, err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in out.strip().splitlines())
    assert rows.keys() == {"clip", "picture", "frames", "sound", "heard", "model", "tokens", "skipped"}
    assert rows["clip"].startswith("clip.mp4: video, 2.0")
    assert rows["frames"].startswith("4 at 0.25, 0.75, 1.25, 1.75 s")
    assert rows["tokens"].startswith("32 soft tokens")
    assert rows["skipped"].strip() == "nothing"


@pytest.mark.parametrize("name", ["sound.wav", "picture.png", "silent.mp4", "long.mp4"])
def test_the_table_of_every_kind_of_clip_has_the_same_rows(run, name):
    _, out, _ = run("inspect", name)
    for row in ("clip", "picture", "sound", "model", "tokens"):
        assert any(line.startswith(row) for line in out.splitlines())


# --- everything that can be wrong with a clip -----------------------------------------------------------------------


def on_disk(source: bytes | str | Path, path: Path) -> str:
    if isinstance(source, bytes):
        path.write_bytes(source)
        return str(path)
    return str(source)


THROUGH_OPTIONS = [bad for bad in BAD_CLIPS if "limits" not in bad.arguments]


@pytest.mark.parametrize("bad", THROUGH_OPTIONS, ids=[bad.what for bad in THROUGH_OPTIONS])
def test_a_bad_clip_is_told_in_one_line(bad: BadClip, run, tmp_path):
    if bad.make is bad_media.unreadable and os.geteuid() == 0:
        pytest.skip("the superuser may read every file")
    arguments = [on_disk(bad.make(tmp_path), tmp_path / "clip")]
    if "sound" in bad.arguments:
        arguments += ["--sound", on_disk(bad.arguments["sound"], tmp_path / "sound")]
    if "options" in bad.arguments:
        arguments += ["--max-seconds", str(bad.arguments["options"].max_seconds)]
    status, out, err = run("inspect", *arguments, "--as", bad.load)
    assert (status, out) == (2, "")
    assert_one_clean_line(err, tmp_path)
    assert f"({bad.error.code})" in err

    status, out, err = run("inspect", *arguments)  # guessing what it is: another answer may be right
    assert (status, bool(out)) in ((0, True), (2, False))
    if status == 2:
        assert_one_clean_line(err, tmp_path)


# --- as a program ---------------------------------------------------------------------------------------------------


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def program(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "favor", *arguments]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def test_the_program_answers(tiny, media):
    done = program("ask", "clip.mp4", "What happens?", "--max-tokens", "9", "--model", "tiny", folder=media)
    question = [user(VideoPart(small_media.video(2.0)), "What happens?")]
    assert done.stdout == Chat("tiny", *tiny).answer(question, Decoding(max_new_tokens=9)) + "\n"
    assert (done.returncode, done.stderr) == (0, NOTE)


def test_the_program_refuses_in_one_line(tmp_path):
    (tmp_path / "letter.mp4").write_bytes(bad_media.TEXT)
    done = program("inspect", "letter.mp4", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_clean_line(done.stderr, tmp_path)


def test_the_program_ends_quietly_when_nobody_reads_on(media):
    command = [sys.executable, "-m", "favor", "ask", "clip.mp4", "What?", "--max-tokens", "500", "--model", "tiny"]
    with subprocess.Popen(
        command, cwd=media, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.read(1)
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (1, b"")
