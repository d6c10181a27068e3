"""The frozen encoders, built from transformers' classes, with layer-by-layer access for adapters."""

from favor.encoders.eva_vit import EvaViT
from favor.encoders.hosts import HOSTS, Host
from favor.encoders.hts_at import HtsAt
from favor.encoders.instructblip import InstructBlipEncoder
from favor.encoders.joint import JointEncoder, JointOutput
from favor.encoders.layered import LayeredEncoder
from favor.encoders.meetings import Meetings
from favor.encoders.pairing import pairs
from favor.encoders.swin_v2 import SwinV2
from favor.encoders.vit import PlainViT
from favor.encoders.whisper import WhisperAudioEncoder

__all__ = [
    "EvaViT",
    "HOSTS",
    "Host",
    "HtsAt",
    "InstructBlipEncoder",
    "JointEncoder",
    "JointOutput",
    "LayeredEncoder",
    "Meetings",
    "PlainViT",
    "SwinV2",
    "WhisperAudioEncoder",
    "pairs",
]
