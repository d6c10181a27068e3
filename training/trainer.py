"""The training loop, readable in one sitting.

A step: batches from the stream, frozen encoders, sums over all processes, forward and backward of every micro-batch,
one update, one line in the log. Everything that decides a step is in the checkpoint, so a resumed run goes on exactly.
"""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from favor.configuration import FavorConfig
from favor.errors import ConfigurationError
from favor.feature_cache import FeatureCache
from favor.processor import FavorProcessor
from training import engine as engines
from training import parts
from training.base_model import DTYPES, base_model, use_fastest_attention
from training.checkpoints import (
    Checkpoints,
    RunState,
    base_hashes,
    load_parts,
    read_state,
    refuse_other_base,
    restore_random_state,
)
from training.data import BatchStream, TrainingBatch, validation_batches
from training.data.stream import Stream
from training.engine import Engine, Ranks
from training.engine.base import LossScale
from training.flops import flops_of_batch
from training.logs import RunLog, StepMetrics
from training.recipe import Parts, Recipe, save
from training.schedule import learning_rate_share
from training.trained import FrozenEncoders, TrainedModel, as_inputs
from training.world.stream import WorldData, refuse_other_encoders


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the last step done, whether a signal ended it early, and the last validation loss."""

    step: int
    is_interrupted: bool
    validation_loss: float | None


def run(recipe: Recipe, *, is_resuming: bool) -> Outcome:
    """Train as the recipe says; with ``is_resuming`` go on from the newest checkpoint, if there is one.

    Raises:
        FavorError: the recipe, the data or the checkpoint cannot be used.
    """
    ranks = Ranks.join()
    folder = Path(recipe.output)
    torch.manual_seed(recipe.seed + ranks.rank)
    model, processor = base_model(recipe)
    use_fastest_attention(model, device=ranks.device, precision=recipe.optimisation.precision)
    parts.apply(model, recipe.parts)
    if recipe.data.world is not None:
        refuse_learning_encoders(recipe.parts)
        refuse_other_encoders(recipe.data.world, model)
    checkpoints = Checkpoints(folder, keep_last=recipe.saving.keep_last, keep_best=recipe.saving.keep_best)
    if ranks.is_main:
        refuse_used_folder(checkpoints, is_resuming=is_resuming)
        folder.mkdir(parents=True, exist_ok=True)
        refuse_other_base(folder, base_hashes(model))
        save(recipe, folder / "recipe.yaml")
        parts.print_table(parts.sizes(model, recipe.parts))
    ranks.wait()
    start = checkpoints.latest() if is_resuming else None
    if start is not None:
        load_parts(start, model)
    config, features = model.config, None
    if recipe.data.cache is not None:
        refuse_mixing(recipe)
        features = FeatureCache.open(recipe.data.cache, model, processor, on_miss="fail")
    if recipe.engine.checkpoint_activations:
        model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        if model.adapter is not None:
            model.adapter.is_checkpointing = True
    encoders = FrozenEncoders(model, ranks.device)
    engine = engines.start(TrainedModel(model), recipe, ranks)
    trainer = Trainer(recipe, engine, encoders, processor, checkpoints, config, features)
    if start is not None:
        trainer.resume(start)
    return trainer.run()


class Trainer:
    """One run on one process."""

    def __init__(
        self,
        recipe: Recipe,
        engine: Engine,
        encoders: FrozenEncoders,
        processor: FavorProcessor,
        checkpoints: Checkpoints,
        config: FavorConfig,
        features: FeatureCache | None,
    ) -> None:
        self.recipe = recipe
        self.features = features
        self.engine = engine
        self.encoders = encoders
        self.processor = processor
        self.checkpoints = checkpoints
        self.config = config
        self.ranks = engine.ranks
        self.world = None
        if recipe.data.world is not None:
            self.world = WorldData(
                recipe.data.world,
                processor,
                config,
                rank=self.ranks.rank,
                world_size=self.ranks.world_size,
                micro_batch=recipe.optimisation.micro_batch,
                mask_dtype=DTYPES[recipe.optimisation.precision],
            )
        self.stream = self._open_stream()
        self.state = RunState(0, self.stream.state(), self.ranks.world_size, recipe.engine.name)
        self.is_asked_to_stop = False
        self.validation_loss: float | None = None

    def resume(self, checkpoint: Path) -> None:
        """Go on exactly where a checkpoint was written."""
        self.state = read_state(checkpoint)
        refuse_other_setup(self.state, self.recipe, self.ranks)
        self.engine.load_optimizer(checkpoint / "optimizer")
        self.stream.load_state(self.state.sampler)
        restore_random_state(checkpoint, self.ranks)

    def run(self) -> Outcome:
        """Every step that is left; a SIGTERM or SIGUSR1 on any process ends all of them behind a checkpoint."""
        options = self.recipe
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._ask_to_stop)
        log = RunLog(
            Path(options.output), options.logging, total_steps=options.optimisation.steps, is_main=self.ranks.is_main
        )
        try:
            while self.state.step < options.optimisation.steps:
                metrics = self.step()
                log.step(metrics)
                is_stopping = self.ranks.largest(self.is_asked_to_stop) > 0
                is_last = self.state.step == options.optimisation.steps
                if is_last or self.state.step % options.logging.validate_every_steps == 0:
                    self._validate(log)
                if is_last or is_stopping or self.state.step % options.saving.every_steps == 0:
                    self._save(metrics.loss)
                if is_stopping:
                    log.event("interrupted", step=self.state.step)
                    return Outcome(self.state.step, True, self.validation_loss)
            return Outcome(self.state.step, False, self.validation_loss)
        finally:
            self.stream.close()
            log.close()

    def step(self) -> StepMetrics:
        """One optimiser step."""
        began = time.perf_counter()
        batches = self.stream.next_step()
        waited = time.perf_counter() - began
        scale = self._scale(batches)
        share = learning_rate_share(self.state.step, self.recipe.optimisation)
        language = diversity = 0.0
        for place, batch in enumerate(batches):
            sums = self.engine.backward(self._encoded(batch), scale, is_last=place == len(batches) - 1)
            language += float(sums.language.detach()) * scale.per_token
            diversity += float(sums.diversity.detach()) * scale.per_window
        norm = self.engine.step(share)
        totals = self.ranks.total(
            language,
            diversity,
            sum(len(batch.keys) for batch in batches),
            sum(batch.av_seconds for batch in batches),
            sum(0 if batch.inputs is None else batch.inputs["input_ids"].numel() for batch in batches),
            sum(batch.num_target_tokens for batch in batches),
            sum(flops_of_batch(self.config, self.recipe.parts, batch) for batch in batches),
        )
        self.state = replace(
            self.state,
            step=self.state.step + 1,
            sampler=self.stream.state(),
            num_tokens=self.state.num_tokens + int(totals[5]),
        )
        weight = self.config.connector_config.diversity_weight
        return StepMetrics(
            step=self.state.step,
            loss=totals[0] + totals[1],
            language_loss=totals[0],
            diversity_loss=totals[1] / weight if weight else 0.0,
            learning_rate=share * self.recipe.optimisation.learning_rate,
            grad_norm=norm,
            num_samples=int(totals[2]),
            av_seconds=totals[3],
            num_tokens=int(totals[4]),
            num_target_tokens=int(totals[5]),
            seconds=time.perf_counter() - began,
            data_wait_s=waited,
            flops=totals[6],
            peak_memory_bytes=peak_memory_bytes(self.ranks.device),
        )

    def validate(self) -> float | None:
        """Mean loss per target token over the validation data; None without any."""
        batches = self._validation_batches()
        if batches is None:
            return None
        language = tokens = 0.0
        for batch in batches:
            sums = self.engine.evaluate(self._encoded(batch))
            language, tokens = language + float(sums.language), tokens + sums.num_tokens
        language, tokens = self.ranks.total(language, tokens)
        return language / max(tokens, 1)

    def _open_stream(self) -> Stream:
        options = self.recipe.optimisation
        if self.world is not None:
            return self.world.stream(seed=self.recipe.seed, accumulation=options.accumulation)
        return BatchStream(
            self.recipe.data,
            self.processor,
            seed=self.recipe.seed,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            micro_batch=options.micro_batch,
            accumulation=options.accumulation,
            features=self.features,
        )

    def _validation_batches(self) -> Iterator[TrainingBatch] | None:
        """None without validation data."""
        if self.world is not None:
            return self.world.validation_batches()
        if not self.recipe.data.val:
            return None
        return validation_batches(
            self.recipe.data,
            self.processor,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            micro_batch=self.recipe.optimisation.micro_batch,
            features=self.features,
        )

    def _scale(self, batches: Sequence[TrainingBatch]) -> LossScale:
        """Weights that make the step's loss a mean over all target tokens, and all windows, of all processes."""
        tokens, windows = self.ranks.total(
            sum(batch.num_target_tokens for batch in batches), sum(map(count_windows, batches))
        )
        weight = self.config.connector_config.diversity_weight
        return LossScale(per_token=1 / max(tokens, 1), per_window=weight / max(windows, 1))

    def _encoded(self, batch: TrainingBatch) -> dict[str, torch.Tensor]:
        end = self.processor.tokenizer.eos_token_id
        return self.encoders.encode(as_inputs(batch.inputs, end_token_id=end, device=self.ranks.device))

    def _validate(self, log: RunLog) -> None:
        self.validation_loss = self.validate()
        if self.validation_loss is not None:
            log.event("validation", step=self.state.step, loss=self.validation_loss)

    def _save(self, training_loss: float) -> None:
        loss = training_loss if self.validation_loss is None else self.validation_loss
        if self.state.best_loss is None or loss < self.state.best_loss:
            self.state = replace(self.state, best_loss=loss, best_step=self.state.step)
        self.checkpoints.save(self.engine, self.state)

    def _ask_to_stop(self, *_: object) -> None:
        self.is_asked_to_stop = True


