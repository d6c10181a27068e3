"""Captions on VALOR-32K (AVC). BLEU-4, METEOR and ROUGE-L come from pycocoevalcap, which needs Java for METEOR.

A later issue runs them; here are the average that is published over them and the one door to the package.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from eval.metrics.arguments import ScoringError
from favor.errors import MissingDependencyError


def avc_average(*, bleu_4: float, meteor: float, rouge_l: float) -> float:
    """AVC's "Avg": the mean of BLEU-4, METEOR and ROUGE-L, in the unit given; CIDEr is no part of it (AV-PEA)."""
    for name, score in (("bleu_4", bleu_4), ("meteor", meteor), ("rouge_l", rouge_l)):
        if not 0 <= score <= 100:
            raise ScoringError(f"{name} is {score}", allowed="0 to 1, or 0 to 100 per cent", advice="Correct it")
    return (bleu_4 + meteor + rouge_l) / 3


def caption_scorer(name: str) -> ModuleType:
    """A module of pycocoevalcap, such as ``bleu.bleu``, ``meteor.meteor`` or ``rouge.rouge``.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    try:
        return importlib.import_module(f"pycocoevalcap.{name}")
    except ImportError:
        raise MissingDependencyError(
            "captions cannot be scored without the package pycocoevalcap",
            allowed="an environment that has it, and Java for METEOR",
            advice="Install pycocoevalcap",
        ) from None
