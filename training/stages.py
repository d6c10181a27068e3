"""A staged recipe: one YAML file whose ``stages`` are run one after the other, each as a process of its own.

    stages:
      - {name: vision, command: perceive, together: encoders, settings: {...}}
      - {name: audio, command: perceive, together: encoders, settings: {...}}   # side by side with the one before
      - {name: learn, command: run, processes: 2, settings: {...}}              # under torchrun

A stage's settings are its command's own YAML. The resolved ones stand in ``OUTPUT/STAGE.yaml``, what it prints in
``OUTPUT/STAGE.log``, and ``OUTPUT/STAGE.done.json`` says that it finished. A finished stage is skipped; an interrupted
one is started again and goes on by itself.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import itertools
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from favor.errors import ConfigurationError
from training import recipe

MODULE = "training"
"""A stage is ``python -m MODULE COMMAND OUTPUT/STAGE.yaml``."""

MOST_PROCESSES = 8
"""Of ``processes: cores``."""

# glibc gives big buffers back at each step and asks for them again at the next. To keep them halved the time of a small
# Whisper's training step on a CPU (570 to 261 ms in our prototype); elsewhere it changes nothing.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_NOT_RESULTS = ("name", "summary")


class Stage(recipe.Strict):
    """One step of a staged recipe.

    Args:
        command: of ``python -m training``.
        together: neighbours with the same word run side by side.
        processes: above 1 under torchrun; ``cores`` is one per core, at most 8.
        settings: the command's own recipe. ``name``, ``summary``, ``output`` (a folder of the stage) and ``seed`` are
            filled in where missing, and ``{output}`` in a text is the output folder of the whole.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    command: str
    together: str | None = None
    processes: int | Literal["cores"] = 1
    settings: dict[str, Any] = {}


class Staged(recipe.Strict):
    """A whole staged recipe."""

    name: str
    summary: str
    output: str
    seed: int = 0
    stages: tuple[Stage, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Job:
    """A stage that is ready to run.

    Args:
        sha256: of what decides its result: command and settings, of this stage and of those before it.
        together: None, or the word of those that run side by side.
    """

    name: str
    command: str
    together: str | None
    processes: int
    settings: str
    sha256: str
    folder: Path

    @property
    def settings_file(self) -> Path:
        return self.folder / f"{self.name}.yaml"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def done(self) -> Path:
        return self.folder / f"{self.name}.done.json"


@dataclass(frozen=True)
class Start:
    """One start of a stage, a line of ``OUTPUT/starts.jsonl``; a stage that was interrupted has several."""

    stage: str
    settings_sha256: str
    start: str
    end: str
    seconds: float
    status: int
    is_finished: bool


def load(path: str | Path, overrides: Sequence[str] = ()) -> Staged:
    """Read a staged recipe and apply overrides: ``seed=``, ``output=`` or ``STAGE.key.sub=``.

    Raises:
        ConfigurationError: an unknown key, stage or command (the nearest is named), or a value that is not allowed.
    """
    file = recipe.find(Path(path))
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    staged = _checked(file.name, settings)
    for override in overrides:
        _override(settings, override)
    return _checked(file.name, settings) if overrides else staged


def jobs(staged: Staged) -> list[Job]:
    """All stages with their settings resolved, in order."""
    made: list[Job] = []
    before = ""
    for group in _groups(staged.stages):
        made += [_job(staged, stage, before) for stage in group]
        before = "".join(job.sha256 for job in made)
    return made


def run(made: Sequence[Job], *, only: str | None = None, until: str | None = None) -> int:
    """Run every stage that has not finished; the exit status, which is 0 also after a signal that was passed on.

    Raises:
        ConfigurationError: no such stage, or one that finished with other settings.
    """
    todo = []
    for job in _chosen(made, only, until):
        if has_finished(job):
            print(f"stage {job.name}: finished before")
        else:
            todo.append(job)
    with _SignalsPassedOn() as passing:
        for group in _groups(todo):
            status = _run_group(group, passing)
            if passing.received is not None:
                names = ", ".join(job.name for job in group)
                print(f"{passing.received.name} in the stage {names}: the same command goes on there")
                return status
            if status:
                return status
    return 0


def has_finished(job: Job) -> bool:
    """Whether this stage is done.

    Raises:
        ConfigurationError: it is, with other settings.
    """
    if not job.done.is_file():
        return False
    if json.loads(job.done.read_text(encoding="utf-8"))["settings_sha256"] == job.sha256:
        return True
    raise ConfigurationError(
        f"the stage {job.name!r} has finished in this output folder with other settings (its own, or of one before it)",
        allowed="the settings it finished with",
        advice=f"Use another output, or delete {job.done.name} and the stage's folder, and those of the stages behind",
    )


def command_line(job: Job) -> list[str]:
    """What starts the stage."""
    launcher = [sys.executable]
    if job.processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(job.processes)]
    return [*launcher, "-m", MODULE, job.command, str(job.settings_file)]


