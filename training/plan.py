"""``python -m training plan RECIPE``: memory, steps and time of a run, before any GPU is paid for.

Counted from the configuration alone, on the meta device: no weights are read and no GPU is used. Weights, gradients and
optimiser states are exact for the stated layout; activations are an estimate (within about a third), and the time is
FLOPs over peak at a utilisation that you state.

Layout: frozen encoders stand outside the engine, whole on every GPU. Inside, by ZeRO stage, what is split over GPUs:
optimiser states (1), gradients too (2), weights too, frozen ones included (3).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from functools import cache

import torch
from rich.console import Console
from rich.table import Table

from favor.configuration import FavorConfig
from favor.modeling import FavorForConditionalGeneration
from favor.sync import num_audio_chunks, num_steps, num_windows
from training import parts, recipe
from training.base_model import base_config
from training.flops import BatchShape, PartFlops, flops_by_part
from training.logs import clock
from training.recipe import Parts, Recipe

GIB = 2**30
RESERVED_BYTES = 3 * GIB
"""CUDA context, NCCL buffers, workspaces and fragmentation; a guess."""

ZERO3_LIVE_PARAMETERS = 500_000_000
"""Gathered at a time under ZeRO-3, as in engine/deepspeed/zero3.json, and prefetched as many again."""

_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
_ENCODER_ROWS = 16


@dataclass(frozen=True)
class Situation:
    """What a plan assumes.

    Args:
        num_gpus: in all nodes. gpu_memory_gb: of one, in GB (10^9 bytes) as sold.
        peak_tflops: dense 16-bit peak of one GPU. utilisation: share of it that is reached, recomputing included
            (without checkpoint_activations that is the MFU).
        clip_seconds: mean length of a clip with picture and sound; one per conversation.
        text_tokens: mean length of question and answer. question_tokens: as the image Q-Former reads it.
    """

    num_gpus: int = 8
    gpu_memory_gb: float = 80.0
    peak_tflops: float = 312.0
    utilisation: float = 0.35
    clip_seconds: float = 20.0
    text_tokens: int = 128
    question_tokens: int = 24


@dataclass(frozen=True)
class PartPlan:
    """One part: parameters, trained ones, and bytes of its weights on one GPU."""

    name: str
    mode: str
    num_parameters: int
    num_trained: int
    dtype: str
    weight_bytes: int


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, by what they are for; ``host_bytes`` is what is offloaded to the node, per GPU."""

    encoder_bytes: int
    weight_bytes: int
    gradient_bytes: int
    optimiser_bytes: int
    gathered_bytes: int
    activation_bytes: int
    reserved_bytes: int
    host_bytes: int

    @property
    def total_bytes(self) -> int:
        """On the GPU."""
        return sum(value for name, value in asdict(self).items() if name != "host_bytes")


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Args:
        shape: of one micro-batch. flops: of one micro-batch of one GPU, forward and backward.
        seconds_per_step, hours: at the stated utilisation, decoding not counted. does_fit: into the stated memory.
    """

    recipe: str
    situation: Situation
    parts: tuple[PartPlan, ...]
    memory: Memory
    shape: BatchShape
    flops: PartFlops
    samples_per_step: int
    steps: int
    flops_per_step: float
    seconds_per_step: float
    hours: float
    does_fit: bool
    advice: tuple[str, ...]


def plan(given: Recipe, situation: Situation) -> Plan:
    """Work it out."""
    config = base_config(given)
    rows, largest_layer = _parts(config, given)
    shape = batch_shape(config, given, situation)
    memory = _memory(config, given, situation, rows, shape, largest_layer)
    flops = flops_by_part(config, given.parts, shape)
    options = given.optimisation
    hardware = flops.model + (flops.recompute if given.engine.checkpoint_activations else 0.0)
    seconds = hardware * options.accumulation / (situation.peak_tflops * 1e12 * situation.utilisation)
    does_fit = memory.total_bytes <= situation.gpu_memory_gb * 1e9
    return Plan(
        recipe=given.name,
        situation=situation,
        parts=rows,
        memory=memory,
        shape=shape,
        flops=flops,
        samples_per_step=options.micro_batch * options.accumulation * situation.num_gpus,
        steps=options.steps,
        flops_per_step=flops.model * options.accumulation * situation.num_gpus,
        seconds_per_step=seconds,
        hours=seconds * options.steps / 3600,
        does_fit=does_fit,
        advice=() if does_fit else _advice(given, shape),
    )


def batch_shape(config: FavorConfig, given: Recipe, situation: Situation) -> BatchShape:
    """One micro-batch of conversations that are all as the situation says; encoders idle where features are cached."""
    seconds = min(situation.clip_seconds, given.data.max_seconds)
    steps, micro_batch = num_steps(seconds), given.optimisation.micro_batch
    chunks = num_audio_chunks(steps, config.audio_chunk_steps)
    connector = config.connector_config
    windows = num_windows(steps, connector.window_steps)
    runs_encoders = given.data.cache is None
    return BatchShape(
        num_frames=micro_batch * steps * runs_encoders,
        num_chunks=micro_batch * chunks * runs_encoders,
        num_audio_steps=micro_batch * chunks * config.audio_chunk_steps,
        num_windows=micro_batch * windows,
        num_question_tokens=situation.question_tokens,
        num_sequences=micro_batch,
        num_tokens=micro_batch * (windows * connector.num_query_tokens + situation.text_tokens),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = Situation()
    parser.add_argument("recipe", help=f"a YAML file, or one of {', '.join(recipe.names())}")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that differ, as section.key=value")
    parser.add_argument("--gpus", type=int, default=known.num_gpus, help="in all nodes (default: %(default)s)")
    parser.add_argument("--gpu-memory", type=float, default=known.gpu_memory_gb, help="GB of one (%(default)s)")
    parser.add_argument("--peak-tflops", type=float, default=known.peak_tflops, help="of one: A100 312, H100 989")
    parser.add_argument(
        "--mfu",
        type=float,
        default=known.utilisation,
        help="share of the peak reached, recomputing included (%(default)s)",
    )
    parser.add_argument("--clip-seconds", type=float, default=known.clip_seconds, help="mean (%(default)s)")
    parser.add_argument("--text-tokens", type=int, default=known.text_tokens, help="question and answer (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")


def run(options: argparse.Namespace) -> int:
    """Show the plan; 1 if the run does not fit."""
    situation = Situation(
        num_gpus=options.gpus,
        gpu_memory_gb=options.gpu_memory,
        peak_tflops=options.peak_tflops,
        utilisation=options.mfu,
        clip_seconds=options.clip_seconds,
        text_tokens=options.text_tokens,
    )
    made = plan(recipe.load(options.recipe, options.overrides), situation)
    if options.json:
        total = {"total_bytes": made.memory.total_bytes}
        print(json.dumps({**asdict(made), "memory": {**asdict(made.memory), **total}}))
    else:
        _print(made)
    return 0 if made.does_fit else 1


def _parts(config: FavorConfig, given: Recipe) -> tuple[tuple[PartPlan, ...], int]:
    """Every part, and the parameters of the language model's largest layer."""
    sizes, largest_layer = _sizes(config.to_json_string(use_diff=False), given.parts)
    unit = _BYTES[given.optimisation.precision]
    rows = []
    for size in sizes:
        is_outside = size.name in ("vision", "audio") and size.mode == "frozen"
        trained_unit = unit if given.engine.name == "deepspeed" else 4  # plain and DDP train in float32
        weight_bytes = (size.num_parameters - size.num_trained) * unit + size.num_trained * trained_unit
        units = {unit} if is_outside else {u for u, n in _by_unit(size, unit, trained_unit) if n}
        dtype = " and ".join(f"{8 * width} bit" for width in sorted(units))
        rows.append(PartPlan(size.name, size.mode, size.num_parameters, size.num_trained, dtype, weight_bytes))
    return tuple(rows), largest_layer


