"""What the frozen encoders made of a clip, kept on disk: encode once, train and evaluate many times.

Content-addressed: an entry's name is the hash of everything its content depends on, so it is either the right one or
absent; nothing ever stands in for something like it. A clip has two entries:

=========  ====================================================  ===============================================
entry      holds                                                 named by
=========  ====================================================  ===============================================
sound      audio (S, 25, audio width); num_frames,               audio encoder, preprocessing, the media's bytes
           num_audio_steps, is_image and the receipt as JSON     (a separate sound file's too), use_audio, dtype
picture    visual (F, P, width)                                  image encoder, and all of the above but the audio
                                                                 encoder, and the question as the encoder reads it
=========  ====================================================  ===============================================

So a second question about a clip encodes its picture again and its sound not. A clip is encoded by itself: its kept
features equal those that a batch of it alone would have, bit for bit in the model's own dtype.

Shapes: F frames, P visual tokens per frame, S audio steps of whole chunks, C clips of a batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from favor.clips import ClipReader, ClipReceipt, Progress
from favor.errors import ConfigurationError, FavorError
from favor.media import SAMPLE_RATE_HZ, Clip
from favor.media.clip import AudioReceipt, Receipt, VideoReceipt
from favor.media.reading import open_source
from favor.messages import AudioPart, MediaPart, Source, VideoPart
from favor.sync import STEP_S

if TYPE_CHECKING:
    from favor.modeling import FavorForConditionalGeneration
    from favor.processor import FavorProcessor

MissRule = Literal["compute", "fail"]

FORMAT = 1
"""Part of every name; raise it when decoding or encoding changes what comes out."""

_VISION_SETTINGS = ("image_size", "patch_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
_QFORMER_SETTINGS = ("num_attention_heads", "hidden_act", "layer_norm_eps", "cross_attention_frequency")
_AUDIO_SETTINGS = ("encoder_layers", "encoder_attention_heads", "activation_function", "scale_embedding")
_PICTURE_SETTINGS = ("size", "image_mean", "image_std", "do_rescale", "rescale_factor", "do_normalize")
_SOUND_SETTINGS = ("feature_size", "sampling_rate", "hop_length", "chunk_length", "n_fft", "padding_value", "dither")
_BYTES_AT_A_TIME = 2**20


class FeatureMissError(FavorError):
    """A clip is not in the cache, and the cache may not encode it."""

    code = "features_missing"


@dataclass(frozen=True)
class ClipFeatures:
    """A clip as the connector gets it.

    Args:
        visual: (F, P, width), or None without a picture. audio: (S, 25, audio width), or None without sound.
    """

    visual: Tensor | None
    audio: Tensor | None
    num_frames: int
    num_audio_steps: int
    is_image: bool
    receipt: ClipReceipt


@dataclass
class CacheCounts:
    """Clips asked for since the cache was opened: found whole, or encoded (in part)."""

    hits: int = 0
    computed: int = 0


@dataclass(frozen=True)
class _Facts:
    """What is known of a clip once it has been decoded, whatever the model."""

    num_frames: int
    num_audio_steps: int
    is_image: bool
    media: Receipt

    @classmethod
    def of(cls, clip: Clip) -> _Facts:
        return cls(len(clip.frames), clip.num_audio_steps, clip.is_image, clip.receipt)


@dataclass
class FeatureCache:
    """A folder of entries, for one model's encoders. Any number of processes may read and write it at once.

    Made by ``open``. Hand it to a processor: ``processor(messages, features=cache)``.

    Args:
        folder: where the entries are.
        processor: whose settings ``encode`` uses.
        image_encoder, audio_encoder: hashes of weights and settings.
        dtype: of the entries.
        on_miss: ``compute`` encodes and keeps; ``fail`` raises FeatureMissError.
        model: what encodes; None with ``fail``, so that such a cache is light to send to a loader's worker.
    """

    folder: Path
    processor: FavorProcessor
    image_encoder: str
    audio_encoder: str
    dtype: torch.dtype
    on_miss: MissRule
    model: FavorForConditionalGeneration | None
    counts: CacheCounts = field(default_factory=CacheCounts)
    _hashes: dict[tuple[str, int, int], str] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        model: FavorForConditionalGeneration,
        processor: FavorProcessor,
        *,
        dtype: torch.dtype | None = None,
        on_miss: MissRule = "compute",
    ) -> FeatureCache:
        """Open (or begin) a cache. Hashes the encoders' weights, which takes seconds for large ones.

        Args:
            dtype: of the entries; by default the encoders' own, which keeps them exact.

        Raises:
            ConfigurationError: an encoder is being trained, so what it says today is wrong tomorrow; or an adapter
                lets the encoders hear each other, so what one says depends on the other.
        """
        if model.adapter is not None:
            raise ConfigurationError(
                f"the model has an adapter between its encoders: {model.config.adapter_config}",
                allowed="a feature cache for encoders that work each for itself",
                advice="Leave the cache out: an adapter works from the first layer on",
            )
        for name, encoder in (("vision", model.vision), ("audio", model.audio)):
            if not encoder.is_frozen or any(parameter.requires_grad for parameter in encoder.parameters()):
                raise ConfigurationError(
                    f"the part {name!r} is trained",
                    allowed="a feature cache for frozen encoders",
                    advice=f"Set parts.{name} to frozen, or leave data.cache out",
                )
        config = model.config
        eye = {"vision": _settings(config.vision_config, _VISION_SETTINGS)}
        eye["qformer"] = _settings(config.qformer_config, _QFORMER_SETTINGS)
        return cls(
            folder=Path(folder),
            processor=processor,
            image_encoder=weights_hash(model.vision, eye),
            audio_encoder=weights_hash(model.audio, _settings(config.audio_config, _AUDIO_SETTINGS)),
            dtype=dtype or next(model.vision.parameters()).dtype,
            on_miss=on_miss,
            model=model if on_miss == "compute" else None,
        )

    def encode(self, part: MediaPart, question: str = "", *, progress: Progress | None = None) -> ClipFeatures:
        """The features of one clip, read with ``question`` in mind; from the cache or, if allowed, encoded now."""
        return self.find(part, question, processor=self.processor, progress=progress)

    def find(
        self, part: MediaPart, question: str, *, processor: FavorProcessor, progress: Progress | None = None
    ) -> ClipFeatures:
        """As ``encode``, with the settings that ``processor`` has now.

        Raises:
            MediaError: the clip cannot be used.
            FeatureMissError: it is not here and the rule is ``fail``.
        """
        question_ids = processor.instruction_tensors([question])
        common = {"format": FORMAT, "dtype": str(self.dtype), "settings": _preprocessing(processor)}
        common["media"] = self._identity(part, processor.reader)
        sound_name = _hash_of({**common, "audio_encoder": self.audio_encoder})
        ids = question_ids["instruction_ids"][0].tolist()
        picture_name = _hash_of({**common, "image_encoder": self.image_encoder, "question": ids})
        facts, audio = self._read_sound(sound_name)
        visual = self._read(picture_name).get("visual") if facts is not None and facts.num_frames else None
        if facts is None or (facts.num_frames and visual is None):
            clip = self._decode_missing(part, processor, progress)
            tensors = processor.clip_tensors([clip])
            if facts is None:
                facts, audio = _Facts.of(clip), self._encode_sound(tensors)
                self._write(sound_name, {} if audio is None else {"audio": audio}, facts=facts)
            if facts.num_frames:
                visual = self._encode_picture(tensors | question_ids)
                self._write(picture_name, {"visual": visual})
            self.counts.computed += 1
        else:
            self.counts.hits += 1
        receipt = _receipt(facts, part, processor.reader)
        return ClipFeatures(visual, audio, facts.num_frames, facts.num_audio_steps, facts.is_image, receipt)

    def __getstate__(self) -> dict[str, Any]:
        """Sent to another process without the model: there only ``fail`` makes sense."""
        return {**self.__dict__, "model": None, "on_miss": "fail"}

    # --- names ------------------------------------------------------------------------------------------------------

    def _identity(self, part: MediaPart, reader: ClipReader) -> dict[str, Any]:
        sound = None if isinstance(part, AudioPart) or part.sound is None else part.sound
        return {
            "kind": type(part).__name__,
            "source": self._hash_of_source(part.source, part.name, reader),
            "sound": None if sound is None else self._hash_of_source(sound, None, reader),
            "use_audio": part.use_audio if isinstance(part, VideoPart) else True,
        }

    def _hash_of_source(self, source: Source, name: str | None, reader: ClipReader) -> str:
        """Of the content; a file that has not changed since is not read again by this process."""
        with open_source(source, name=name, options=reader.options, limits=reader.limits) as reading:
            seen = None
            if not isinstance(source, bytes):
                state = Path(source).stat()
                seen = (str(Path(source).absolute()), state.st_size, state.st_mtime_ns)
                if seen in self._hashes:
                    return self._hashes[seen]
            digest = hashlib.sha256()
            while piece := reading.file.read(_BYTES_AT_A_TIME):
                digest.update(piece)
        if seen is not None:
            self._hashes[seen] = digest.hexdigest()
        return digest.hexdigest()

    # --- encoding ---------------------------------------------------------------------------------------------------

    def _decode_missing(self, part: MediaPart, processor: FavorProcessor, progress: Progress | None) -> Clip:
        clip = processor.reader.load(part, progress=progress)  # first, for a bad clip is a bad clip with every rule
        if self.model is not None:
            return clip
        error = FeatureMissError(
            f"the features of {clip.receipt.name} are not in the cache",
            allowed="clips that were cached with these encoders, settings and question",
            advice="Fill the cache with `python -m training cache RECIPE`, or leave it out",
        )
        error.subject = part.name
        raise error

    @torch.no_grad()
    def _encode_sound(self, tensors: dict[str, Tensor]) -> Tensor | None:
        if "input_features" not in tensors:
            return None
        assert self.model is not None
        device = next(self.model.audio.parameters()).device
        features = self.model.get_audio_features(tensors["input_features"].to(device))
        return features.to("cpu", self.dtype).contiguous()

    @torch.no_grad()
    def _encode_picture(self, tensors: dict[str, Tensor]) -> Tensor:
        assert self.model is not None
        device = next(self.model.vision.parameters()).device
        names = ("pixel_values", "num_frames", "instruction_ids", "instruction_mask")
        features = self.model.get_visual_features(*(tensors[name].to(device) for name in names))
        return features.to("cpu", self.dtype).contiguous()

    # --- files ------------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.safetensors"

    def _read_sound(self, name: str) -> tuple[_Facts | None, Tensor | None]:
        try:
            with safe_open(self._path(name), "pt") as entry:
                facts = _facts_from(json.loads(entry.metadata()["clip"]))
                return facts, entry.get_tensor("audio") if "audio" in entry.keys() else None  # noqa: SIM118
        except (OSError, SafetensorError):  # absent, or cut off by a full disk: written again
            return None, None

    def _read(self, name: str) -> dict[str, Tensor]:
        try:
            with safe_open(self._path(name), "pt") as entry:
                return {key: entry.get_tensor(key) for key in entry.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return {}

    def _write(self, name: str, tensors: dict[str, Tensor], *, facts: _Facts | None = None) -> None:
        """Written aside, then renamed: who looks sees all of an entry or none of it, however many write it."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{name}.{uuid.uuid4().hex}.tmp")
        try:
            save_file(tensors, aside, metadata={"clip": json.dumps(dataclasses.asdict(facts))} if facts else None)
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)