def environment(job: Job, num_together: int) -> dict[str, str]:
    """What the stage finds set; what the caller has set stays."""
    threads = max(1, (os.cpu_count() or 1) // (job.processes * num_together))
    ours = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    if sys.platform == "linux":
        ours |= MALLOC
    return ours | os.environ


# --- reading ----------------------------------------------------------------------------------------------------------


def _checked(file: str, settings: dict[str, Any]) -> Staged:
    from training.__main__ import COMMANDS

    try:
        staged = Staged.model_validate(settings)
    except ValidationError as error:
        raise recipe.refusal(Staged, file, error) from None
    names = [stage.name for stage in staged.stages]
    if twice := {name for name in names if names.count(name) > 1} | ({"seed", "output"} & {*names}):
        raise ConfigurationError(
            f"{file} has a stage {min(twice)!r} twice, or of that reserved name",
            allowed="each name once, not seed or output",
            advice="Rename it",
        )
    for stage in staged.stages:
        _known(stage.command, list(COMMANDS), "command")
        if isinstance(stage.processes, int) and stage.processes < 1:
            raise ConfigurationError(
                f"{file}: processes of {stage.name!r} is {stage.processes}",
                allowed="1 or more, or cores",
                advice="Correct it",
            )
    return staged


def _override(settings: dict[str, Any], override: str) -> None:
    key, _, rest = override.partition(".")
    name, found, _ = key.partition("=")
    if found or "=" not in rest:
        _known(name, ["seed", "output"], "setting of a staged recipe")
        recipe.apply(settings, override)
        return
    stages = {stage["name"]: stage for stage in settings["stages"]}
    _known(key, list(stages), "stage")
    recipe.apply(stages[key].setdefault("settings", {}), rest)


def _known(name: str, known: list[str], kind: str) -> None:
    if name in known:
        return
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    raise ConfigurationError(
        f"there is no {kind} {name!r}", allowed=", ".join(known), advice=f"Did you mean {nearest!r}"
    )


def _job(staged: Staged, stage: Stage, before: str) -> Job:
    filled = {
        "name": f"{staged.name}-{stage.name}",
        "summary": staged.summary,
        "output": f"{{output}}/{stage.name}",
        "seed": staged.seed,
    }
    settings = _with_output(filled | stage.settings, staged.output)
    deciding = {key: value for key, value in settings.items() if key not in _NOT_RESULTS}
    decided = json.dumps([stage.command, deciding, before], sort_keys=True, default=str)
    return Job(
        name=stage.name,
        command=stage.command,
        together=stage.together,
        processes=min(os.cpu_count() or 1, MOST_PROCESSES) if stage.processes == "cores" else stage.processes,
        settings=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        sha256=hashlib.sha256(decided.encode()).hexdigest(),
        folder=Path(staged.output),
    )


def _with_output(value: Any, output: str) -> Any:
    if isinstance(value, str):
        return value.replace("{output}", output)
    if isinstance(value, dict):
        return {key: _with_output(item, output) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_output(item, output) for item in value]
    return value


def _groups(stages: Sequence[Any]) -> Iterator[list[Any]]:
    """Neighbours that run side by side; most stages stand alone."""
    for _, group in itertools.groupby(stages, key=lambda stage: (stage.together, stage.together or stage.name)):
        yield list(group)


def _chosen(made: Sequence[Job], only: str | None, until: str | None) -> list[Job]:
    names = [job.name for job in made]
    for name in filter(None, (only, until)):
        _known(name, names, "stage")
    last = names.index(until) + 1 if until else len(names)
    return [job for job in made[:last] if only in (None, job.name)]


# --- running ----------------------------------------------------------------------------------------------------------


class _Child:
    """A stage's process, whose output goes to the console and to the stage's log."""

    def __init__(self, job: Job, num_together: int) -> None:
        self.job = job
        self.was_stopped = False
        self._prefix = f"{job.name}: " if num_together > 1 else ""
        job.folder.mkdir(parents=True, exist_ok=True)
        job.settings_file.write_text(job.settings, encoding="utf-8")
        self._start, self._clock = _now(), time.monotonic()
        # Ctrl-C is for us alone: we then ask the stage to save. torchrun listens to it whatever we do, unless it is in
        # a session of its own.
        with _ignored(signal.SIGINT):
            self._process = subprocess.Popen(
                command_line(job),
                env=environment(job, num_together),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=job.processes > 1,
            )
        self._reader = threading.Thread(target=self._copy_output, daemon=True)
        self._reader.start()

    def stop(self) -> None:
        """Ask the stage to save and end. torchrun would give its workers 30 s only, so they are told directly."""
        self.was_stopped = True
        if self._process.poll() is not None:
            return
        if self.job.processes > 1:
            subprocess.run(["pkill", "-USR1", "-P", str(self._process.pid)], check=False)
        else:
            self._process.terminate()

    def poll(self) -> int | None:
        """The exit status; None while it runs. A stage that was asked to end may do so by the signal."""
        status = self._process.poll()
        if status is None:
            return None
        if self.was_stopped and (status < 0 or self.job.processes > 1):
            return 0
        return 128 - status if status < 0 else status

    def finish(self, status: int) -> None:
        """Write down how it ended."""
        self._reader.join()
        start = Start(
            stage=self.job.name,
            settings_sha256=self.job.sha256,
            start=self._start,
            end=_now(),
            seconds=round(time.monotonic() - self._clock, 1),
            status=status,
            is_finished=status == 0 and not self.was_stopped,
        )
        with (self.job.folder / "starts.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(start)) + "\n")
        if start.is_finished:
            _write_done(self.job, start)
        elif status:
            print(f"stage {self.job.name}: failed with exit status {status}, see {self.job.log}", file=sys.stderr)

    def _copy_output(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout, self.job.log.open("a", encoding="utf-8") as log:
            for line in self._process.stdout:
                log.write(line)
                log.flush()
                sys.stdout.write(self._prefix + line)
                sys.stdout.flush()


class _SignalsPassedOn:
    """While entered, a signal to us asks every stage that runs to save and end."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.children: list[_Child] = []

    def __enter__(self) -> _SignalsPassedOn:
        self._before = {number: signal.signal(number, self._pass_on) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, _: object) -> None:
        self.received = signal.Signals(number)
        for child in self.children:
            child.stop()


def _run_group(group: Sequence[Job], passing: _SignalsPassedOn) -> int:
    """Run these stages side by side; the first exit status that is not 0. When one fails the others save and end."""
    failure = 0
    passing.children = []
    for job in group:
        if passing.received is None:
            print(f"stage {job.name}: {job.command} {job.settings_file}", flush=True)
            passing.children.append(_Child(job, len(group)))
    running = list(passing.children)
    if passing.received is not None:  # it came while a stage was being started
        for child in running:
            child.stop()
    while running:
        time.sleep(0.05)
        for child in list(running):
            status = child.poll()
            if status is None:
                continue
            running.remove(child)
            child.finish(status)
            if status and not failure:
                failure = status
                for other in running:
                    other.stop()
    return failure


@contextlib.contextmanager
def _ignored(number: signal.Signals) -> Iterator[None]:
    """What is started inside ignores this signal."""
    handler = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, handler)


def _write_done(job: Job, last: Start) -> None:
    lines = (job.folder / "starts.jsonl").read_text(encoding="utf-8").splitlines()
    starts = [Start(**json.loads(line)) for line in lines]
    ours = [start for start in starts if (start.stage, start.settings_sha256) == (job.name, job.sha256)]
    facts = {
        "stage": job.name,
        "command": job.command,
        "processes": job.processes,
        "settings_sha256": job.sha256,
        "seconds": round(sum(start.seconds for start in ours), 1),  # of all starts
        "num_starts": len(ours),
        "start": ours[0].start,
        "end": last.end,
        "hardware": hardware(),
        "git_commit": _git_commit(),
    }
    partial = job.done.with_suffix(".partial")
    partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    partial.replace(job.done)
    print(f"stage {job.name}: finished, {facts['seconds']} s")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def hardware() -> str:
    """Processor and cores; nothing that names the machine."""
    model = platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores"


def _git_commit() -> str | None:
    """Of our own code; None where it was installed without git."""
    here = Path(__file__).parent
    try:
        asked = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return asked.stdout.strip() or None