def refuse_used_folder(checkpoints: Checkpoints, *, is_resuming: bool) -> None:
    """A run that does not resume must not mix its checkpoints with those of another.

    Raises:
        ConfigurationError: there are checkpoints and the run is to begin anew.
    """
    found = checkpoints.latest()
    if found is not None and not is_resuming:
        raise ConfigurationError(
            f"the output folder holds {found.name} and --resume is 'never'",
            allowed="an output folder without checkpoints, or --resume auto",
            advice="Choose another output, or delete the old run",
        )


def refuse_mixing(recipe: Recipe) -> None:
    """Mixed-modality sampling makes clips and questions that no cache holds.

    Raises:
        ConfigurationError: it is asked for together with a cache.
    """
    if any(recipe.data.mixing.model_dump().values()):
        raise ConfigurationError(
            "data.mixing makes new pairs of clips and data.cache is set",
            allowed="one of them",
            advice="Leave data.cache out, or set the shares of data.mixing to 0",
        )


def refuse_learning_encoders(modes: Parts) -> None:
    """Kept features are those of encoders that stay as they are.

    Raises:
        ConfigurationError: one of them is to learn.
    """
    if (modes.vision, modes.audio) != ("frozen", "frozen"):
        raise ConfigurationError(
            "data.world holds the encoders' features and an encoder is to learn",
            allowed="parts.vision=frozen and parts.audio=frozen",
            advice="Teach encoders with python -m training perceive, then encode again",
        )


def refuse_other_setup(state: RunState, recipe: Recipe, ranks: Ranks) -> None:
    """Optimiser files fit the engine and number of processes that wrote them.

    Raises:
        ConfigurationError: the run was saved by others.
    """
    if (state.engine, state.world_size) != (recipe.engine.name, ranks.world_size):
        raise ConfigurationError(
            f"the checkpoint was written by {state.engine} on {state.world_size} processes, "
            f"this is {recipe.engine.name} on {ranks.world_size}",
            allowed="the same engine and number of processes",
            advice="Resume as it was started, or start a new run from an export of it",
        )


def count_windows(batch: TrainingBatch) -> int:
    """Windows of all clips of a batch."""
    if batch.inputs is None:
        return 0
    return sum(receipt.num_windows for chat in batch.inputs.receipts for receipt in chat)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory this process has held: on its GPU, or in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
