"""``FavorConfig`` and its sub-configurations: everything that decides a model's shape, on the Hugging Face contract.

FavorConfig
├── vision_config     InstructBlipVisionConfig    EVA ViT
├── qformer_config    InstructBlipQFormerConfig   image Q-Former, instruction-aware
├── audio_config      WhisperConfig               only its encoder half is used
├── connector_config  ConnectorConfig             synchronisation, windows, causal Q-Former, projection
├── text_config       any causal LM's config
├── lora_config       LoraOptions, or None
└── adapter_config    {"name": "lavish", ...}, or None: an adapter between the encoders
"""

from __future__ import annotations

import difflib
from typing import Any, ClassVar, Literal

from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    PreTrainedConfig,
    WhisperConfig,
)

from favor.adapters import options_of
from favor.errors import ConfigurationError
from favor.sync import AUDIO_FRAMES_PER_STEP

CausalDirection = Literal["past", "future", "none"]
Align = Literal["sync", "concat"]
LengthRule = Literal["true", "padded"]
PromptFormat = Literal["vicuna", "chat_template"]
DiversityReduction = Literal["mean", "sum"]

WHISPER_LARGE_V2 = {
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "decoder_layers": 32,
    "decoder_attention_heads": 20,
    "decoder_ffn_dim": 5120,
    "num_mel_bins": 80,
    "max_source_positions": 1500,
}
"""The audio encoder of the paper (section 4.1); its decoder is never built."""

_HUGGING_FACE_KEYS = frozenset(PreTrainedConfig().to_dict()) | {"torch_dtype", "name_or_path", "attn_implementation"}


class ConnectorConfig(PreTrainedConfig):
    """Shape of the connector: the audio Linear, the causal Q-Former over windows, the projection to the LLM.

    The defaults are FAVOR's (paper section 3; released code where the paper is silent).

    Args:
        visual_width: width of a visual token, and of every projected audio stream.
        audio_widths: width of each audio encoder, in the order of their place in the joint feature.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, hidden_act: the causal Q-Former.
        dropout: on attention weights and residual branches.
        layer_norm_eps: inside the causal Q-Former.
        joint_layer_norm_eps: of the LayerNorm over the joint feature in front of it.
        initializer_range: standard deviation of all random weights.
        num_query_tokens: N, soft tokens per window.
        tokens_per_step: visual tokens of one frame; one step of a window.
        window_steps: k, steps of 0.5 s per window.
        num_positions: rows of the position table; a window uses the first ``window_steps * tokens_per_step``.
        causal_direction: ``past`` as in the paper; ``future`` as the released weights were trained; ``none`` leaves the
            causal block out (ablation).
        is_causal_padding_masked: keep the causal block from reading window padding; False as in the released code.
        align: ``sync`` pairs the streams step by step; ``concat`` lets sound follow picture, unpaired (ablation).
        length_rule: ``true`` spends steps on the clip's true length; ``padded`` on whole 30-s Whisper chunks, with a
            lone image repeated over one chunk, as the released code does.
        fine_window_steps, num_fine_query_tokens: a second, finer resolution with shared weights (video-SALMONN
            section 3.2); 0 has none.
        diversity_weight: lambda of the diversity loss; 0 switches it off.
        diversity_reduction: ``mean`` over ordered query pairs and windows, or their ``sum``.
    """

    model_type = "favor_connector"
    base_config_key = "connector_config"

    visual_width: int = 768
    audio_widths: list[int] | tuple[int, ...] = (1280,)
    hidden_size: int = 768
    num_hidden_layers: int = 2
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    dropout: float = 0.1
    layer_norm_eps: float = 1e-12
    joint_layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    num_query_tokens: int = 32
    tokens_per_step: int = 32
    window_steps: int = 10
    num_positions: int = 4096
    causal_direction: CausalDirection = "past"
    is_causal_padding_masked: bool = True
    align: Align = "sync"
    length_rule: LengthRule = "true"
    fine_window_steps: int = 0
    num_fine_query_tokens: int = 0
    diversity_weight: float = 0.01
    diversity_reduction: DiversityReduction = "mean"

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_unknown_keys(type(self), kwargs)
        self.audio_widths = list(self.audio_widths)
        for name in ("causal_direction", "align", "length_rule", "diversity_reduction"):
            require_choice(name, getattr(self, name), _CHOICES[name])
        self._check_windows()
        super().__post_init__(**kwargs)

    @property
    def joint_width(self) -> int:
        """Width of a joint token: the visual half, then every audio stream (1536 in FAVOR, 2304 in video-SALMONN)."""
        return self.visual_width * (1 + len(self.audio_widths))

    @property
    def is_multi_resolution(self) -> bool:
        return self.num_fine_query_tokens > 0

    def _check_windows(self) -> None:
        needed = self.window_steps * self.tokens_per_step
        if self.window_steps < 1 or needed > self.num_positions:
            raise ConfigurationError(
                f"a window of {self.window_steps} steps has {needed} positions, the table {self.num_positions} rows",
                allowed="window_steps >= 1 and window_steps * tokens_per_step <= num_positions",
                advice="Shorten the window or enlarge num_positions",
            )
        if not self.is_multi_resolution:
            return
        fine_windows = self.window_steps // max(self.fine_window_steps, 1)
        is_whole = self.fine_window_steps >= 1 and self.window_steps % self.fine_window_steps == 0
        if not is_whole or fine_windows * self.num_fine_query_tokens != self.num_query_tokens:
            raise ConfigurationError(
                f"{self.num_fine_query_tokens} queries per {self.fine_window_steps} steps do not add up to "
                f"{self.num_query_tokens} queries per {self.window_steps} steps",
                allowed="window_steps / fine_window_steps * num_fine_query_tokens == num_query_tokens",
                advice="Use, as video-SALMONN does, 3 queries per step beside 30 per 10 steps",
            )