def pack(clips: Sequence[ClipFeatures]) -> dict[str, Tensor]:
    """Model inputs of a batch's clips in order: what a processor gives, features in place of pixels and mel."""
    data = {
        "num_frames": torch.tensor([clip.num_frames for clip in clips]),
        "num_audio_steps": torch.tensor([clip.num_audio_steps for clip in clips]),
        "is_image": torch.tensor([clip.is_image for clip in clips]),
    }
    for name in ("visual", "audio"):
        pieces = [piece for clip in clips if (piece := getattr(clip, name)) is not None]
        if pieces:
            data[f"{name}_features"] = torch.cat(pieces)
    return data


def weights_hash(module: nn.Module, settings: object) -> str:
    """Of all weights and buffers (names, dtypes, shapes, bytes) and of what ``settings`` says about their use."""
    return tensors_hash(module.state_dict(), settings)


def tensors_hash(tensors: Mapping[str, Tensor], settings: object = None) -> str:
    """SHA-256 of names, dtypes, shapes and bytes, and of ``settings``."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _preprocessing(processor: FavorProcessor) -> dict[str, Any]:
    """Everything between the media's bytes and the encoders' input."""
    reader = processor.reader
    return {
        "options": dataclasses.asdict(reader.options),
        "limits": dataclasses.asdict(reader.limits),
        "picture": _settings(processor.image_processor, _PICTURE_SETTINGS),
        "sound": _settings(processor.feature_extractor, _SOUND_SETTINGS),
    }


def _settings(owner: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: _plain(getattr(owner, name, None)) for name in names}


def _plain(value: Any) -> Any:
    """As JSON would have it, so that a saved and loaded setting is the same setting."""
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _hash_of(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _facts_from(stored: dict[str, Any]) -> _Facts:
    media = stored.pop("media")
    video, audio = media.pop("video"), media.pop("audio")
    receipt = Receipt(
        **{**media, "skipped": tuple(media["skipped"])},
        video=None if video is None else VideoReceipt(**{**video, "times_s": tuple(video["times_s"])}),
        audio=None if audio is None else AudioReceipt(**audio),
    )
    return _Facts(**stored, media=receipt)


def _receipt(facts: _Facts, part: MediaPart, reader: ClipReader) -> ClipReceipt:
    """The receipt for this caller: it calls the clip by its own name, and its own connector counts the tokens."""
    called = part.name or ("clip" if isinstance(part.source, bytes) else Path(part.source).name or "clip")
    num_samples = round(facts.num_audio_steps * STEP_S * SAMPLE_RATE_HZ)
    outline = Clip(  # as long as the clip, with nothing in it
        frames=torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(facts.num_frames, 1, 1, 3).numpy(),
        times_s=torch.zeros(facts.num_frames, dtype=torch.float64).numpy(),
        waveform=torch.zeros(1).expand(num_samples).numpy(),
        is_image=facts.is_image,
        receipt=dataclasses.replace(facts.media, name=called),
    )
    return reader.receipt(outline)
