"""``training clips``: real files, a data file that training reads, the same from a seed, nothing written twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from favor.messages import AudioPart, ImagePart, VideoPart
from training.__main__ import main
from training.data import open_sources
from training.recipe import Source
from training.world import clips, features
from training.world.clips import Wanted
from training.world.shards import Encode

KINDS = ("cause", "image", "sounds", "noisy_speech")
QUICK = Wanted(seed=5, questions=2, kinds=KINDS)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "out"
    number = next(n for n in range(1, 60) if {QUICK.scene(k).kind for k in range(n)} >= {"image", "sounds"})
    clips.write(folder, QUICK, clips=number)
    return folder


def test_the_data_file_is_one_that_training_reads(folder: Path) -> None:
    (source,) = open_sources([Source(path=str(folder / "data.jsonl"))])
    samples = [source.read(number) for number in range(len(source))]
    assert len(samples) > 2
    for sample in samples:
        (part,) = sample.media
        assert isinstance(part, VideoPart | AudioPart | ImagePart)
        assert Path(part.source).is_file()
        assert sample.answer
    assert len({sample.key for sample in samples}) == len(samples)


def test_no_file_is_left_that_no_line_names(folder: Path) -> None:
    lines = map(json.loads, (folder / "data.jsonl").read_text(encoding="utf-8").splitlines())
    named = {path for line in lines for name in ("videos", "images", "audios") for path in line.get(name, ())}
    assert {name for name in contents(folder) if name.startswith("clips/")} == named
    assert set(contents(folder)) - named == {"data.jsonl", "clips.json"}


def test_what_is_missing_is_written_again_and_the_same(folder: Path) -> None:
    before = contents(folder)
    number = len({name.partition(".")[0] for name in before if name.startswith("clips/")})
    lost = next(name for name in before if name.startswith("clips/"))
    (folder / lost).unlink()
    (folder / "data.jsonl").unlink()
    made = clips.write(folder, QUICK, clips=number)
    assert made.num_found == number - 1 == made.num_clips - 1
    assert contents(folder) == before


def test_other_clips_do_not_mix_with_these(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clips", str(folder), "--clips", "1", "--seed", "6"]) == 2
    assert "holds clips of" in capsys.readouterr().err


def test_the_command_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["clips", str(out), "--clips", "2", "--split", "test", "--kinds", "image", "--questions", "1"]) == 0
    assert "out: 2 clips (2 image), 0 of them were there, " in capsys.readouterr().out
    assert main(["clips", str(out), "--clips", "0"]) == 2


def test_clip_n_is_the_scene_that_encode_has() -> None:
    recipe = Encode(model="", output="", seed=9, split="test", clips=3)
    assert [Wanted(9, "test").scene(n) for n in range(3)] == [features.scene_of(recipe, n) for n in range(3)]