@cache
def _sizes(config_json: str, wanted: Parts) -> tuple[tuple[parts.PartSize, ...], int]:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = FavorForConditionalGeneration(FavorConfig.from_dict(json.loads(config_json)))
        parts.apply(model, wanted)
    layers = [sum(p.numel() for p in layer.parameters()) for layer in model.language_model.get_decoder().layers]
    return tuple(parts.sizes(model, wanted)), max(layers)


def _by_unit(size: parts.PartSize, unit: int, trained_unit: int) -> tuple[tuple[int, int], ...]:
    """Bytes of a parameter, and how many have them."""
    return (unit, size.num_parameters - size.num_trained), (trained_unit, size.num_trained)


def _memory(
    config: FavorConfig,
    given: Recipe,
    situation: Situation,
    rows: tuple[PartPlan, ...],
    shape: BatchShape,
    largest_layer: int,
) -> Memory:
    stage, is_offloaded, has_parameters_offloaded = _zero(given)
    gpus, unit = situation.num_gpus, _BYTES[given.optimisation.precision]
    outside = [row for row in rows if row.name in ("vision", "audio") and row.mode == "frozen"]
    inside = [row for row in rows if row not in outside]
    trained = sum(row.num_trained for row in inside)
    weights = sum(row.weight_bytes for row in inside) // (gpus if stage == 3 else 1)
    # float32: Adam's two moments, and the master weights where the trained weights themselves are shorter
    has_masters = given.engine.name == "deepspeed" and unit == 2
    optimiser = trained * (12 if has_masters else 8) // (gpus if stage >= 1 else 1)
    gradients = trained * (unit if given.engine.name == "deepspeed" else 4) // (gpus if stage >= 2 else 1)
    gathered = 2 * unit * max(ZERO3_LIVE_PARAMETERS, largest_layer) if stage == 3 else 0
    return Memory(
        encoder_bytes=sum(row.weight_bytes for row in outside),
        weight_bytes=0 if has_parameters_offloaded else weights,
        gradient_bytes=gradients,
        optimiser_bytes=0 if is_offloaded else optimiser,
        gathered_bytes=min(gathered, sum(row.weight_bytes for row in inside)),
        activation_bytes=_activations(config, given, shape),
        reserved_bytes=RESERVED_BYTES,
        host_bytes=(optimiser if is_offloaded else 0) + (weights if has_parameters_offloaded else 0),
    )


