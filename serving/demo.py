"""``python -m serving.demo``: three questions about a clip with sound, asked over HTTP as any client would.

Starts the real server as a process of its own, asks it with the official client, prints questions and answers as they
come and the receipt, and stops the server. The last line of stdout is one JSON document with all of it.

The clip is ``demo_clip.mp4``, written by ``python -m training showcase``. What happens in it is printed first, so that
anybody can judge the answers.
"""

from __future__ import annotations

import base64
import io
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

import openai
from openai.types.chat import ChatCompletionMessageParam

from favor import presets
from favor.errors import FavorError

MODEL = presets.DEFAULT
CLIP = Path(__file__).with_name("demo_clip.mp4")
HAPPENS = (
    "red circle moves right, bell with red circle, whistle, blue square flashes, drum with yellow triangle, "
    "hiss with blue square"
)
QUESTIONS = (
    "Which thing makes the drum sound?",
    "What sound does the red circle make?",
    "What happens right after the whistle?",
)
MAX_TOKENS = 32
START_LIMIT_S = 300
ANSWER_LIMIT_S = 300
LOG_TAIL_LINES = 20


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


@dataclass(frozen=True)
class Answer:
    """One answer; seconds run from the question to its first and to its last word."""

    question: str
    answer: str
    first_token_s: float
    seconds: float
    usage: dict[str, object]


@dataclass(frozen=True)
class Outcome:
    """What the last line says; the report is the same for all answers."""

    model: str
    answers: list[Answer]
    media_report: list[dict[str, Any]]


def main() -> int:
    cast(io.TextIOWrapper, sys.stdout).reconfigure(errors="replace")
    try:
        clip = CLIP.read_bytes()
        print(f"{CLIP.name} ({len(clip):,} bytes) shows and sounds: {HAPPENS}.")
        key = secrets.token_urlsafe(16)
        with running_server(key) as address:
            print(f"Started a server with the model {MODEL} on {address}.")
            outcome = ask(address, key, clip)
    except (DemoError, FavorError, OSError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    show(outcome)
    print(json.dumps(asdict(outcome)))
    return 0


@contextmanager
def running_server(key: str) -> Iterator[str]:
    """A server process on a free port; gives its address, and shows the end of its log when something goes wrong."""
    command = [sys.executable, "-m", "serving", "--model", MODEL, "--port", "0"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, "FAVOR_API_KEY": key}
        )
        try:
            yield _address(process)
        except DemoError:
            _show_tail(log)
            raise
        finally:
            _stop(process)


def _address(process: subprocess.Popen[str]) -> str:
    """Where the server says it listens; waits for the model to load."""
    assert process.stdout is not None
    limit = threading.Timer(START_LIMIT_S, process.kill)
    limit.start()
    line = process.stdout.readline()
    limit.cancel()
    if not line:
        raise DemoError(f"the server ended with exit code {process.wait()} before it listened")
    return line.split()[-1]


def _show_tail(log: IO[str]) -> None:
    log.seek(0)
    print("\nThe end of the server's log:", *log.readlines()[-LOG_TAIL_LINES:], sep="\n  ", file=sys.stderr)


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()


def ask(address: str, key: str, clip: bytes) -> Outcome:
    """Ask every question, printing the answers as they come."""
    try:
        with openai.DefaultHttpxClient(trust_env=False) as http:
            client = openai.OpenAI(
                base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=ANSWER_LIMIT_S, http_client=http
            )
            answers, reports = zip(*(_read_answer(client, clip, question) for question in QUESTIONS))
            return Outcome(MODEL, list(answers), reports[-1])
    except openai.OpenAIError as error:
        raise DemoError(f"the server gave no answer: {error}") from error


def _read_answer(client: openai.OpenAI, clip: bytes, question: str) -> tuple[Answer, list[dict[str, Any]]]:
    """The answer, printed as it comes, and what the server says it saw and heard."""
    print(f"\nQuestion  {question}\nAnswer    ", end="", flush=True)
    answer = ""
    first_token_s: float | None = None
    report: list[dict[str, Any]] = []
    usage: dict[str, object] = {}
    started = time.monotonic()
    stream = client.chat.completions.create(
        model=MODEL,
        messages=_conversation(clip, question),
        max_completion_tokens=MAX_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        piece = "".join(choice.delta.content or "" for choice in chunk.choices)
        if piece and first_token_s is None:
            first_token_s = time.monotonic() - started
        print(_printable(piece), end="", flush=True)
        answer += piece
        report = getattr(chunk, "media_report", None) or report
        usage = chunk.usage.to_dict() if chunk.usage else usage
    seconds = time.monotonic() - started
    first_token_s = seconds if first_token_s is None else first_token_s
    print(f"\n          first word after {first_token_s:.2f} s, all after {seconds:.2f} s")
    return Answer(question, answer, round(first_token_s, 3), round(seconds, 3), usage), report


def _conversation(clip: bytes, question: str) -> list[ChatCompletionMessageParam]:
    """The request's messages; ``video_url`` is an extension that the client's types do not know."""
    uri = f"data:video/mp4;base64,{base64.b64encode(clip).decode()}"
    content = [{"type": "video_url", "video_url": {"url": uri}}, {"type": "text", "text": question}]
    return cast("list[ChatCompletionMessageParam]", [{"role": "user", "content": content}])


def show(outcome: Outcome) -> None:
    """What the model was given, and what its words are worth."""
    for receipt in outcome.media_report:
        print(f"\nReceipt   {_one_line(receipt)}")
    if presets.describe(MODEL).has_random_weights:
        print(f"\n{MODEL} has random weights, so its words mean nothing yet; what is real is the path they took.")
    print()


def _one_line(receipt: dict[str, Any]) -> str:
    video, audio = receipt["video"], receipt["audio"]
    return "; ".join(
        (
            f"saw {video['num_frames']} frames ({video['codec']}, {video['width']} x {video['height']})",
            f"heard {audio['seconds']} s ({audio['codec']}, {audio['sample_rate_hz']} Hz)",
            f"read {receipt['num_windows']} windows as {receipt['num_soft_tokens']} soft tokens",
            f"skipped {', '.join(receipt['skipped']) or 'nothing'}",
        )
    )


def _printable(text: str) -> str:
    """Random weights say anything; a terminal should not obey it."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


if __name__ == "__main__":
    sys.exit(main())
