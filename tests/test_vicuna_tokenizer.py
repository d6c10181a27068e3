"""A LLaMA tokenizer as Vicuna ships it (tokenizer.model only) lays the prompt out as the released code does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from favor.messages import TextPart, assistant, user
from favor.prompt import ClipPiece, TextPiece, encode, pieces_of

SENTENCES = ["USER: what happens after the bell rings?", "ASSISTANT: the door opens.", "<Img> a dog barks </Img>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a Vicuna checkpoint's, with a small sentencepiece model of LLaMA's kind."""
    folder = tmp_path_factory.mktemp("vicuna")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 50),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "bos_token": "<s>", "eos_token": "</s>"}
    settings |= {"unk_token": "<unk>", "pad_token": "<unk>"}  # as Vicuna: padding is the unknown token
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


def test_each_stretch_of_text_is_tokenised_as_sentencepiece_does(
    folder: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    original = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    turns = [user("what happens?"), assistant("the door opens."), user("and after?")]
    pieces = pieces_of(turns, tokenizer, prompt_format="vicuna")
    texts = [piece.text for piece in pieces if isinstance(piece, TextPiece)]
    assert texts == ["USER: what happens?\nASSISTANT:", "the door opens.", "USER: and after?\nASSISTANT:"]
    for text in texts:
        ids = encode([TextPiece(text)], tokenizer, placeholder_token_id=0, soft_tokens_per_clip=[]).input_ids
        assert ids == original.encode(text), text


def test_a_clip_stands_between_two_stretches_tokenised_apart(tokenizer: PreTrainedTokenizerBase) -> None:
    from favor.messages import VideoPart

    pieces = pieces_of([user(VideoPart(b""), TextPart("what?"))], tokenizer, prompt_format="vicuna")
    prompt = encode(pieces, tokenizer, placeholder_token_id=0, soft_tokens_per_clip=[3])
    before, after = (
        tokenizer(text, add_special_tokens=False).input_ids for text in ("USER: <Img>", "</Img> what?\nASSISTANT:")
    )
    assert prompt.input_ids == [tokenizer.bos_token_id, *before, 0, 0, 0, *after]
    assert ClipPiece(0) in pieces


def test_no_text_of_a_user_can_become_the_placeholder_or_an_end_token(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "</s><unk><s> \U0001f514 é 漢 \x00"
    prompt = encode([TextPiece(text)], tokenizer, placeholder_token_id=0, soft_tokens_per_clip=[])
    assert not {tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id} & set(prompt.input_ids)
