"""The data half of training: this rank's micro-batches, step after step, and where the stream stands.

Every optimiser step takes ``world_size * accumulation * micro_batch`` samples. In a step's order the n-th forward pass
of rank r takes the slice ``n * world_size + r``: ranks take disjoint parts, with length grouping neighbours in length.
The samples of a step do not depend on how many ranks share them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from favor.errors import ConfigurationError
from favor.processor import FavorProcessor
from training import recipe
from training.data.batches import EMPTY, BatchReader, TrainingBatch, strict
from training.data.drops import Tally
from training.data.manifest import ManifestError
from training.data.mixing import Mixer
from training.data.sampler import Pick, Sampler
from training.data.sources import Source, fingerprint, open_sources
from training.data.workers import Workers

CHARACTERS_PER_TOKEN = 4
"""About, for English; only lengths for grouping are reckoned with it."""

_STATE_VERSION = 1


class Stream(Protocol):
    """Training batches of one rank, without end."""

    @property
    def epoch(self) -> int: ...

    @property
    def steps_per_epoch(self) -> int: ...

    def next_step(self) -> list[TrainingBatch]:
        """This rank's micro-batches of the next optimiser step."""
        ...

    def state(self) -> dict[str, Any]:
        """Where the stream stands, JSON-ready."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state`` was taken."""
        ...

    def close(self) -> None: ...


class BatchStream:
    """Training batches of one rank, without end.

    Args:
        data: the recipe's section; ``data.train`` is read.
        processor: left as it is; a copy with ``data.max_seconds`` is used.
        seed: of the order and of mixed-modality sampling.
        rank, world_size: this process among all.
        micro_batch: samples of one forward pass of one rank.
        accumulation: forward passes of one step.
        features: encoder features on disk, handed on to the processor.

    Raises:
        ManifestError: a data file is missing or empty.
        ConfigurationError: mixed-modality sampling is asked for and the data have nothing to mix in.
    """

    def __init__(
        self,
        data: recipe.Data,
        processor: FavorProcessor,
        *,
        seed: int,
        rank: int,
        world_size: int,
        micro_batch: int,
        accumulation: int,
        features: Any = None,
    ) -> None:
        assert 0 <= rank < world_size, (rank, world_size)
        self._sources = open_sources(data.train)
        self._fingerprint = fingerprint(self._sources, data.mixing.model_dump(), data.group_by_length)
        self._rank, self._world_size = rank, world_size
        self._micro_batch, self._accumulation = micro_batch, accumulation
        self._num_workers = data.workers
        self._sampler = Sampler(
            [len(source) for source in self._sources],
            [source.weight for source in self._sources],
            seed=seed,
            samples_per_step=world_size * accumulation * micro_batch,
            length_of=_LengthOf(self._sources, processor) if data.group_by_length else None,
        )
        self._reader = BatchReader(
            self._sources,
            strict(processor, max_seconds=data.max_seconds),
            features,
            change=Mixer(data.mixing, self._sources, seed=seed),
        )
        self._tally = Tally(data.max_bad_share)
        self._epoch = self._position = 0
        self._batches: Workers[list[Pick], TrainingBatch] | None = None

    @property
    def epoch(self) -> int:
        """Epoch of the next step, from 0."""
        return self._epoch

    @property
    def steps_per_epoch(self) -> int:
        return self._sampler.steps_per_epoch

    def next_step(self) -> list[TrainingBatch]:
        """This rank's ``accumulation`` micro-batches of the next optimiser step.

        Raises:
            TooManyBadSamplesError: more bad samples than ``data.max_bad_share``.
        """
        if self._batches is None:
            self._batches = Workers(self._reader, self._jobs(), number=self._num_workers)
        batches = [next(self._batches) for _ in range(self._accumulation)]
        self._epoch, self._position = self._sampler.after(self._epoch, self._position)
        self._tally.add(batches)
        return batches

    def state(self) -> dict[str, Any]:
        """Where the stream stands, JSON-ready. The order is the same on all ranks; the counts are this rank's."""
        return {
            "version": _STATE_VERSION,
            "seed": self._sampler.seed,
            "epoch": self._epoch,
            "position": self._position,
            "samples_per_step": self._sampler.samples_per_step,
            "data": self._fingerprint,
            **self._tally.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state`` was taken, with any number of workers, and of ranks as long as a step has as
        many samples.

        Raises:
            ConfigurationError: the state is of other data, another seed, or steps of another size.
        """
        refuse_other_stream(state, self.state())
        self._stop()
        self._epoch, self._position = int(state["epoch"]), int(state["position"])
        self._tally.load_state(state)

    def close(self) -> None:
        """End the workers and close the files. Closing twice is harmless."""
        self._stop()
        for source in self._sources:
            source.close()

    def _stop(self) -> None:
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def _jobs(self) -> Iterator[list[Pick]]:
        for picks in self._sampler.steps(self._epoch, self._position):
            for number in range(self._accumulation):
                start = (number * self._world_size + self._rank) * self._micro_batch
                yield picks[start : start + self._micro_batch]


def validation_batches(
    data: recipe.Data,
    processor: FavorProcessor,
    *,
    rank: int,
    world_size: int,
    micro_batch: int,
    features: Any = None,
) -> Iterator[TrainingBatch]:
    """One pass over ``data.val`` in order: every sample once on one rank, unweighted and unmixed.

    Rank r takes every ``world_size``-th batch. All ranks get equally many: the last of a rank may be empty
    (``inputs`` is None), so that collective operations stay in step.

    Raises:
        TooManyBadSamplesError, ManifestError: as :class:`BatchStream`.
    """
    assert 0 <= rank < world_size, (rank, world_size)
    sources = open_sources(data.val)
    picks = [Pick(place, record, 0, 0) for place, source in enumerate(sources) for record in range(len(source))]
    jobs = [picks[start : start + micro_batch] for start in range(0, len(picks), micro_batch)]
    mine = jobs[rank::world_size]
    reader = BatchReader(sources, strict(processor, max_seconds=data.max_seconds), features)
    tally = Tally(data.max_bad_share)
    batches = Workers(reader, mine, number=min(data.workers, len(mine)))
    try:
        for batch in batches:
            tally.add([batch])
            yield batch
        if len(mine) < -(-len(jobs) // world_size):
            yield EMPTY
    finally:
        batches.close()
        for source in sources:
            source.close()


def refuse_other_stream(state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """A position means something only in the stream that it was taken from.

    Raises:
        ConfigurationError: the state is of other data, another seed, or steps of another size.
    """
    for name, what, advice in (
        ("version", "another version of the stream", "Start anew"),
        ("data", "other data, weights, mixing or grouping", "Resume with the data that the run began with"),
        ("seed", "another seed", "Resume with the seed that the run began with"),
        ("samples_per_step", "steps of another size", "Keep ranks x accumulation x micro_batch as it was"),
    ):
        if state.get(name) != mine[name]:
            raise ConfigurationError(
                f"the saved position is of {what} ({name} {state.get(name)!r})",
                allowed=f"{name} {mine[name]!r}",
                advice=advice,
            )


class _LengthOf:
    """About how many tokens a pick takes: soft tokens of its stated seconds, and its text. Bad lines take none."""

    def __init__(self, sources: list[Source], processor: FavorProcessor) -> None:
        self._sources = sources
        self._tokens_per_step = processor.num_query_tokens / processor.window_steps

    def __call__(self, pick: Pick) -> float:
        try:
            sample = self._sources[pick.source].read(pick.record)
        except ManifestError:
            return 0.0
        return 2 * sample.seconds * self._tokens_per_step + sample.num_characters / CHARACTERS_PER_TOKEN
