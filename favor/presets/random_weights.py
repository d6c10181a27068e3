"""Builds presets without weights: random numbers from the preset's seed, tokenizers from the alphabet."""

from __future__ import annotations

import string

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from favor.configuration import FavorConfig
from favor.modeling import FavorForConditionalGeneration
from favor.presets import Preset
from favor.processor import FavorProcessor
from favor.sync import STEP_S


def assemble(preset: Preset) -> tuple[FavorForConditionalGeneration, FavorProcessor]:
    """Model and processor; the same seed gives the same weights, and the caller's random state is left alone."""
    config = FavorConfig(**preset.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(preset.seed)
        model = FavorForConditionalGeneration(config).eval()
    tokenizer = byte_tokenizer()
    model.generation_config.suppress_tokens = unprintable_ids(tokenizer)  # babble, but legible babble
    processor = FavorProcessor.for_config(
        config,
        image_processor=_image_processor(config.vision_config.image_size),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=config.audio_config.num_mel_bins, chunk_length=round(config.audio_chunk_steps * STEP_S)
        ),
        tokenizer=tokenizer,
        qformer_tokenizer=letter_tokenizer(),
        **(preset.processor or {}),
    )
    return model, processor


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte a token, behind ``<unk>`` (the placeholder), ``<s>`` and ``</s>``: 259 tokens that write any text."""
    vocab = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *_byte_letters()])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def unprintable_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids of all tokens but the end token that are not printable ASCII."""
    texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    return [
        token
        for token, text in enumerate(texts)
        if token != tokenizer.eos_token_id and not (text.isascii() and text.isprintable() and len(text) == 1)
    ]


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """A word piece tokenizer whose pieces are single characters, with BERT's special tokens and ``[DEC]``."""
    letters = sorted(set(string.printable) - set(string.whitespace) - set(string.ascii_uppercase))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters)]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    fast.add_special_tokens({"bos_token": "[DEC]"})
    return fast


def _byte_letters() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _image_processor(size: int) -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": size, "width": size})
