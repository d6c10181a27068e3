"""Batches of the generated world: clips' features from shards, questions asked anew at every visit.

Everything is a function of (seed, epoch, clip): a resumed run, or one on other ranks, asks the very same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from favor.clips import ClipReceipt
from favor.configuration import FavorConfig
from favor.media.clip import Receipt
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorInputs, FavorProcessor
from favor.prompt import EncodedPrompt
from favor.sync import STEP_S, ClipSteps, num_windows
from training import recipe
from training.data.batches import EMPTY, TrainingBatch, num_targets
from training.data.sampler import Pick, Sampler
from training.data.stream import refuse_other_stream
from training.world import questions
from training.world.packing import Block, QuestionEncoder, collate, pack, shared_rows
from training.world.question import Question
from training.world.shards import ClipFeatures, Shards, StreamName, media_inputs

MIN_QUESTIONS = 2
"""A stream is left out only where so many questions remain."""

NUM_OUTSIDE = 4
"""Questions of a row from outside the world."""

OUTSIDE_BESIDE_CLIP = 0.5
"""Times ``outside_share``: the share of clips that are asked such a question too, which they cannot help to answer."""

DETAILED_SHARE = 0.5
"""Of the timelines: each event with its second, its size and its place."""

_STATE_VERSION = 1
_VALIDATION_EPOCH = -1
_SOURCE = "world"


def refuse_other_encoders(world: recipe.World, model: FavorForConditionalGeneration) -> None:
    """All features must be those of the model's own encoders.

    Raises:
        ConfigurationError: a folder was made by others.
    """
    for folder in filter(None, (world.features, world.val)):
        Shards(folder).refuse_other_encoders(model)


class WorldData:
    """One rank's view of the world, to learn from and to validate with.

    Args:
        world: the recipe's section. config: of the model.
        rank, world_size: this process among all. micro_batch: clips of one forward pass of one rank.
        mask_dtype: in which attention runs.
    """

    def __init__(
        self,
        world: recipe.World,
        processor: FavorProcessor,
        config: FavorConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
        micro_batch: int,
        mask_dtype: torch.dtype = torch.float32,
    ) -> None:
        assert 0 <= rank < world_size, (rank, world_size)
        self.world = world
        self.rank, self.world_size, self.micro_batch = rank, world_size, micro_batch
        self._layout = _Layout(processor, config, mask_dtype)

    def stream(self, *, seed: int, accumulation: int = 1) -> WorldStream:
        """Training batches without end, of ``accumulation`` forward passes a step."""
        shards = Shards(self.world.features)
        return WorldStream(self, BatchMaker(self.world, shards, self._layout, seed), accumulation=accumulation)

    def validation_batches(self) -> Iterator[TrainingBatch] | None:
        """One pass over the validation clips, the same questions every time; None where there are none.

        Rank r takes every ``world_size``-th batch; all get equally many, the last may be empty.
        """
        if self.world.val is None:
            return None
        quiet = self.world.model_copy(update={"drop_sound": 0.0, "drop_picture": 0.0, "outside_share": 0.0})
        return self._pass_over(BatchMaker(quiet, Shards(self.world.val), self._layout, seed=0))

    def _pass_over(self, maker: BatchMaker) -> Iterator[TrainingBatch]:
        size = self.micro_batch
        picks = [Pick(0, number, _VALIDATION_EPOCH, place) for place, number in enumerate(maker.clips)]
        jobs = [picks[start : start + size] for start in range(0, len(picks), size)]
        mine = jobs[self.rank :: self.world_size]
        yield from map(maker, mine)
        if len(mine) < -(-len(jobs) // self.world_size):
            yield EMPTY


class WorldStream:
    """Training batches of one rank; the same door as :class:`training.data.BatchStream`."""

    def __init__(self, data: WorldData, maker: BatchMaker, *, accumulation: int) -> None:
        self._data, self._maker, self._accumulation = data, maker, accumulation
        self._sampler = Sampler(
            [len(maker.clips)],
            [1.0],
            seed=maker.seed,
            samples_per_step=data.world_size * accumulation * data.micro_batch,
        )
        self._epoch = self._position = 0

    @property
    def epoch(self) -> int:
        """Epoch of the next step, from 0."""
        return self._epoch

    @property
    def steps_per_epoch(self) -> int:
        return self._sampler.steps_per_epoch

    def next_step(self) -> list[TrainingBatch]:
        """This rank's micro-batches of the next optimiser step."""
        data, picks = self._data, self._sampler.step(self._epoch, self._position)
        numbers = range(data.rank, data.world_size * self._accumulation, data.world_size)
        size = data.micro_batch
        batches = [
            self._maker([self._maker.of_place(pick) for pick in picks[number * size : (number + 1) * size]])
            for number in numbers
        ]
        self._epoch, self._position = self._sampler.after(self._epoch, self._position)
        return batches

    def state(self) -> dict[str, Any]:
        """Where the stream stands, JSON-ready; the same on all ranks."""
        return {
            "version": _STATE_VERSION,
            "seed": self._sampler.seed,
            "epoch": self._epoch,
            "position": self._position,
            "samples_per_step": self._sampler.samples_per_step,
            "data": self._maker.fingerprint,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state`` was taken.

        Raises:
            ConfigurationError: the state is of other data, another seed, or steps of another size.
        """
        refuse_other_stream(state, self.state())
        self._epoch, self._position = int(state["epoch"]), int(state["position"])

    def close(self) -> None:
        """Nothing is open: files are mapped into memory."""


@dataclass(frozen=True)
class BatchMaker:
    """Makes batches of clips; ``seed`` decides what is asked."""

    world: recipe.World
    shards: Shards
    layout: _Layout
    seed: int

    @cached_property
    def clips(self) -> list[int]:
        """Numbers of the clips in use."""
        numbers = self.shards.of_kinds(self.world.kinds)
        if self.world.max_steps is not None:
            numbers = numbers[self.shards.num_steps[numbers] <= self.world.max_steps]
        return [int(number) for number in numbers]

    @property
    def fingerprint(self) -> str:
        """What the order and the questions depend on beside the seed."""
        settings = self.shards.recipe.model_dump(include={"seed", "split", "clips", "kinds"})
        return f"{settings} {self.world.model_dump(exclude={'features', 'val'})}"

    def of_place(self, pick: Pick) -> Pick:
        """The sampler counts clips in use; here its record becomes the clip's own number."""
        return Pick(pick.source, self.clips[pick.record], pick.epoch, pick.slot)

    def __call__(self, picks: Sequence[Pick]) -> TrainingBatch:
        visits = [visit for pick in picks if (visit := self._visit(pick)) is not None]
        first = picks[0]
        rng = random.Random(f"outside {self.seed} {first.epoch} {first.slot}")
        if rng.random() < self.world.outside_share:
            asked = [questions.outside(rng) for _ in range(NUM_OUTSIDE)]
            visits.append(_Visit(self.layout.block(asked, None), None, None))
        return self.layout.batch(visits) if visits else EMPTY

    def _visit(self, pick: Pick) -> _Visit | None:
        """The clip with its questions of this epoch; None where its tasks are not wanted."""
        rng = random.Random(f"{self.seed} {pick.epoch} {pick.record}")
        clip = self.shards.clip(pick.record)
        dropped = self._drawn_drop(clip, rng)
        asked, dropped = self._asked(pick.record, dropped, rng)
        if not asked:
            return None
        for stream in (dropped, self.world.without):
            clip = clip if stream is None else clip.without(stream)
        receipt = self.layout.receipt(clip)
        return _Visit(self.layout.block(asked, receipt.num_soft_tokens), clip, receipt)

    def _drawn_drop(self, clip: ClipFeatures, rng: random.Random) -> StreamName | None:
        draw = rng.random()
        if self.world.without is not None or not clip.num_frames or not clip.num_audio_steps:
            return None
        if draw < self.world.drop_sound:
            return "sound"
        return "picture" if draw < self.world.drop_sound + self.world.drop_picture else None

    def _asked(
        self, number: int, dropped: StreamName | None, rng: random.Random
    ) -> tuple[list[Question], StreamName | None]:
        """What is asked at a visit, and which stream it can do without."""
        world, scene = self.world, self.shards.scene(number)
        is_filtered = dropped is not None or world.tasks is not None
        found = questions.ask(scene, rng, world.questions_per_clip * (2 if is_filtered else 1))
        if world.tasks is not None:
            found = [question for question in found if question.task in world.tasks]
        has_timeline = rng.random() < world.timeline_share and (world.tasks is None or "timeline" in world.tasks)
        is_detailed = rng.random() < DETAILED_SHARE
        timeline = [questions.timeline(scene, rng, is_detailed=is_detailed)] if has_timeline else []
        answerable = [question for question in found if dropped not in question.needs]
        if dropped is not None and len(answerable) < MIN_QUESTIONS:
            answerable, dropped = found, None
        told = [question for question in timeline if dropped not in question.needs]
        if world.tasks is None and rng.random() < OUTSIDE_BESIDE_CLIP * world.outside_share:
            told.append(questions.outside(rng))
        return [*answerable[: world.questions_per_clip], *told], dropped


class _Visit(NamedTuple):
    block: Block
    clip: ClipFeatures | None
    receipt: ClipReceipt | None


class _Layout:
    """Lays out clips and questions as the model's inputs."""

    def __init__(self, processor: FavorProcessor, config: FavorConfig, mask_dtype: torch.dtype) -> None:
        self._encode = QuestionEncoder(processor)
        self._filler_id = processor.tokenizer.eos_token_id
        self._config, self._mask_dtype = config, mask_dtype

    def block(self, asked: Sequence[Question], num_soft_tokens: int | None) -> Block:
        prompts: list[EncodedPrompt] = [self._encode(question, num_soft_tokens) for question in asked]
        return pack(prompts, placeholder_token_id=self._encode.placeholder_token_id)

    def receipt(self, clip: ClipFeatures) -> ClipReceipt:
        """What the clip takes of the model's input, as the processor would say."""
        connector = self._config.connector_config
        steps = ClipSteps.of_clip(
            num_frames=clip.num_frames,
            num_audio_steps=clip.num_audio_steps,
            is_image=clip.is_image,
            length_rule=connector.length_rule,
            chunk_steps=self._config.audio_chunk_steps,
        ).length(connector.align)
        windows = num_windows(steps, connector.window_steps)
        seconds = STEP_S * (clip.num_audio_steps if clip.is_image else max(clip.num_frames, clip.num_audio_steps))
        return ClipReceipt(
            media=Receipt(str(clip.seed), seconds, None, None, ()),
            kind="image" if clip.is_image else "video" if clip.num_frames else "audio",
            num_steps=steps,
            num_windows=windows,
            num_soft_tokens=windows * connector.num_query_tokens,
        )

    def batch(self, visits: Sequence[_Visit]) -> TrainingBatch:
        """Clips stand in the order of their placeholders: row after row."""
        rows = [[visits[place] for place in row] for row in shared_rows([len(visit.block) for visit in visits])]
        visits = [visit for row in rows for visit in row]
        clips = [visit.clip for visit in visits if visit.clip is not None]
        blocks = [[visit.block for visit in row] for row in rows]
        data = collate(blocks, filler_id=self._filler_id, dtype=self._mask_dtype)
        inputs = FavorInputs(data | media_inputs(clips, chunk_steps=self._config.audio_chunk_steps) if clips else data)
        inputs.receipts = tuple(tuple(visit.receipt for visit in row if visit.receipt) for row in rows)
        return TrainingBatch(
            inputs,
            keys=tuple(str(visit.clip.seed) if visit.clip else "outside" for visit in visits),
            num_target_tokens=num_targets(inputs["labels"]),
            av_seconds=sum(visit.receipt.media.duration_s for visit in visits if visit.receipt),
            dropped=(),
            sources=(_SOURCE,) * len(visits),
        )
