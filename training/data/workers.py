"""Jobs done in worker processes, results in order, a bounded number of them ahead."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from favor.errors import FavorError

Job = TypeVar("Job")
Result = TypeVar("Result")

AHEAD = 2
"""Jobs that each worker may have finished or begun before they are asked for."""

TIMEOUT_S = 600
"""Seconds that one result may take: a worker stuck in a decoder is an error, not a run that stands still."""


class Workers(Generic[Job, Result]):
    """Iterates over the results of ``work`` on ``jobs``, in order; equal for any number of workers.

    Args:
        work: runs in the workers, which are forks of this process: it needs no pickling, and must not touch a GPU.
        jobs: may be endless; taken only as far as needed.
        number: of processes; 0 works here.

    An exception in a worker is raised here with the worker's traceback in its text.
    """

    def __init__(self, work: Callable[[Job], Result], jobs: Iterable[Job], *, number: int) -> None:
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._results: Iterator[Result] | None = None
        if number == 0:
            self._results = map(work, jobs)
            return
        before = set(multiprocessing.active_children())
        loader = DataLoader(
            _Work(work),
            batch_size=None,
            sampler=jobs,
            num_workers=number,
            collate_fn=_as_it_is,
            prefetch_factor=AHEAD,
            timeout=TIMEOUT_S,
            multiprocessing_context="fork",
            worker_init_fn=_ignore_signals,
            generator=torch.Generator(),  # the loader draws a seed, and the global generator belongs to training
        )
        with _untouched_garbage():
            self._results = iter(loader)
        self._processes = [process for process in multiprocessing.active_children() if process not in before]
        atexit.register(self.close)

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        assert self._results is not None, "the workers are closed"
        result = next(self._results)
        if isinstance(result, FavorError):
            raise result
        return result

    def close(self) -> None:
        """End the processes. Closing twice is harmless."""
        atexit.unregister(self.close)
        self._results = None  # the loader's iterator ends its workers when nobody holds it
        for process in self._processes:
            if process.is_alive():  # stuck in a decoder
                process.kill()
            process.join()
        self._processes = []


class _Work(Dataset[Any], Generic[Job, Result]):
    """A function as the data set that a loader wants."""

    def __init__(self, work: Callable[[Job], Result]) -> None:
        self._work = work

    def __getitem__(self, job: Job) -> Result | FavorError:
        try:
            return self._work(job)
        except FavorError as error:  # the loader would turn it into a RuntimeError
            return error


@contextmanager
def _untouched_garbage() -> Iterator[None]:
    """Processes forked inside never collect this process's objects.

    A video frame may hold FFmpeg's threads, a tensor GPU memory. Neither is in the fork: freeing one there hangs it.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _as_it_is(result: Result) -> Result:
    return result


def _ignore_signals(_: int) -> None:
    """Schedulers signal the whole process group; whether to stop is decided by training, which then closes us."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
