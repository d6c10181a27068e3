"""Multiplications and additions of a training step, counted for what really runs (not 6N over everything).

- frozen encoders: 2P forward for each of their own tokens; nothing when their features come from a cache;
- LLM with LoRA: 2N forward + 2N backward (activation gradients) for each token; 6N where all of it learns; LoRA's own
  weights 6P. With activation recomputing another 2N counts as hardware FLOPs (HFU), never as model FLOPs (MFU);
- connector and other trained parts: 6P;
- an adapter between the encoders by its own account, three passes where it learns; the gradient then passes through the
  frozen encoders, another 2P, and recomputing runs both once more;
- attention: 4 x length x width for each token and layer and pass, beside the weights (two passes more backward).

N and P are weights that multiply: word embeddings are looked up, not multiplied.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import nn

from favor.configuration import FavorConfig
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorInputs
from favor.sync import AUDIO_FRAMES_PER_STEP, STEPS_PER_AUDIO_CHUNK
from training.recipe import Parts

PEAK_FLOPS = {
    "A100": 312e12,
    "A800": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "H800": 989e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
    "4090": 165e12,
    "3090": 71e12,
}
"""Dense bf16 (V100: fp16) tensor-core peaks by the makers' data sheets; half of them in fp32 would flatter."""


@dataclass(frozen=True)
class BatchShape:
    """What a batch of one rank and forward pass, or the sum of several, makes the parts work on.

    Args:
        num_frames: pictures through the image encoder; 0 when their features are cached.
        num_chunks: 30-s pieces of sound through the audio encoder; 0 when cached.
        num_audio_steps: steps of sound (60 per chunk) through the connector's audio projection.
        num_windows: windows of the connector.
        num_question_tokens: of the question that the image Q-Former reads with each frame.
        num_sequences, num_tokens: rows, and LLM tokens of all of them together, padding included.
    """

    num_frames: int
    num_chunks: int
    num_audio_steps: int
    num_windows: int
    num_question_tokens: int
    num_sequences: int
    num_tokens: int

    @classmethod
    def of(cls, inputs: FavorInputs, *, chunk_steps: int = STEPS_PER_AUDIO_CHUNK) -> BatchShape:
        """Of a processor's output; ``chunk_steps`` are the steps of one of the audio encoder's chunks."""
        chunks = len(inputs["input_features"]) if "input_features" in inputs else 0
        kept = len(inputs["audio_features"]) if "audio_features" in inputs else 0
        question = inputs["instruction_ids"].shape[1] if "instruction_ids" in inputs else 0
        return cls(
            num_frames=len(inputs["pixel_values"]) if "pixel_values" in inputs else 0,
            num_chunks=chunks,
            num_audio_steps=kept or chunks * chunk_steps,
            num_windows=sum(receipt.num_windows for chat in inputs.receipts for receipt in chat),
            num_question_tokens=question,
            num_sequences=len(inputs["input_ids"]),
            num_tokens=inputs["input_ids"].numel(),
        )


@dataclass(frozen=True)
class PartFlops:
    """FLOPs of a batch by part; ``recompute`` is what activation recomputing would add to the hardware's work."""

    vision: float
    audio: float
    sync: float
    llm: float
    adapter: float = 0.0
    recompute: float = 0.0

    @property
    def model(self) -> float:
        """What MFU counts."""
        return self.vision + self.audio + self.adapter + self.sync + self.llm


class HasInputs(Protocol):
    """A batch of the training data."""

    @property
    def inputs(self) -> FavorInputs | None: ...


def flops_per_step(config: FavorConfig, parts: Parts, shape: BatchShape) -> float:
    """Model FLOPs, forward and backward, of the batch (or batches) of ``shape``."""
    return flops_by_part(config, parts, shape).model