class LoraOptions(PreTrainedConfig):
    """LoRA on the language model (paper section 4.1; targets from the released code, see favor/lora.py)."""

    model_type = "favor_lora"
    base_config_key = "lora_config"

    r: int = 32
    alpha: int = 32
    dropout: float = 0.1
    target_modules: list[str] | tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_unknown_keys(type(self), kwargs)
        self.target_modules = list(self.target_modules)
        super().__post_init__(**kwargs)


class FavorConfig(PreTrainedConfig):
    """A whole FAVOR model: two frozen encoders, the connector and a causal language model.

    Args:
        num_image_query_tokens: learned queries of the image Q-Former, one visual token each.
        placeholder_token_id: the token id that stands for one soft token in the language model's input.
        is_instruction_aware: the image Q-Former reads the question beside every frame, as InstructBLIP does; without,
            features do not depend on the question.
        adapter_config: ``name`` of an adapter between the two encoders, ``task`` whose published settings it starts
            from, and settings that differ (favor/adapters).
        prompt_format: ``vicuna`` (paper's ``USER: ... ASSISTANT:``) or ``chat_template`` (the tokenizer's own).
    """

    model_type = "favor"
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {
        "vision_config": InstructBlipVisionConfig,
        "qformer_config": InstructBlipQFormerConfig,
        "audio_config": WhisperConfig,
        "connector_config": ConnectorConfig,
        "text_config": AutoConfig,
        "lora_config": LoraOptions,
    }

    vision_config: InstructBlipVisionConfig | Any = None
    qformer_config: InstructBlipQFormerConfig | Any = None
    audio_config: WhisperConfig | Any = None
    connector_config: ConnectorConfig | Any = None
    text_config: Any = None
    lora_config: LoraOptions | Any = None
    adapter_config: dict[str, Any] | None = None
    num_image_query_tokens: int = 32
    placeholder_token_id: int = 0
    is_instruction_aware: bool = True
    prompt_format: PromptFormat = "vicuna"
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_unknown_keys(type(self), kwargs)
        require_choice("prompt_format", self.prompt_format, ("vicuna", "chat_template"))
        self.vision_config = _build(InstructBlipVisionConfig, self.vision_config)
        self.qformer_config = _build(InstructBlipQFormerConfig, self.qformer_config)
        self.audio_config = _build(WhisperConfig, WHISPER_LARGE_V2 if self.audio_config is None else self.audio_config)
        self.connector_config = _build(ConnectorConfig, self.connector_config)
        if self.lora_config is not None:
            self.lora_config = _build(LoraOptions, self.lora_config)
        self.text_config = _build_text_config(self.text_config)
        self._check_widths()
        if self.adapter_config is not None:
            options_of(self.adapter_config)
        super().__post_init__(**kwargs)

    @property
    def audio_chunk_steps(self) -> int:
        """Steps of sound that the audio encoder takes at a time: 60 (30 s) for a Whisper of 1500 positions."""
        return self.audio_config.max_source_positions // AUDIO_FRAMES_PER_STEP

    def _check_widths(self) -> None:
        connector, qformer = self.connector_config, self.qformer_config
        pairs = (
            ("qformer_config.encoder_hidden_size", qformer.encoder_hidden_size, self.vision_config.hidden_size),
            ("connector_config.visual_width", connector.visual_width, qformer.hidden_size),
            ("connector_config.audio_widths[0]", connector.audio_widths[0], self.audio_config.d_model),
            ("connector_config.tokens_per_step", connector.tokens_per_step, self.num_image_query_tokens),
        )
        for name, given, needed in pairs:
            if given != needed:
                raise ConfigurationError(
                    f"{name} is {given}", allowed=f"{needed}, as its encoder gives", advice=f"Set {name} to {needed}"
                )
        if self.audio_config.max_source_positions % AUDIO_FRAMES_PER_STEP:
            raise ConfigurationError(
                f"audio_config.max_source_positions is {self.audio_config.max_source_positions}",
                allowed=f"a multiple of the {AUDIO_FRAMES_PER_STEP} audio frames of a step",
                advice="Use 1500, Whisper's own, or for example 500",
            )


