"""What a run says of itself: a line on the console, ``metrics.jsonl`` always, other places on request.

``metrics.jsonl`` has one object per line: ``{"event": "step", ...}`` for every optimiser step, and whatever else
happens (``start``, ``validation``, ``interrupted``). After a crash a step may stand there twice; the later one counts,
see :func:`read_steps`.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from favor.errors import MissingDependencyError
from training.flops import peak_flops
from training.recipe import Logging

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class StepMetrics:
    """One optimiser step; counts are sums over all processes.

    Args:
        step: done, from 1.
        loss: language_loss + weight x diversity_loss. diversity_loss: unweighted.
        grad_norm: before clipping.
        av_seconds: of picture and sound. num_tokens: LLM tokens, padding included; num_target_tokens: learnt from.
        seconds: of wall time; data_wait_s of them were spent waiting for data.
        flops: model FLOPs (``training.flops``). peak_memory_bytes: the most that this process has held.
    """

    step: int
    loss: float
    language_loss: float
    diversity_loss: float
    learning_rate: float
    grad_norm: float
    num_samples: int
    av_seconds: float
    num_tokens: int
    num_target_tokens: int
    seconds: float
    data_wait_s: float
    flops: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Rates:
    """Some steps together.

    Args:
        mfu: share in [0, 1] of the 16-bit peak of all GPUs; None on a CPU or a GPU whose peak is not known.
        wait_share: share of the time spent waiting for data.
    """

    samples_per_s: float
    av_seconds_per_s: float
    tokens_per_s: float
    target_tokens_per_s: float
    flops_per_s: float
    mfu: float | None
    wait_share: float
    seconds_per_step: float

    @classmethod
    def of(cls, steps: Sequence[StepMetrics], *, peak: float | None) -> Rates:
        """``peak``: FLOPs per second of all processes' GPUs together."""
        seconds = max(sum(step.seconds for step in steps), 1e-9)
        flops = sum(step.flops for step in steps) / seconds
        return cls(
            samples_per_s=sum(step.num_samples for step in steps) / seconds,
            av_seconds_per_s=sum(step.av_seconds for step in steps) / seconds,
            tokens_per_s=sum(step.num_tokens for step in steps) / seconds,
            target_tokens_per_s=sum(step.num_target_tokens for step in steps) / seconds,
            flops_per_s=flops,
            mfu=None if peak is None else flops / peak,
            wait_share=sum(step.data_wait_s for step in steps) / seconds,
            seconds_per_step=seconds / len(steps),
        )


class Board(Protocol):
    """Where else numbers go."""

    def write(self, values: dict[str, float], *, step: int) -> None: ...

    def close(self) -> None: ...


class RunLog:
    """The log of one run; processes other than the main one say nothing.

    Args:
        folder: of the run.
        total_steps: of the run, for the time left.

    Raises:
        MissingDependencyError: a board that was asked for by name is not installed.
    """

    def __init__(self, folder: Path, options: Logging, *, total_steps: int, is_main: bool) -> None:
        self.options = options
        self.total_steps = total_steps
        self.is_main = is_main
        self._recent: list[StepMetrics] = []
        self._peak = _peak_of_all()
        self._boards: list[Board] = []
        if is_main:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / METRICS).open("a", encoding="utf-8")
            self._boards = _boards(folder, options)
            self.event("start", total_steps=total_steps, time=time.time(), torch=torch.__version__)

    def step(self, metrics: StepMetrics) -> None:
        """Every step goes to the file, every ``every_steps``-th (and the last) with all since to console and boards."""
        if not self.is_main:
            return
        self._write({"event": "step", **asdict(metrics)})
        self._recent.append(metrics)
        if metrics.step % self.options.every_steps == 0 or metrics.step == self.total_steps:
            rates = Rates.of(self._recent, peak=self._peak)
            print(console_line(self._recent, rates, total_steps=self.total_steps), flush=True)
            self._show(board_values(self._recent, rates), step=metrics.step)
            self._recent = []

    def event(self, name: str, **fields: Any) -> None:
        """Something else that happened; a ``step`` among the fields puts its numbers on the boards."""
        if not self.is_main:
            return
        self._write({"event": name, **fields})
        if name == "start":
            return
        told = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in fields.items()
        )
        print(f"{name}: {told}" if told else name, flush=True)
        numbers = {f"{name}/{key}": float(value) for key, value in fields.items() if isinstance(value, int | float)}
        if "step" in fields:
            self._show(numbers, step=int(fields["step"]))

    def close(self) -> None:
        """Flush and close everything; a second call does nothing."""
        if not self.is_main or self._file.closed:
            return
        self._file.close()
        for board in self._boards:
            board.close()

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps({key: _json_ready(value) for key, value in record.items()}, allow_nan=False) + "\n")
        self._file.flush()

    def _show(self, values: dict[str, float], *, step: int) -> None:
        for board in self._boards:
            board.write(values, step=step)


