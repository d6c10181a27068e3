"""Builds presets from released weights of the frozen parts; the connector and LoRA start fresh.

``source`` of a part is a hub name or a local folder. The language model inside InstructBLIP is never read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    WhisperFeatureExtractor,
)
from transformers.initialization import no_init_weights
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from favor.checkpoint import OWN_CODE_ONLY, STRICTLY, load_exactly, read_tensors, reading, refuse_misfits
from favor.configuration import FavorConfig
from favor.connector import Connector
from favor.encoders import InstructBlipEncoder, WhisperAudioEncoder
from favor.lora import add_lora
from favor.modeling import FavorForConditionalGeneration
from favor.presets import Preset
from favor.processor import FavorProcessor

INSTRUCTBLIP_NAMES = {"vision_model.": "vit.model.", "qformer.": "qformer.", "query_tokens": "query_tokens"}
WHISPER_NAMES = {"encoder.": "model."}

Encoder = TypeVar("Encoder", bound=nn.Module)


def assemble(
    preset: Preset, *, dtype: torch.dtype | None = None
) -> tuple[FavorForConditionalGeneration, FavorProcessor]:
    """Model (evaluation mode, CPU) and processor; the same seed gives the same fresh parts, and the caller's random
    state is left alone.

    Args:
        dtype: of the frozen parts; by default bfloat16 where there is a GPU, else float32.

    Raises:
        CheckpointError: weights that do not fit the preset's configuration.
    """
    config = FavorConfig(**preset.config)
    dtype = dtype or (torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    with torch.random.fork_rng(devices=[]):
        vision = _loaded(InstructBlipEncoder, config, preset.weights["instructblip"], names=INSTRUCTBLIP_NAMES)
        audio = _loaded(WhisperAudioEncoder, config.audio_config, preset.weights["whisper"], names=WHISPER_NAMES)
        language_model = _language_model(preset.weights["llm"], config, dtype=dtype)
        with torch.device("meta"):  # a skeleton; every part of it is replaced
            model = FavorForConditionalGeneration(config)
        model.vision, model.audio, model.language_model = vision.to(dtype), audio.to(dtype), language_model
        torch.manual_seed(preset.seed)
        model.connector = Connector(config.connector_config, llm_width=config.text_config.hidden_size)
        if config.lora_config is not None:
            add_lora(language_model, config.lora_config)
    model.generation_config = _token_ids_alone(language_model.generation_config)
    return model.eval(), _processor(preset, config)


def _loaded(encoder: Callable[[Any], Encoder], config: Any, source: str, *, names: Mapping[str, str]) -> Encoder:
    tensors = read_tensors(source, names)  # before anything large is built
    with no_init_weights():
        module = encoder(config)
    load_exactly(module, tensors, name=Path(source).name)
    return module


def _language_model(source: str, config: FavorConfig, *, dtype: torch.dtype) -> PreTrainedModel:
    with reading(source):
        model, report = AutoModelForCausalLM.from_pretrained(
            source, config=copy.deepcopy(config.text_config), dtype=dtype, **STRICTLY
        )
    refuse_misfits(Path(source).name, report)
    return model


def _token_ids_alone(given: GenerationConfig) -> GenerationConfig:
    """How to search for an answer is :class:`favor.decoding.Decoding`'s to say."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return GenerationConfig(**{name: getattr(given, name) for name in names})


def _processor(preset: Preset, config: FavorConfig) -> FavorProcessor:
    size, weights = config.vision_config.image_size, preset.weights
    with reading(weights["whisper"]):
        feature_extractor = WhisperFeatureExtractor.from_pretrained(weights["whisper"])
    with reading(weights["llm"]):
        tokenizer = AutoTokenizer.from_pretrained(weights["llm"], **OWN_CODE_ONLY)
    with reading(weights["instructblip"]):
        qformer_tokenizer = AutoTokenizer.from_pretrained(
            weights["instructblip"], subfolder="qformer_tokenizer", **OWN_CODE_ONLY
        )
    return FavorProcessor.for_config(
        config,
        image_processor=BlipImageProcessorPil(size={"height": size, "width": size}),
        feature_extractor=feature_extractor,
        tokenizer=tokenizer,
        qformer_tokenizer=qformer_tokenizer,
        **(preset.processor or {}),
    )
