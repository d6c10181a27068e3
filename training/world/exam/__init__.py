"""Does a model really see and hear the generated world, on clips that it has never met?

set_paper      questions about test clips, no answer much more often than the others
encode_paper   what the encoders make of the paper's clips: once for all models that share them
answer         a model's greedy answers, with all that there is to see and hear or with a part of it
report         shares right, each beside what one scores without the skill
examine        all of that for one model
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorProcessor

from .answering import answer, encode_paper
from .conditions import CONDITIONS, Condition, items_for
from .paper import Item, Paper, PaperClip, set_paper
from .report import Report, report

__all__ = [
    "CONDITIONS",
    "Condition",
    "Item",
    "Paper",
    "PaperClip",
    "Report",
    "answer",
    "encode_paper",
    "examine",
    "items_for",
    "report",
    "set_paper",
]


def examine(
    model: FavorForConditionalGeneration,
    processor: FavorProcessor,
    paper: Paper,
    conditions: Sequence[Condition] = ("both", "none", "mismatched_sound"),
) -> Report:
    """Have a model sit a paper; ``conditions`` hold ``both``."""
    began = time.perf_counter()
    features = encode_paper(model, processor, paper)
    answers = {condition: answer(model, processor, paper, features, condition) for condition in conditions}
    return report(paper, answers, seconds=time.perf_counter() - began)
