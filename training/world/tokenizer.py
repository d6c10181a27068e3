"""The small language model's tokenizer: byte-level BPE learnt from the world's own questions and answers.

Words of the world are one token each and digits stand alone; any other text falls apart into shorter pieces and, in the
end, bytes, so nothing a user types is unknown.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.world import questions, scenes

PAD, BOS, EOS, PLACEHOLDER = "<pad>", "<s>", "</s>", "<av>"
SPECIAL_TOKENS = (PAD, BOS, EOS, PLACEHOLDER)
"""Ids 0 to 3."""

_SCENES = 4000
_MARKERS = r" ?</?Img>| ?USER:|\nASSISTANT:"
"""What favor.prompt puts around clips and turns: a token each, which saves a quarter of a short question's tokens."""

_PIECES = rf"{_MARKERS}| ?\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]|\s"


def learn(vocabulary_size: int, *, seed: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most ``vocabulary_size`` tokens; the same seed gives the same."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")  # a word is one token, wherever it stands
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def _corpus(seed: int) -> Iterator[str]:
    """Stretches of text as favor.prompt tokenises them, each on its own."""
    rng = random.Random(f"tokenizer {seed}")
    for _ in range(_SCENES):
        scene = scenes.make(rng.getrandbits(48))
        for question in (*questions.ask(scene, rng, 6), questions.timeline(scene, rng), questions.outside(rng)):
            yield from ("USER: <Img>", f"</Img> {question.text}\nASSISTANT:", question.answer)
