"""``python -m training check DATA``: read every item before training does.

Every clip is decoded whole, start, middle and end; every label is laid out. What is found is counted by kind, named by
file and line, and can be left out of a cleaned manifest, which also states the measured seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from favor import presets
from favor.clips import ClipReader, ClipReceipt
from favor.configuration import FavorConfig
from favor.errors import ConfigurationError, FavorError
from favor.messages import MediaPart, VideoPart
from favor.processor import FavorProcessor
from favor.prompt import IGNORED, encode, normalise, pieces_of
from training import recipe
from training.data.batches import require_sound, strict
from training.data.importers import Format, as_messages
from training.data.manifest import LISTS, ManifestError, Sample
from training.data.sources import Source, open_sources
from training.data.workers import Workers

MAX_SECONDS = 60.0
MAX_DIFFERENCE_S = 1.0
NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one item. ``kind`` is the error's code, or what a manifest error is about."""

    kind: str
    file: str
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class CheckReport:
    """What was found.

    Args:
        num_samples: items read. num_good: of them without a problem.
        seconds: measured audio-visual seconds of the good ones.
        problems: in the order of the files; an item may have several.
    """

    num_samples: int
    num_good: int
    seconds: float
    problems: tuple[Problem, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Problems of each kind, the most frequent first."""
        return dict(Counter(problem.kind for problem in self.problems).most_common())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "num_samples": self.num_samples,
            "num_good": self.num_good,
            "seconds": round(self.seconds, 3),
            "counts": self.counts,
            "problems": [asdict(problem) for problem in self.problems],
        }


def check(
    source_paths: Sequence[str | Path],
    *,
    media_root: str | Path | None = None,
    format: Format = "messages",
    processor: FavorProcessor | None = None,
    context_tokens: int | None = None,
    max_seconds: float = MAX_SECONDS,
    max_difference_s: float = MAX_DIFFERENCE_S,
    clean: str | Path | None = None,
    workers: int = 0,
    shows_progress: bool = False,
) -> CheckReport:
    """Read every item of some data files.

    Args:
        source_paths, media_root, format: as in :class:`training.recipe.Source`.
        processor: of the model to be trained; without one, labels are not looked at.
        context_tokens: the model's context; None allows any length.
        max_seconds: longest clip.
        max_difference_s: most seconds by which sound and picture of a video may end apart.
        clean: a manifest to write: the good items in our own format, with measured ``seconds``. Its paths are relative
            to ``media_root`` if that is given, else to its own folder.
        workers: decoding processes; 0 decodes here.
        shows_progress: a bar on stderr, where that is a terminal.

    Raises:
        ManifestError: a file is missing or empty.
        ConfigurationError: ``clean`` is one of the files.
    """
    root = None if media_root is None else str(media_root)
    given = [recipe.Source(path=str(path), format=format, media_root=root) for path in source_paths]
    sources = open_sources(given)
    inspector = _Inspector(sources, processor, context_tokens, max_seconds, max_difference_s)
    problems: list[Problem] = []
    seconds, num_good = 0.0, 0
    try:
        with _Cleaned.opened(clean, source_paths, is_rooted=root is not None) as cleaned:
            with closing(Workers(inspector, _items(sources), number=workers)) as findings:
                for (place, record), finding in zip(_shown(sources, shows_progress), findings, strict=True):
                    problems += finding.problems
                    if not finding.problems:
                        num_good += 1
                        seconds += finding.seconds
                        cleaned.write(sources[place], record, finding.seconds)
    finally:
        for source in sources:
            source.close()
    return CheckReport(sum(map(len, sources)), num_good, seconds, tuple(problems))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("data", nargs="+", metavar="DATA", help="manifests: JSON lines or a JSON array")
    parser.add_argument("--format", choices=["messages", "sharegpt", "favor"], default="messages")
    parser.add_argument("--media-root", metavar="FOLDER", help="where relative paths begin (default: beside DATA)")
    parser.add_argument("--model", help="preset or model folder: also check that labels fit its context")
    parser.add_argument("--max-seconds", type=float, default=MAX_SECONDS, help="longest clip (default: %(default)s)")
    parser.add_argument(
        "--max-difference",
        type=float,
        default=MAX_DIFFERENCE_S,
        help="seconds by which sound and picture may end apart (default: %(default)s)",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    parser.add_argument("--report", metavar="FILE.json", help="write all that was found")
    parser.add_argument("--clean", metavar="FILE.jsonl", help="write the good items, with measured seconds")


def run(options: argparse.Namespace) -> int:
    """Check and report; 0 when nothing is wrong, 1 otherwise.

    Raises:
        FavorError: the data cannot be read at all.
    """
    processor, context = (None, None) if options.model is None else _load_model(options.model)
    report = check(
        options.data,
        media_root=options.media_root,
        format=options.format,
        processor=processor,
        context_tokens=context,
        max_seconds=options.max_seconds,
        max_difference_s=options.max_difference,
        clean=options.clean,
        workers=options.workers,
        shows_progress=sys.stderr.isatty(),
    )
    print_report(report)
    if options.report:
        Path(options.report).write_text(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n", "utf-8")
    return 1 if report.problems else 0


def print_report(report: CheckReport) -> None:
    """The report as a table on stdout."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if report.problems:
        table = Table("problem", "items", "first", box=None, pad_edge=False)
        for kind, number in report.counts.items():
            places = [problem.place for problem in report.problems if problem.kind == kind][:NUM_EXAMPLES]
            table.add_row(kind, str(number), ", ".join(places) + (", ..." if number > len(places) else ""))
        console.print(table)
        shown = {problem.kind: problem for problem in reversed(report.problems)}
        for kind in report.counts:
            console.print(f"{shown[kind].place}: {shown[kind].text}")
    console.print(f"{report.num_good} of {report.num_samples} items are good, {report.seconds / 3600:.2f} h")


@dataclass(frozen=True)
class _Finding:
    """What one item showed: its problems, and its measured seconds."""

    problems: tuple[Problem, ...]
    seconds: float


class _Inspector:
    """Looks at one item, (number of its source, number of its record); runs in workers."""

    def __init__(
        self,
        sources: Sequence[Source],
        processor: FavorProcessor | None,
        context_tokens: int | None,
        max_seconds: float,
        max_difference_s: float,
    ) -> None:
        self._sources = sources
        self._processor = None if processor is None else strict(processor, max_seconds=max_seconds)
        self._context_tokens, self._max_difference_s = context_tokens, max_difference_s
        self._reader: ClipReader = (
            presets.clip_reader("favor-7b", max_seconds=max_seconds, when_too_long="refuse")
            if self._processor is None
            else self._processor.reader
        )

    def __call__(self, item: tuple[int, int]) -> _Finding:
        source, record = self._sources[item[0]], item[1]
        try:
            sample = source.read(record)
        except ManifestError as error:
            return _Finding(tuple(_problems([error], source, record)), 0.0)
        receipts, errors = self._read_clips(sample)
        if not errors:
            errors = list(self._label_errors(sample, receipts))
        seconds = sum(receipt.media.duration_s for receipt in receipts)
        return _Finding(tuple(_problems(errors, source, record)), seconds)

    def _read_clips(self, sample: Sample) -> tuple[list[ClipReceipt], list[FavorError]]:
        receipts, errors = [], []
        for part in sample.media:
            try:
                receipt = self._reader.receipt(self._reader.load(part))
                require_sound(part, receipt)
                self._check_difference(part, receipt)
                receipts.append(receipt)
            except FavorError as error:
                errors.append(error)
        return receipts, errors

    def _check_difference(self, part: MediaPart, receipt: ClipReceipt) -> None:
        video, audio = receipt.media.video, receipt.media.audio
        if not isinstance(part, VideoPart) or video is None or audio is None:
            return
        sound_end_s = audio.start_s + audio.seconds
        if abs(sound_end_s - video.duration_s) > self._max_difference_s:
            raise ManifestError(
                "length_difference",
                f"{receipt.media.name}: the sound ends at {sound_end_s:.2f} s, the picture at {video.duration_s:.2f} s",
                allowed=f"a difference of at most {self._max_difference_s:g} s",
                advice="Cut the longer one",
            )

    def _label_errors(self, sample: Sample, receipts: Sequence[ClipReceipt]) -> Iterator[FavorError]:
        if self._processor is None:
            return
        processor = self._processor
        try:
            turns = normalise(sample.question, answer=sample.answer)
            prompt = encode(
                pieces_of(turns, processor.tokenizer, prompt_format=processor.prompt_format),
                processor.tokenizer,
                placeholder_token_id=processor.placeholder_token_id,
                soft_tokens_per_clip=[receipt.num_soft_tokens for receipt in receipts],
            )
        except FavorError as error:
            yield error
            return
        num_tokens = len(prompt.input_ids)
        if all(label == IGNORED for label in prompt.labels[1:]):
            yield ManifestError("no_target", "no token to learn", allowed="1 or more", advice="Write an answer")
        if self._context_tokens is not None and num_tokens > self._context_tokens:
            yield ManifestError(
                "too_many_tokens",
                f"the conversation takes {num_tokens} tokens",
                allowed=f"at most the model's {self._context_tokens}, soft tokens of clips included",
                advice="Shorten the clips or the text",
            )


def _problems(errors: Iterable[FavorError], source: Source, record: int) -> Iterator[Problem]:
    for error in errors:
        kind = error.kind if isinstance(error, ManifestError) else error.code
        line = source.index.line(record)
        yield Problem(kind, source.name, line, str(error).removeprefix(f"{source.index.place(record)}: "))


class _Cleaned:
    """The cleaned manifest while it is written: under another name until it is complete."""

    def __init__(self, path: Path | None, *, is_rooted: bool) -> None:
        self._path, self._is_rooted = path, is_rooted
        self._file: TextIO | None = None

    @classmethod
    def opened(cls, path: str | Path | None, sources: Sequence[str | Path], *, is_rooted: bool) -> _Cleaned:
        if path is not None and any(Path(path).resolve() == Path(source).resolve() for source in sources):
            raise ConfigurationError(
                f"the cleaned manifest {Path(path).name} is one of the files to check",
                allowed="another file",
                advice="Choose another name",
            )
        return cls(None if path is None else Path(path), is_rooted=is_rooted)

    def __enter__(self) -> _Cleaned:
        if self._path is not None:
            self._file = self._partial.open("w", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is None or self._path is None:
            return
        self._file.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink()

    def write(self, source: Source, record: int, seconds: float) -> None:
        """Add one item in our own format."""
        if self._file is None or self._path is None:
            return
        item = as_messages(source.index.read(record), source.format)
        assert isinstance(item, dict)
        line = {**item, "seconds": round(seconds, 3)}
        if not self._is_rooted:
            for name in LISTS.values():
                line[name] = [self._moved(source.folder, path) for path in item.get(name) or []]
        kept = {key: value for key, value in line.items() if value != []}
        self._file.write(json.dumps(kept, ensure_ascii=False) + "\n")

    @property
    def _partial(self) -> Path:
        assert self._path is not None
        return self._path.with_name(f"{self._path.name}.partial")

    def _moved(self, folder: Path, path: str) -> str:
        assert self._path is not None
        return path if Path(path).is_absolute() else os.path.relpath(folder / path, self._path.parent)


def _items(sources: Sequence[Source]) -> Iterator[tuple[int, int]]:
    """All items: (number of the source, number of the record)."""
    return ((place, record) for place, source in enumerate(sources) for record in range(len(source)))


def _shown(sources: Sequence[Source], shows_progress: bool) -> Iterator[tuple[int, int]]:
    """All items, with a bar on stderr."""
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shows_progress) as bar:
        yield from bar.track(_items(sources), total=sum(map(len, sources)))


def _load_model(name: str) -> tuple[FavorProcessor, int]:
    """Processor and context of a model folder or a preset."""
    from favor.checkpoint import load_processor, reading

    folder = Path(name)
    if name in presets.names() or not folder.exists():
        processor, config = presets.build(name)[1], presets.config(name)
    else:
        processor = load_processor(folder)
        with reading(folder):
            config = FavorConfig.from_pretrained(folder, local_files_only=True)
    return processor, int(config.text_config.max_position_embeddings)