def flops_by_part(config: FavorConfig, parts: Parts, shape: BatchShape) -> PartFlops:
    """The same by part, and what recomputing the language model's activations would add."""
    weights = multiplying_weights(config)
    tokens = _tokens(config, shape)
    attention = _attention(config, shape)

    def forward(*kinds: str) -> float:
        return float(sum(2 * weights[kind] * tokens[kind] for kind in kinds))

    adapter = adapter_flops(config, shape)
    has_learning_adapter = adapter > 0 and parts.adapter != "frozen"
    learns = {part: getattr(parts, part) != "frozen" or has_learning_adapter for part in ("vision", "audio")}
    learns_before_llm = parts.sync != "frozen" or learns["vision"] or learns["audio"]
    llm, lora = forward("llm"), forward("lora")
    llm_passes = {"full": 3, "lora": 2, "frozen": 2 if learns_before_llm else 1}[parts.llm]
    learns["sync"] = learns_before_llm
    learns["llm"] = learns_before_llm or parts.llm != "frozen"
    passes = {"frozen": 1, "lora": 2, "full": 3}
    eye, ear, sync = (
        max(passes[getattr(parts, part)], 2 if is_passed else 1)
        for part, is_passed in (
            ("vision", has_learning_adapter),
            ("audio", has_learning_adapter),
            ("sync", learns["vision"] or learns["audio"]),
        )
    )
    around = {part: value * (3 if learns[part] else 1) for part, value in attention.items()}
    seeing, hearing = forward("patches", "frames", "frame words", "frame queries"), forward("mels", "sound")
    encoders = seeing + hearing + attention["vision"] + attention["audio"] + adapter
    return PartFlops(
        vision=eye * seeing + around["vision"],
        audio=ear * hearing + around["audio"],
        adapter=adapter * (3 if has_learning_adapter else 1),
        sync=sync * forward("steps", "windows", "queries", "soft tokens") + around["sync"],
        llm=llm_passes * llm + (3 if parts.llm == "lora" else llm_passes) * lora + around["llm"],
        recompute=llm + lora + attention["llm"] + (encoders if has_learning_adapter else 0.0),
    )


def adapter_flops(config: FavorConfig, shape: BatchShape) -> float:
    """Forward, of an adapter between the encoders; every frame is taken to have its sound."""
    return 2.0 * shape.num_frames * _adapter_macs(config.to_json_string(use_diff=False))


@cache
def _adapter_macs(config_json: str) -> int:
    """For one frame with its sound; 0 without an adapter."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        adapter = FavorForConditionalGeneration(FavorConfig.from_dict(json.loads(config_json))).adapter
    if adapter is None or adapter.options is None:
        return 0
    return sum(adapter.options.cost(site).total for site in adapter.sites)


def flops_of_batch(config: FavorConfig, parts: Parts, batch: HasInputs) -> float:
    """Model FLOPs of one micro-batch; 0 for an empty one."""
    if batch.inputs is None:
        return 0.0
    return flops_per_step(config, parts, BatchShape.of(batch.inputs, chunk_steps=config.audio_chunk_steps))


def peak_flops(device_name: str) -> float | None:
    """Dense 16-bit peak of a GPU by its name (``torch.cuda.get_device_name()``); None for one that is not known."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_name), None)


def multiplying_weights(config: FavorConfig) -> dict[str, int]:
    """Weights of Linears and convolutions by the kind of token that they multiply."""
    return _multiplying_weights(config.to_json_string(use_diff=False))


@cache
def _multiplying_weights(config_json: str) -> dict[str, int]:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # counting must not move a run's random numbers
        model = FavorForConditionalGeneration(FavorConfig.from_dict(json.loads(config_json)))
    weights = dict.fromkeys(KINDS, 0)
    for name, size in _multipliers(model):
        weights[_kind(name)] += size
    return weights


