"""Multiplications and additions of a training step, counted for what really runs (not 6N over everything).

- frozen encoders: 2P forward for each of their own tokens; nothing when their features come from a cache;
- LLM with LoRA: 2N forward + 2N backward (activation gradients) for each token; 6N where all of it learns; LoRA's own
  weights 6P. With activation recomputing another 2N counts as hardware FLOPs (HFU), never as model FLOPs (MFU);
- connector and other trained parts: 6P;
- attention: 4 x length x width for each token and layer and pass, beside the weights (two passes more backward).

N and P are weights that multiply: word embeddings are looked up, not multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import nn

from favor.configuration import FavorConfig
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorInputs
from favor.sync import AUDIO_FRAMES_PER_STEP, STEPS_PER_AUDIO_CHUNK
from training.recipe import PartMode, Parts

FORWARD = 2
"""Per weight and token: one multiplication, one addition."""

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
    def of(cls, inputs: FavorInputs) -> BatchShape:
        """Of a processor's output."""
        chunks = len(inputs["input_features"]) if "input_features" in inputs else 0
        kept = len(inputs["audio_features"]) if "audio_features" in inputs else 0
        question = inputs["instruction_ids"].shape[1] if "instruction_ids" in inputs else 0
        return cls(
            num_frames=len(inputs["pixel_values"]) if "pixel_values" in inputs else 0,
            num_chunks=chunks,
            num_audio_steps=kept or chunks * STEPS_PER_AUDIO_CHUNK,
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
    recompute: float

    @property
    def model(self) -> float:
        """What MFU counts."""
        return self.vision + self.audio + self.sync + self.llm


class HasInputs(Protocol):
    """A batch of the training data."""

    @property
    def inputs(self) -> FavorInputs | None: ...


def flops_per_step(config: FavorConfig, parts: Parts, shape: BatchShape) -> PartFlops:
    """FLOPs, forward and backward, of the batch (or batches) of ``shape``."""
    weights = _weights(config.to_json_string(use_diff=False))
    vision = _vision_forward(config, weights, shape)
    audio = _audio_forward(config, weights, shape)
    sync = _sync_forward(config, weights, shape)
    llm, lora, attention = _llm_forward(config, weights, shape)
    return PartFlops(
        vision=vision * _passes(parts.vision),
        audio=audio * _passes(parts.audio),
        sync=sync * (2 if parts.sync == "frozen" else _passes(parts.sync)),  # gradients stop in front of it
        llm=llm * _llm_passes(parts) + 3 * lora + (3 if _needs_llm_backward(parts) else 1) * attention,
        recompute=llm + lora + attention,
    )


def flops_of_batch(config: FavorConfig, parts: Parts, batch: HasInputs) -> float:
    """Model FLOPs of one micro-batch; 0 for an empty one."""
    return 0.0 if batch.inputs is None else flops_per_step(config, parts, BatchShape.of(batch.inputs)).model


def peak_flops(device_name: str) -> float | None:
    """Dense 16-bit peak of a GPU by its name (``torch.cuda.get_device_name()``); None for one that is not known."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_name), None)


@dataclass(frozen=True)
class _Weights:
    """Multiplying weights, each with the kind of token it multiplies."""

    vit: int
    patch_embedding: int
    qformer_both: int
    qformer_queries: int
    qformer_words: int
    qformer_cross: int
    audio: int
    audio_stem: int
    audio_projection: int
    window: int
    queries: int
    projection: int
    llm: int
    lora: int


@cache
def _weights(config_json: str) -> _Weights:
    import json

    with torch.device("meta"):
        model = FavorForConditionalGeneration(FavorConfig(**_plain(json.loads(config_json))))
    qformer = dict(_linears(model.vision.qformer))
    cross = sum(size for name, size in qformer.items() if "crossattention.attention.key" in name or ".crossattention.attention.value" in name)
    queries = sum(size for name, size in qformer.items() if "_query." in f"{name}." or "crossattention" in name) - cross
    words = sum(size for name, size in qformer.items() if ".intermediate." in name or _is_word_output(name))
    connector = dict(_linears(model.connector))
    window = sum(size for name, size in connector.items() if ".causal." in name or "cross_attention.key" in name or "cross_attention.value" in name)
    audio_projection = sum(size for name, size in connector.items() if name.startswith("audio_projections"))
    projection = connector["projection"]
    llm = dict(_linears(model.language_model))
    lora = sum(size for name, size in llm.items() if "lora_" in name)
    return _Weights(
        vit=sum(dict(_linears(model.vision.vit)).values()),
        patch_embedding=sum(m.weight.numel() for m in model.vision.vit.modules() if isinstance(m, nn.Conv2d)),
        qformer_both=sum(qformer.values()) - cross - queries - words,
        qformer_queries=queries,
        qformer_words=words,
        qformer_cross=cross,
        audio=sum(dict(_linears(model.audio)).values()),
        audio_stem=sum(m.weight.numel() for m in model.audio.modules() if isinstance(m, nn.Conv1d)),
        audio_projection=audio_projection,
        window=window,
        queries=sum(connector.values()) - window - audio_projection - projection,
        projection=projection,
        llm=sum(llm.values()) - lora,
        lora=lora,
    )
