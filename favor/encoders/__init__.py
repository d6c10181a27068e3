"""The two frozen encoders, built from transformers' classes, with layer-by-layer access for adapters."""

from favor.encoders.eva_vit import EvaViT
from favor.encoders.instructblip import InstructBlipEncoder
from favor.encoders.layered import LayeredEncoder
from favor.encoders.whisper import WhisperAudioEncoder

__all__ = ["EvaViT", "InstructBlipEncoder", "LayeredEncoder", "WhisperAudioEncoder"]