KINDS = (
    "patches",  # of a frame: ViT, and the image Q-Former's keys and values
    "frames",  # queries and question of a frame together: the image Q-Former's self-attention
    "frame words",  # the question of a frame
    "frame queries",
    "mels",  # mel frames of a chunk: the first convolution
    "sound",  # vectors of a chunk: Whisper
    "steps",  # 25 vectors of each step of sound: the audio projection
    "windows",  # joint tokens of a window: causal block, and keys and values of the queries
    "queries",
    "soft tokens",
    "llm",
    "lora",
)


def _multipliers(model: nn.Module) -> Iterator[tuple[str, int]]:
    """All but an adapter's, which gives its own account."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) and not name.startswith("adapter."):
            yield name, module.weight.numel()


def _kind(name: str) -> str:
    part, _, rest = name.partition(".")
    is_of_context = rest.endswith((".key", ".value"))
    if part == "language_model":
        return "lora" if "lora_" in rest else "llm"
    if part == "audio":
        return "mels" if rest.endswith("conv1") else "sound"
    if part == "connector":
        if rest.startswith("audio_projections"):
            return "steps"
        if rest == "projection":
            return "soft tokens"
        return "windows" if ".causal." in rest or (".cross_attention." in rest and is_of_context) else "queries"
    if rest.startswith("vit.") or ("crossattention" in rest and is_of_context):
        return "patches"
    if "crossattention" in rest or "_query.dense" in rest:
        return "frame queries"
    return "frames" if ".attention." in rest else "frame words"


def _tokens(config: FavorConfig, shape: BatchShape) -> dict[str, int]:
    connector = config.connector_config
    queries = config.num_image_query_tokens
    rounds, num_queries = _resolutions(config)
    return {
        "patches": shape.num_frames * _num_patches(config),
        "frames": shape.num_frames * (queries + shape.num_question_tokens),
        "frame words": shape.num_frames * shape.num_question_tokens,
        "frame queries": shape.num_frames * queries,
        "mels": shape.num_chunks * 2 * config.audio_config.max_source_positions,
        "sound": shape.num_chunks * config.audio_config.max_source_positions,
        "steps": shape.num_audio_steps * AUDIO_FRAMES_PER_STEP,
        "windows": rounds * shape.num_windows * connector.window_steps * connector.tokens_per_step,
        "queries": shape.num_windows * num_queries,
        "soft tokens": shape.num_windows * connector.num_query_tokens,
        "llm": shape.num_tokens,
        "lora": shape.num_tokens,
    }


def _attention(config: FavorConfig, shape: BatchShape) -> dict[str, float]:
    """Forward: 4 x tokens that ask x tokens that answer x width, for every layer."""
    vision, audio, connector, text = (
        config.vision_config,
        config.audio_config,
        config.connector_config,
        config.text_config,
    )
    patches, sound = _num_patches(config), audio.max_source_positions
    rounds, num_queries = _resolutions(config)
    window = connector.window_steps * connector.tokens_per_step
    length = shape.num_tokens / max(shape.num_sequences, 1)
    causal = rounds * window * window * connector.joint_width
    return {
        "vision": 4.0 * shape.num_frames * patches**2 * vision.hidden_size * vision.num_hidden_layers,
        "audio": 4.0 * shape.num_chunks * sound**2 * audio.d_model * audio.encoder_layers,
        "sync": 4.0
        * shape.num_windows
        * connector.num_hidden_layers
        * (causal + num_queries * window * connector.hidden_size),
        "llm": 4.0 * shape.num_tokens * length * text.hidden_size * text.num_hidden_layers,
    }


def _num_patches(config: FavorConfig) -> int:
    """Patches of a frame and its CLS token."""
    vision = config.vision_config
    return 1 + (vision.image_size // vision.patch_size) ** 2


def _resolutions(config: FavorConfig) -> tuple[int, int]:
    """How often a window is read, and queries that read it in all resolutions."""
    connector = config.connector_config
    if not connector.is_multi_resolution:
        return 1, connector.num_query_tokens
    fine = connector.window_steps // connector.fine_window_steps * connector.num_fine_query_tokens
    return 2, connector.num_query_tokens + fine
