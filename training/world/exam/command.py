"""``python -m training examine MODEL``: how much a model sees and hears of clips that it has never met.

Prints a table and, as its last line, all scores as one JSON object. Exit status 1: a task is worse than ``--against``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from favor.chat import Chat
from favor.terminal import quiet_libraries
from training.markdown import put_section

from .answering import answer, encode_paper
from .card import RULE, failures, read_card, to_markdown
from .conditions import CONDITIONS
from .paper import set_paper
from .report import report
from .table import print_report
from .through_files import ask_through_files

_USUAL, _SHORT = 60, 8  # questions in a family


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a preset, or a folder written by training")
    parser.add_argument("--seed", type=int, default=1, help="of the paper (default: 1)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--questions", type=_positive, default=_USUAL, metavar="N", help=f"per family (default: {_USUAL})"
    )
    size.add_argument("--short", dest="questions", action="store_const", const=_SHORT, help=f"{_SHORT} per family")
    parser.add_argument(
        "--streams",
        nargs="+",
        choices=CONDITIONS,
        default=["none", "mismatched_sound"],
        help="beside both, what to ask with (default: none mismatched_sound)",
    )
    parser.add_argument("--families", action="store_true", help="show every family of questions")
    parser.add_argument("--through-files", type=_positive, metavar="N", help="ask about N clips from real files too")
    parser.add_argument("--against", type=Path, metavar="FILE", help=f"a model card's scores; {RULE}")
    parser.add_argument("--card", type=Path, metavar="FILE", help="write the table into a model card (Markdown)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores there, with those of all families")


def run(options: argparse.Namespace) -> int:
    """Set the paper, have it answered, mark it."""
    card = None if options.against is None else read_card(options.against)
    quiet_libraries()
    began = time.perf_counter()
    chat = Chat.load(options.model)
    model, processor = chat.model, chat.processor
    paper = set_paper(options.seed, num_questions=options.questions)
    _tell(f"{len(paper.items)} questions about {len(paper.clips)} clips of seed {options.seed}", began)
    features = encode_paper(model, processor, paper)
    _tell("clips are encoded", began)
    answers = {}
    for condition in dict.fromkeys(("both", *options.streams)):
        answers[condition] = answer(model, processor, paper, features, condition)
        _tell(f"answered with {condition}", began)
    files = None
    if options.through_files is not None:
        files = ask_through_files(model, processor, paper, answers["both"], num_clips=options.through_files)
        _tell("answered through files", began)
    found = report(paper, answers, seconds=time.perf_counter() - began)
    print_report(found, has_families=options.families)
    scores = found.to_dict()
    if files is not None:
        print(f"through files: {files.agreement:.3f} of {files.items} answers are the same")
        scores["through_files"] = files.to_dict()
    if options.json is not None:
        options.json.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    if options.card is not None:
        put_section(options.card, "scores", to_markdown(scores, model=options.model))
    worse = [] if card is None else failures(found, card)
    for line in worse:
        print(f"worse than the card: {line}")
    if card is not None:
        print(f"{'not ' if worse else ''}as good as the card says ({RULE})")
    print(json.dumps(scores if options.families else {k: v for k, v in scores.items() if k != "families"}))
    return 1 if worse else 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def _tell(what: str, began: float) -> None:
    print(f"{time.perf_counter() - began:6.1f} s  {what}", file=sys.stderr)
