"""``python -m training clips OUT --clips N --seed S``: clips of the generated world as files that anyone could send.

    OUT/clips/000000.mp4 ...    an mp4, a wav, a png, or a png with a wav, by the kind of clip
    OUT/data.jsonl              a line for each question, as ``training run`` and ``training check`` read it
    OUT/clips.json              what was asked for

For whatever must see and hear whole clips, as an adapter between the encoders: kept features would not do. Clip n shows
the very scene that ``training encode`` has under the same seed and split.

Everything is a function of the seed: run again, the command writes what is missing, and more clips where N has grown.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from favor.errors import ConfigurationError
from training.world import files, questions, scenes
from training.world.question import Question
from training.world.scene import Kind, Scene
from training.world.splits import Split, seed_of_clip

KINDS: tuple[Kind, ...] = get_args(Kind)
DATA = "data.jsonl"

_MEDIA, _INDEX = "clips", "clips.json"


@dataclass(frozen=True)
class Wanted:
    """What clips are to be written.

    Args:
        seed, split: of the scenes; the split ``test`` is worded as training never is.
        questions: of each clip, at most. kinds: only these, as often to each other as in the world; empty takes all.
    """

    seed: int = 0
    split: Split = "train"
    questions: int = 4
    kinds: tuple[Kind, ...] = ()

    def scene(self, number: int) -> Scene:
        """Of clip ``number``."""
        seed = seed_of_clip(self.seed, self.split, number)
        kind = None
        if self.kinds:
            shares = [scenes.KIND_SHARES[kind] for kind in self.kinds]
            kind = random.Random(seed).choices(self.kinds, shares)[0]
        return scenes.make(seed, kind=kind, split=self.split)

    def asked(self, scene: Scene) -> list[Question]:
        """About a scene."""
        return questions.ask(scene, random.Random(f"clips {scene.seed}"), self.questions, wording=self.split)


@dataclass(frozen=True)
class Written:
    """How many clips of each kind and questions there are now, and how many of the clips were there before."""

    kinds: dict[str, int]
    num_questions: int
    num_found: int

    @property
    def num_clips(self) -> int:
        return sum(self.kinds.values())


def write(out: str | Path, wanted: Wanted, *, clips: int, workers: int = 1) -> Written:
    """Write the clips that are missing, then the data file.

    Args:
        out: the folder. clips: how many. workers: processes that draw and play.

    Raises:
        ConfigurationError: the folder holds clips of another seed, split, kind or number of questions.
    """
    folder = Path(out)
    _claim(folder, wanted)
    with _mapping(workers) as mapped:
        was_there = list(mapped(partial(_write_clip, wanted, folder), range(clips)))
    kinds: Counter[str] = Counter()
    lines: list[str] = []
    for number in range(clips):
        scene = wanted.scene(number)
        kinds[scene.kind] += 1
        lines += [json.dumps(record, ensure_ascii=False) + "\n" for record in _records(scene, number, wanted)]
    draft = folder / f".{DATA}"
    draft.write_text("".join(lines), encoding="utf-8")
    draft.replace(folder / DATA)
    return Written(dict(kinds), len(lines), sum(was_there))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = Wanted()
    parser.add_argument("out", metavar="OUT", help="folder to write, or to go on with")
    parser.add_argument("--clips", type=int, required=True, metavar="N", help="how many")
    parser.add_argument("--seed", type=int, default=known.seed, help="of everything (default: %(default)s)")
    parser.add_argument("--split", choices=get_args(Split), default=known.split, help="(default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=(), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--questions", type=int, default=known.questions, help="of each clip (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Write them and say how many there are."""
    for name in ("clips", "questions", "workers"):
        if getattr(options, name) < 1:
            raise ConfigurationError(f"--{name} is {getattr(options, name)}", allowed="1 or more", advice="Raise it")
    wanted = Wanted(options.seed, options.split, options.questions, tuple(options.kinds))
    made = write(options.out, wanted, clips=options.clips, workers=options.workers)
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(made.kinds.items()))
    print(
        f"{Path(options.out).name}: {made.num_clips} clips ({kinds}), {made.num_found} of them were there, "
        f"{made.num_questions} questions in {DATA}"
    )
    return 0


def _claim(folder: Path, wanted: Wanted) -> None:
    """Make the folder, or see that it is for the same clips."""
    (folder / _MEDIA).mkdir(parents=True, exist_ok=True)
    index, told = folder / _INDEX, json.dumps(asdict(wanted), indent=1)
    if not index.exists():
        index.write_text(told, encoding="utf-8")
    elif index.read_text(encoding="utf-8") != told:
        raise ConfigurationError(
            f"{folder.name} holds clips of {' '.join(index.read_text(encoding='utf-8').split())}",
            allowed="the same seed, split, kinds and questions",
            advice="Choose another folder",
        )


@contextmanager
def _mapping(workers: int) -> Iterator[Any]:
    """``map``, in this process or in several."""
    if workers == 1:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def _write_clip(wanted: Wanted, folder: Path, number: int) -> bool:
    """Write one, unless it is there: aside, then renamed. So what is there is whole."""
    scene, media = wanted.scene(number), folder / _MEDIA
    names = [name for name in files.names(scene, _stem(number)) if name is not None]
    if all((media / name).exists() for name in names):
        return True
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder) as draft:
        files.write(scene, Path(draft), _stem(number))
        for name in names:
            os.replace(Path(draft) / name, media / name)
    return False


def _records(scene: Scene, number: int, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """The data file's lines about one clip."""
    media, marks = _media(scene, number)
    for place, question in enumerate(wanted.asked(scene)):
        turns = [*question.before, (question.text, question.answer)]
        texts = [text for turn in turns for text in turn]
        texts[0] = marks + texts[0]
        yield {
            "id": f"{_stem(number)}-{place}",
            **media,
            "seconds": scene.seconds,
            "messages": [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)],
            "meta": {"kind": scene.kind, "task": question.task, "family": question.family},
        }


def _media(scene: Scene, number: int) -> tuple[dict[str, list[str]], str]:
    """The clip's files as a line lists them, and their placeholders."""
    picture, sound = files.names(scene, _stem(number))
    found: dict[str, list[str]] = {}
    marks = ""
    if picture is not None:
        name, mark = ("images", "<image>") if scene.is_still else ("videos", "<video>")
        found[name], marks = [f"{_MEDIA}/{picture}"], mark
    if sound is not None:
        found["audios"], marks = [f"{_MEDIA}/{sound}"], marks + "<audio>"
    return found, marks


def _stem(number: int) -> str:
    return f"{number:06d}"
