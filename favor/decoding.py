"""How an answer is searched for: greedy, sampling or beams."""

from __future__ import annotations

from dataclasses import dataclass

from favor.errors import ConfigurationError


@dataclass(frozen=True)
class Decoding:
    """Decoding options; the default is greedy.

    Args:
        max_new_tokens: the most tokens an answer may have.
        temperature: 0 is greedy (or beams); above 0 samples.
        top_p: nucleus of the sampling, in (0, 1].
        num_beams: beams kept; 1 searches none.
        repetition_penalty: 1 is none; counts the answer's own tokens, never the question's.
        seed: seed of the sampling; ``None`` draws a fresh one.
        stop: texts that end the answer and are not part of it.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    num_beams: int = 1
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "1 or more")
        _require(0.0 <= self.temperature <= 2.0, "temperature", self.temperature, "0 (greedy) to 2")
        _require(0.0 < self.top_p <= 1.0, "top_p", self.top_p, "above 0, at most 1")
        _require(1 <= self.num_beams <= 16, "num_beams", self.num_beams, "1 to 16")
        _require(self.repetition_penalty > 0.0, "repetition_penalty", self.repetition_penalty, "above 0; 1 is none")
        _require(self.seed is None or -(2**63) <= self.seed < 2**63, "seed", self.seed, "a whole number of 64 bits")
        _require(all(self.stop), "stop", self.stop, "texts that are not empty")


def _require(is_allowed: bool, name: str, value: object, allowed: str) -> None:
    if not is_allowed:
        raise ConfigurationError(f"{name} is {value}", allowed=allowed, advice=f"Correct {name}")


RELEASED = Decoding(max_new_tokens=512, num_beams=5, repetition_penalty=1.5)
"""Decoding of the released FAVOR and video-SALMONN inference code: 5 beams, penalty 1.5."""