def _zero(given: Recipe) -> tuple[int, bool, bool]:
    """ZeRO stage, and whether optimiser states and weights live on the host."""
    if given.engine.name != "deepspeed":
        return 0, False, False
    name = given.engine.deepspeed
    stage = next((int(digit) for digit in name.rpartition("/")[2] if digit in "123"), 2)
    is_offloaded = "offload" in name
    return stage, is_offloaded, is_offloaded and stage == 3


def _activations(config: FavorConfig, given: Recipe, shape: BatchShape) -> int:
    """What autograd keeps of the language model and the connector, the logits, and the encoders' passing needs."""
    unit, text, connector = _BYTES[given.optimisation.precision], config.text_config, config.connector_config
    width, inner = text.hidden_size, text.intermediate_size
    # norms with their float32 copies, q k v o, LoRA's dropped inputs; gate, its activation, up and their product
    per_layer = shape.num_tokens * (16 * width * unit + 4 * inner * unit)
    if given.engine.checkpoint_activations:
        llm = per_layer + text.num_hidden_layers * shape.num_tokens * width * unit
    else:
        llm = per_layer * text.num_hidden_layers
    logits = shape.num_tokens * text.vocab_size * (unit + 8)  # and their float32 copy and its gradient
    window = connector.window_steps * connector.tokens_per_step
    joint = shape.num_windows * window * connector.joint_width
    trained_unit = unit if given.engine.name == "deepspeed" else 4
    sync = trained_unit * joint * (4 + 8 * connector.num_hidden_layers) * (2 if connector.is_multi_resolution else 1)
    vision, audio = config.vision_config, config.audio_config
    patches = 1 + (vision.image_size // vision.patch_size) ** 2
    eye = min(shape.num_frames, _ENCODER_ROWS) * patches * (vision.intermediate_size * 2 + vision.hidden_size * 8)
    ear = (
        min(shape.num_chunks, _ENCODER_ROWS)
        * audio.max_source_positions
        * (audio.encoder_ffn_dim * 2 + audio.d_model * 8)
    )
    return int(llm + logits + sync + unit * max(eye, ear) + _kept_of_encoders(config, given, shape))


def _kept_of_encoders(config: FavorConfig, given: Recipe, shape: BatchShape) -> float:
    """What autograd keeps of frozen encoders for an adapter that learns inside: all frames and chunks at once.

    Recomputing keeps what goes into every layer, and one layer's inner values.
    """
    if config.adapter_config is None or given.parts.adapter == "frozen":
        return 0.0
    unit, vision, audio = _BYTES[given.optimisation.precision], config.vision_config, config.audio_config
    patches = shape.num_frames * (1 + (vision.image_size // vision.patch_size) ** 2)
    sound = shape.num_chunks * audio.max_source_positions
    entering = patches * vision.hidden_size * vision.num_hidden_layers + sound * audio.d_model * audio.encoder_layers
    # norms, q k v, what attention gives and both sums; the MLP before and behind its activation; the adapter's share
    eye = patches * (12 * vision.hidden_size + 2 * vision.intermediate_size)
    ear = sound * (12 * audio.d_model + 2 * audio.encoder_ffn_dim)
    if given.engine.checkpoint_activations:
        return unit * (entering + eye + ear)
    return unit * (eye * vision.num_hidden_layers + ear * audio.encoder_layers)


def _advice(given: Recipe, shape: BatchShape) -> tuple[str, ...]:
    """What would help, the cheapest first."""
    found = []
    if not given.engine.checkpoint_activations:
        found.append("engine.checkpoint_activations=true: a third more time, most activations gone")
    if given.optimisation.micro_batch > 1:
        found.append("a smaller optimisation.micro_batch and as much more optimisation.accumulation")
    stage, is_offloaded, _ = _zero(given)
    if stage < 3:
        found.append("engine.name=deepspeed engine.deepspeed=zero3: frozen weights split over the GPUs too")
    elif not is_offloaded:
        found.append("engine.deepspeed=zero3-offload: weights and optimiser on the host, slow")
    if shape.num_sequences == 1:
        found.append("shorter clips (data.max_seconds)")
    return tuple(found)


def _print(made: Plan) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    table = Table("part", "mode", "parameters", "trained", "kept as", "GiB", box=None, pad_edge=False)
    for row in made.parts:
        numbers = (f"{row.num_parameters:,}", f"{row.num_trained:,}", row.dtype, f"{row.weight_bytes / GIB:.2f}")
        table.add_row(row.name, row.mode, *numbers)
    console.print(table)
    console.print()
    table = Table("memory of one GPU", "GiB", box=None, pad_edge=False)
    for name, value in asdict(made.memory).items():
        if name != "host_bytes":
            table.add_row(_MEMORY_NAMES[name], f"{value / GIB:.2f}")
    table.add_row("in all", f"{made.memory.total_bytes / GIB:.2f}")
    if made.memory.host_bytes:
        table.add_row("on the host, for each GPU", f"{made.memory.host_bytes / GIB:.2f}")
    console.print(table)
    console.print()
    where, flops = made.situation, made.flops
    names = [
        name for name in ("vision", "audio", "adapter", "sync", "llm") if getattr(flops, name) or name != "adapter"
    ]
    split = ", ".join(f"{name} {getattr(flops, name) / 1e12:.2f}" for name in names)
    console.print(
        f"a micro-batch: {made.shape.num_sequences} conversations, {made.shape.num_tokens} LLM tokens, {split} TFLOP"
    )
    console.print(
        f"a step: {made.samples_per_step} conversations, {made.flops_per_step / 1e12:,.1f} TFLOP "
        f"on {where.num_gpus} GPUs"
    )
    console.print(
        f"{made.steps:,} steps of {made.seconds_per_step:.2f} s: {clock(made.hours * 3600)} at "
        f"{where.utilisation:.0%} of {where.peak_tflops:.0f} TFLOP/s, "
        f"clips of {where.clip_seconds:.0f} s, decoding not counted"
    )
    verdict = "fits" if made.does_fit else "does NOT fit"
    console.print(f"{verdict}: {made.memory.total_bytes / 1e9:.1f} GB of {where.gpu_memory_gb:.0f} GB")
    for hint in made.advice:
        console.print(f"  try {hint}")


_MEMORY_NAMES = {
    "encoder_bytes": "frozen encoders, outside the engine",
    "weight_bytes": "weights inside the engine",
    "gradient_bytes": "gradients",
    "optimiser_bytes": "optimiser states",
    "gathered_bytes": "gathered weights (ZeRO-3)",
    "activation_bytes": "activations (estimate)",
    "reserved_bytes": "CUDA, NCCL, fragmentation (guess)",
}