def console_line(steps: Sequence[StepMetrics], rates: Rates, *, total_steps: int) -> str:
    """One line on some steps: means of the losses, rates over their time, the last learning rate."""
    last = steps[-1]
    left_s = (total_steps - last.step) * rates.seconds_per_step
    work = f"{rates.flops_per_s / 1e12:.3g} TFLOP/s" if rates.mfu is None else f"MFU {rates.mfu:.1%}"
    return "  ".join(
        (
            f"step {last.step}/{total_steps}",
            f"loss {_mean(steps, 'loss'):.4f} (language {_mean(steps, 'language_loss'):.4f},"
            f" diversity {_mean(steps, 'diversity_loss'):.3f})",
            f"lr {last.learning_rate:.2e}",
            f"norm {_mean(steps, 'grad_norm'):.2f}",
            f"{rates.samples_per_s:.3g} samples/s",
            f"{rates.av_seconds_per_s:.3g} av s/s",
            f"{rates.tokens_per_s:,.0f} tokens/s",
            work,
            f"data wait {rates.wait_share:.0%}",
            f"peak {last.peak_memory_bytes / 2**30:.1f} GiB",
            f"{clock(left_s)} left",
        )
    )


def board_values(steps: Sequence[StepMetrics], rates: Rates) -> dict[str, float]:
    """The same as numbers by name."""
    last = steps[-1]
    means = {f"loss/{name}": _mean(steps, key) for name, key in _LOSSES.items()}
    speed = {f"speed/{name}": value for name, value in asdict(rates).items() if value is not None}
    rest = {"learning_rate": last.learning_rate, "grad_norm": _mean(steps, "grad_norm")}
    return {**means, **speed, **rest, "memory/peak_gib": last.peak_memory_bytes / 2**30}


def read_steps(folder: Path) -> dict[int, dict[str, Any]]:
    """The steps of a run's ``metrics.jsonl`` by number; of a step that was done twice, the later."""
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:  # the line that a crash cut off
            continue
    return {record["step"]: record for record in records if record.get("event") == "step"}


def clock(seconds: float) -> str:
    """1:02:03, or 2 d 3:04:05."""
    days, rest = divmod(round(seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    text = f"{hours}:{rest // 60:02}:{rest % 60:02}"
    return f"{days} d {text}" if days else text


_LOSSES = {"total": "loss", "language": "language_loss", "diversity": "diversity_loss"}


def _mean(steps: Sequence[StepMetrics], name: str) -> float:
    return sum(getattr(step, name) for step in steps) / len(steps)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _json_ready(value: Any) -> Any:
    """JSON has no nan: a loss that is none is told in words."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _peak_of_all() -> float | None:
    if not torch.cuda.is_available():
        return None
    peak = peak_flops(torch.cuda.get_device_name())
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    return None if peak is None else peak * world_size


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, values: dict[str, float], *, step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Tracker:
    """Weights & Biases or trackio, which has the same calls."""

    def __init__(self, package: str, project: str, folder: Path) -> None:
        try:
            self._package: Any = __import__(package)
        except ImportError as error:
            raise MissingDependencyError(
                f"logging.{package}_project is {project!r} and {package} is not installed",
                allowed=f"an installed {package}, or null",
                advice=f"Install {package}, or set logging.{package}_project=null",
            ) from error
        self._package.init(project=project, name=folder.name)

    def write(self, values: dict[str, float], *, step: int) -> None:
        self._package.log(values, step=step)

    def close(self) -> None:
        self._package.finish()


def _boards(folder: Path, options: Logging) -> list[Board]:
    boards: list[Board] = []
    if options.tensorboard:
        try:
            boards.append(_TensorBoard(folder))
        except ImportError:  # on by default, so only a remark
            print(
                "note: no TensorBoard, the package tensorboard is not installed; metrics.jsonl has everything. "
                "Install it, or set logging.tensorboard=false.",
                file=sys.stderr,
            )
    if options.wandb_project is not None:
        boards.append(_Tracker("wandb", options.wandb_project, folder))
    if options.trackio_project is not None:
        boards.append(_Tracker("trackio", options.trackio_project, folder))
    return boards
