"""``FavorForConditionalGeneration``: encoders, connector and language model as one Hugging Face model.

Shapes: B conversations, T tokens, C clips of all conversations, F frames of all clips, K 30-s chunks of all clips,
S = 60 K audio steps, P visual tokens per frame, W windows of all clips, N queries per window, D language model width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import ModelOutput
from transformers.utils.generic import can_return_tuple

from favor.adapters import options_of, refuse_misfit
from favor.configuration import FavorConfig
from favor.connector import Connector, ConnectorOutput
from favor.encoders import InstructBlipEncoder, JointEncoder, WhisperAudioEncoder
from favor.encoders.meetings import Meetings
from favor.errors import ConfigurationError, PlaceholderError
from favor.lora import add_lora, freeze_all_but_lora
from favor.sync import AUDIO_FRAMES_PER_STEP, ClipSteps, WindowPlan

MEDIA_INPUTS = (
    "pixel_values",
    "num_frames",
    "input_features",
    "num_audio_steps",
    "is_image",
    "instruction_ids",
    "instruction_mask",
)
"""Model inputs that only the first generation step needs; FavorProcessor makes them, see its docstring for shapes."""

FEATURE_INPUTS = ("visual_features", "audio_features")
"""What may stand in for the encoders' work: their outputs, made before and kept."""


