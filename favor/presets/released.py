"""Builds presets from released weights of the frozen parts; the connector and LoRA start fresh.

``source`` of a part is a hub name or a local folder. The language model inside InstructBLIP is never read.
"""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, WhisperFeatureExtractor
from transformers.initialization import no_init_weights
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from favor.checkpoint import load_exactly, read_tensors
from favor.configuration import FavorConfig
from favor.connector import Connector
from favor.encoders import InstructBlipEncoder, WhisperAudioEncoder
from favor.lora import add_lora
from favor.modeling import FavorForConditionalGeneration
from favor.presets import Preset
from favor.processor import FavorProcessor

INSTRUCTBLIP_NAMES = {"vision_model.": "vit.model.", "qformer.": "qformer.", "query_tokens": "query_tokens"}
WHISPER_NAMES = {"encoder.": "model."}


def assemble(
    preset: Preset, *, dtype: torch.dtype | None = None
) -> tuple[FavorForConditionalGeneration, FavorProcessor]:
    """Model (evaluation mode, CPU) and processor.

    Args:
        dtype: of the frozen parts; by default bfloat16 where there is a GPU, else float32.

    Raises:
        CheckpointError: weights that do not fit the preset's configuration.
    """
    config = FavorConfig(**preset.config)
    dtype = dtype or (torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    with no_init_weights():
        vision, audio = InstructBlipEncoder(config), WhisperAudioEncoder(config.audio_config)
    load_exactly(vision, read_tensors(preset.weights["instructblip"], INSTRUCTBLIP_NAMES), name="instructblip")
    load_exactly(audio, read_tensors(preset.weights["whisper"], WHISPER_NAMES), name="whisper")
    language_model = AutoModelForCausalLM.from_pretrained(preset.weights["llm"], dtype=dtype, use_safetensors=True)
    with torch.device("meta"):  # a skeleton; every part of it is replaced
        model = FavorForConditionalGeneration(config)
    if config.lora_config is not None:
        add_lora(language_model, config.lora_config)
    model.vision, model.audio, model.language_model = vision.to(dtype), audio.to(dtype), language_model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(preset.seed)
        model.connector = Connector(config.connector_config, llm_width=config.text_config.hidden_size)
    model.generation_config = language_model.generation_config
    return model.eval(), _processor(preset, config)


def _processor(preset: Preset, config: FavorConfig) -> FavorProcessor:
    size = config.vision_config.image_size
    return FavorProcessor.for_config(
        config,
        image_processor=BlipImageProcessorPil(size={"height": size, "width": size}),
        feature_extractor=WhisperFeatureExtractor.from_pretrained(preset.weights["whisper"]),
        tokenizer=AutoTokenizer.from_pretrained(preset.weights["llm"]),
        qformer_tokenizer=AutoTokenizer.from_pretrained(preset.weights["instructblip"], subfolder="qformer_tokenizer"),
        **(preset.processor or {}),
    )