def refuse_unknown_keys(config_class: type[PreTrainedConfig], given: dict[str, Any]) -> None:
    """Raise ConfigurationError for a key the configuration does not have, naming the nearest one it has."""
    known = [name for name in config_class.__dataclass_fields__ if not name.startswith("_")]
    for key in given:
        if key in _HUGGING_FACE_KEYS or key.startswith("_"):
            continue
        raise ConfigurationError(
            f"{config_class.__name__} got the unknown key {key!r}",
            allowed="the arguments named in its docstring",
            advice=_nearest(key, known),
        )


def require_choice(name: str, given: object, choices: tuple[str, ...]) -> None:
    """Raise ConfigurationError unless ``given`` is one of ``choices``."""
    if given not in choices:
        raise ConfigurationError(
            f"{name} is {given!r}", allowed=", ".join(choices), advice=_nearest(str(given), list(choices))
        )


_CHOICES: dict[str, tuple[str, ...]] = {
    "causal_direction": ("past", "future", "none"),
    "align": ("sync", "concat"),
    "length_rule": ("true", "padded"),
    "diversity_reduction": ("mean", "sum"),
}


def _nearest(given: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(given, known, n=1, cutoff=0.0)
    return f"Did you mean {matches[0]!r}" if matches else "Remove it"


def _build(config_class: type[PreTrainedConfig], given: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    if isinstance(given, PreTrainedConfig):
        return given
    return config_class(**{key: value for key, value in (given or {}).items() if key != "model_type"})


def _build_text_config(given: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    if isinstance(given, PreTrainedConfig):
        return given
    settings = dict(given or {})
    return CONFIG_MAPPING[settings.pop("model_type", "llama")](**settings)