@dataclass
class FavorOutput(ModelOutput):
    """Output of the model.

    Args:
        loss: scalar, ``language_loss`` + diversity_weight * ``diversity_loss``; with labels only.
        logits: (B, T, vocabulary).
        past_key_values: the language model's cache.
        language_loss: scalar cross-entropy over the labelled tokens.
        diversity_loss: scalar, unweighted; with media only.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    language_loss: Tensor | None = None
    diversity_loss: Tensor | None = None


class FavorForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A language model that sees and hears: clips become soft tokens in its input (paper section 3).

    The encoders start frozen; with ``config.lora_config`` so does the language model but for its LoRA.
    """

    config_class = FavorConfig
    config: FavorConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "video", "audio", "text")
    supports_gradient_checkpointing = True
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["connector", "adapter"]  # small, and saved as it was trained
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: FavorConfig) -> None:
        super().__init__(config)
        self.vision = InstructBlipEncoder(config)
        self.audio = WhisperAudioEncoder(config.audio_config)
        self.adapter: JointEncoder | None = None
        if config.adapter_config is not None:
            self.put_adapter(config.adapter_config)
        self.connector = Connector(config.connector_config, llm_width=config.text_config.hidden_size)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()
        if config.lora_config is not None:  # last, so that a seed gives the same base with and without it
            add_lora(self.language_model, config.lora_config)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Hugging Face's, which sets every parameter it loads to be trained; here the frozen ones stay frozen."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.vision.freeze()
        model.audio.freeze()
        if model.config.lora_config is not None:
            freeze_all_but_lora(model.language_model)
        return loaded

    def put_adapter(self, settings: dict[str, Any] | None) -> None:
        """Put a fresh adapter between the encoders, in the place of any that is there; None takes it out.

        Args:
            settings: as ``adapter_config`` of :class:`favor.configuration.FavorConfig`.

        Raises:
            ConfigurationError: an unknown adapter or setting, or one that does not fit these encoders. Then the model
                is as it was.
        """
        self.use_adapter(None if settings is None else self.fresh_adapter(settings), settings)

    def fresh_adapter(self, settings: dict[str, Any]) -> JointEncoder:
        """An untrained adapter for these encoders, on their device; the model goes on without it.

        Raises:
            ConfigurationError: as :meth:`put_adapter`.
        """
        options = options_of(settings)
        refuse_misfit(options, window_steps=self.config.connector_config.window_steps)
        adapter = JointEncoder(self.vision.vit, self.audio, options, audio_tokens=AUDIO_FRAMES_PER_STEP)
        return adapter.to(self.vision.query_tokens.device).train(self.training)

    def use_adapter(self, adapter: JointEncoder | None, settings: dict[str, Any] | None) -> None:
        """Go on with an adapter that was made for these encoders, or without any; takes no time.

        Args:
            adapter: from :meth:`fresh_adapter`, perhaps trained since. settings: what it was made from.
        """
        assert (adapter is None) == (settings is None), "an adapter and its settings go together"
        self.adapter, self.config.adapter_config = adapter, settings

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Connector | InstructBlipEncoder):
            module.initialise()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def get_visual_features(
        self, pixel_values: Tensor, num_frames: Tensor, instruction_ids: Tensor, instruction_mask: Tensor
    ) -> Tensor:
        """Visual tokens of all frames; each frame is read with its own clip's question.

        Args:
            pixel_values: (F, 3, size, size). num_frames: (C,) with sum F.
            instruction_ids, instruction_mask: (C, question tokens).

        Returns:
            (F, P, width).
        """
        clip_of_frame = torch.repeat_interleave(num_frames)  # (F,)
        return self.vision(pixel_values, instruction_ids[clip_of_frame], instruction_mask[clip_of_frame])

    def get_audio_features(self, input_features: Tensor) -> Tensor:
        """Whisper's vectors cut into steps: (K, mel bins, frames of a chunk) -> (S, 25, audio width)."""
        return self._steps_of(self.audio(input_features))

    @staticmethod
    def _steps_of(sound: Tensor) -> Tensor:
        """(K, positions, width) -> (S, 25, width)."""
        return sound.flatten(0, 1).unflatten(0, (-1, AUDIO_FRAMES_PER_STEP))

    def get_soft_tokens(
        self,
        *,
        pixel_values: Tensor | None = None,
        num_frames: Tensor,
        input_features: Tensor | None = None,
        num_audio_steps: Tensor,
        is_image: Tensor,
        instruction_ids: Tensor,
        instruction_mask: Tensor,
        visual_features: Tensor | None = None,
        audio_features: Tensor | None = None,
    ) -> ConnectorOutput:
        """All clips to soft tokens, (W * N, D); inputs as made by :class:`favor.processor.FavorProcessor`.

        ``visual_features`` (F, P, width) and ``audio_features`` (S, 25, audio width) stand in for the encoders' work
        where it has been done already.
        """
        config = self.config.connector_config
        like = next(self.connector.parameters())  # by no name: naming a weight here would make ZeRO-3 gather it
        pixels = None if pixel_values is None or not len(pixel_values) else pixel_values
        mels = None if input_features is None or not len(input_features) else input_features
        instructions = instruction_ids, instruction_mask
        if self.adapter is not None:
            if visual_features is not None or audio_features is not None:
                raise ConfigurationError(
                    "features of the encoders were given, and an adapter works inside the encoders",
                    allowed="pixel_values and input_features",
                    advice="Leave out the features, or the adapter",
                )
            visual_features, audio_features = self._adapted(
                pixels, mels, num_frames, num_audio_steps, is_image, *instructions
            )
        if visual_features is None and pixels is not None:
            visual_features = self.get_visual_features(pixels, num_frames, *instructions)
        if audio_features is None and mels is not None:
            audio_features = self.get_audio_features(mels)
        if visual_features is None:
            visual_features = like.new_zeros(0, config.tokens_per_step, config.visual_width)
        if audio_features is None:
            audio_features = like.new_zeros(0, AUDIO_FRAMES_PER_STEP, config.audio_widths[0])
        plan = self._plan(num_frames.tolist(), num_audio_steps.tolist(), is_image.tolist())
        return self.connector(visual_features.to(like.dtype), [audio_features.to(like.dtype)], plan)

    def _adapted(
        self,
        pixels: Tensor | None,
        mels: Tensor | None,
        num_frames: Tensor,
        num_audio_steps: Tensor,
        is_image: Tensor,
        instruction_ids: Tensor,
        instruction_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Features of both streams as :meth:`get_soft_tokens` takes them, the encoders seeing each other."""
        clips = list(zip(num_frames.tolist(), num_audio_steps.tolist(), is_image.tolist(), strict=True))
        patches, sound = self.run_adapter(pixels, mels, clips)
        if not len(patches):
            return self._read_nothing(patches), self._steps_of(sound)
        clip_of_frame = torch.repeat_interleave(num_frames)
        visual = self.vision.read(patches, instruction_ids[clip_of_frame], instruction_mask[clip_of_frame])
        return visual, self._steps_of(sound)

    def idle_features(self) -> tuple[Tensor, Tensor]:
        """No features, (0, P, width) and (0, 25, audio width), on which an adapter that is trained has its part yet."""
        patches, sound = self.run_adapter(None, None, [])
        return self._read_nothing(patches), self._steps_of(sound)

    def _read_nothing(self, patches: Tensor) -> Tensor:
        """(0, P, width) from (0, 1 + patches, ViT width); the image Q-Former runs idle, for it may learn too."""
        nobody = torch.zeros(1, 0, dtype=torch.long, device=patches.device)
        read = self.vision.read(patches.new_zeros(1, *patches.shape[1:]), nobody, nobody)
        return read[:0] + patches.sum().to(read.dtype)

    def run_adapter(
        self, pixels: Tensor | None, mels: Tensor | None, clips: list[tuple[int, int, bool]]
    ) -> tuple[Tensor, Tensor]:
        """Last tokens of both encoders, the adapter between them: (F, 1 + patches, width), (K, positions, width).

        While it is trained, a black frame and a silence that meet run with a batch in which nothing meets, and count
        nothing. So every weight of the adapter has its part in every batch, as training on many processes demands.

        Args:
            pixels, mels: as the encoders take them; None without.
            clips: number of frames, number of audio steps and whether it is an image, of each.
        """
        assert self.adapter is not None
        frame, silence = self._black_frame(), self._silence()
        pixels = frame[:0] if pixels is None else pixels
        mels = silence[:0] if mels is None else mels
        meetings = self._meetings(clips)
        is_idle = self.adapter.training and not len(meetings.frames)
        if is_idle:
            meetings = self._meetings([*clips, (1, 1, False)])
            pixels, mels = torch.cat((pixels, frame.to(pixels))), torch.cat((mels, silence.to(mels)))
        patches, sound = self.adapter(pixels, mels, meetings.to(pixels.device))[:2]
        if not is_idle:
            return patches, sound
        nothing = 0.0 * (patches[-1].float().mean() + sound[-1].float().mean())
        return patches[:-1] + nothing.to(patches.dtype), sound[:-1] + nothing.to(sound.dtype)

    def _meetings(self, clips: list[tuple[int, int, bool]]) -> Meetings:
        columns = zip(*clips, strict=True) if clips else ((), (), ())
        return Meetings.of_clips(
            *map(list, columns),
            chunk_steps=self.config.audio_chunk_steps,
            window_steps=self.config.connector_config.window_steps,
        )

    def _black_frame(self) -> Tensor:
        """(1, 3, size, size)."""
        return self.vision.query_tokens.new_zeros(1, 3, *[self.config.vision_config.image_size] * 2)

    def _silence(self) -> Tensor:
        """(1, mel bins, frames of a chunk)."""
        config = self.config.audio_config
        return self.vision.query_tokens.new_zeros(1, config.num_mel_bins, 2 * config.max_source_positions)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values: Tensor | None = None,
        num_frames: Tensor | None = None,
        input_features: Tensor | None = None,
        num_audio_steps: Tensor | None = None,
        is_image: Tensor | None = None,
        instruction_ids: Tensor | None = None,
        instruction_mask: Tensor | None = None,
        visual_features: Tensor | None = None,
        audio_features: Tensor | None = None,
        **kwargs: Any,
    ) -> FavorOutput:
        """Logits, and the loss if labels are given.

        Args:
            input_ids: (B, T); every soft token has its placeholder id.
            labels: (B, T), -100 where nothing is asked; the loss is the mean over the rest.

        The media inputs are described at :class:`favor.processor.FavorProcessor`.
        """
        clips = None
        if inputs_embeds is None:
            assert input_ids is not None, "neither input_ids nor inputs_embeds were given"
            media = {
                "pixel_values": pixel_values,
                "num_frames": num_frames,
                "input_features": input_features,
                "num_audio_steps": num_audio_steps,
                "is_image": is_image,
                "instruction_ids": instruction_ids,
                "instruction_mask": instruction_mask,
                "visual_features": visual_features,
                "audio_features": audio_features,
            }
            clips = self._clips(media)
            if clips is None and past_key_values is not None:  # a later step: what was generated is no placeholder
                inputs_embeds = self.get_input_embeddings()(input_ids)
            else:
                inputs_embeds = self.embed(input_ids, clips)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            labels=labels,
            **kwargs,
        )
        return FavorOutput(
            loss=self._total_loss(outputs.loss, clips),
            logits=outputs.logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            language_loss=outputs.loss,
            diversity_loss=None if clips is None else clips.diversity,
        )

    @torch.no_grad()
    def generate(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """Hugging Face ``generate``; media are encoded once, before the first step, whatever the number of beams."""
        if input_ids is None:  # the caller has embedded everything already
            return super().generate(attention_mask=attention_mask, **kwargs)
        media = {name: kwargs.pop(name) for name in (*MEDIA_INPUTS, *FEATURE_INPUTS) if name in kwargs}
        clips = self._clips(media)
        embeds = self.embed(input_ids, clips)
        return super().generate(input_ids, inputs_embeds=embeds, attention_mask=attention_mask, **kwargs)

    def embed(self, input_ids: Tensor, clips: ConnectorOutput | None) -> Tensor:
        """The language model's input: word embeddings with the soft tokens in the places of their placeholders.

        Args:
            input_ids: (B, T). clips: soft tokens of all clips in the order of their placeholders, or None.

        Returns:
            (B, T, D).

        Raises:
            PlaceholderError: the numbers of placeholders and soft tokens differ.
        """
        words = self.get_input_embeddings()(input_ids)
        is_placeholder = input_ids == self.config.placeholder_token_id
        given, needed = int(is_placeholder.sum()), 0 if clips is None else len(clips.soft_tokens)
        if given != needed:
            raise PlaceholderError(
                f"the text has {given} placeholders (token {self.config.placeholder_token_id}) "
                f"and the clips have {needed} soft tokens",
                allowed="as many placeholders as soft tokens",
                advice="Make both with one FavorProcessor that was saved with this model",
            )
        if clips is None:
            return words
        return words.masked_scatter(is_placeholder[..., None], clips.soft_tokens.to(words.dtype))

    def _clips(self, media: dict[str, Any]) -> ConnectorOutput | None:
        num_frames = media.get("num_frames")
        return None if num_frames is None or len(num_frames) == 0 else self.get_soft_tokens(**media)

    def _plan(self, num_frames: list[int], num_audio_steps: list[int], is_image: list[bool]) -> WindowPlan:
        config = self.config.connector_config
        clips = [
            ClipSteps.of_clip(
                num_frames=frames,
                num_audio_steps=steps,
                is_image=image,
                length_rule=config.length_rule,
                chunk_steps=self.config.audio_chunk_steps,
            )
            for frames, steps, image in zip(num_frames, num_audio_steps, is_image, strict=True)
        ]
        return WindowPlan.of(clips, window_steps=config.window_steps, align=config.align)

    def _total_loss(self, language_loss: Tensor | None, clips: ConnectorOutput | None) -> Tensor | None:
        weight = self.config.connector_config.diversity_weight
        if language_loss is None or clips is None or weight == 0:
            return language_loss
        return language_loss + weight * clips.diversity


AutoConfig.register(FavorConfig.model_type, FavorConfig)
for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_class.register(FavorConfig, FavorForConditionalGeneration)
