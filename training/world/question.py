"""One question about a clip, with its answer."""

from __future__ import annotations

from dataclasses import dataclass

TASKS = {
    "asr": "speech recognition",
    "ac": "audio caption",
    "ic": "image caption",
    "ocr": "optical character recognition",
    "vqa": "image question answering",
    "video_qa": "video question answering",
    "avsr": "speech in noise with a picture",
    "avsd": "dialogue about a video",
    "isqa": "spoken question about an image",
    "avssd": "which object sounds",
    "avm": "does the sound match the picture",
    "after": "what happens after, before",
    "while": "what is seen or heard while",
    "cause": "what made it happen",
    "count": "how many times",
    "order": "in which order",
    "when": "when, in seconds",
}
"""Eleven small versions of AVEB's tasks, then the temporal and causal ones; every family of questions has one."""

TRAINING_ONLY = {"timeline": "all events in order", "outside": "questions outside the world"}
"""Tasks that help to learn and are not scored."""


@dataclass(frozen=True)
class Question:
    """A question about one scene.

    Args:
        task: a key of TASKS or TRAINING_ONLY. family: the kind of question within the task, as ``count.flashes``.
        text: what the user types.
        answer: the right answer, lower case, without a full stop.
        unskilled: answers that one would choose among without the skill (some object or sound that does occur, ignoring
            binding, order or time); includes the right one. Their chance is the honest baseline.
        needs: streams without which it cannot be answered: any of ``picture`` and ``sound``.
        before: earlier turns of a dialogue as (question, answer) pairs.
    """

    task: str
    family: str
    text: str
    answer: str
    unskilled: tuple[str, ...]
    needs: frozenset[str]
    before: tuple[tuple[str, str], ...] = ()
