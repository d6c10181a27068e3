"""``python -m serving``: an OpenAI-compatible server for one model.

    python -m serving --port 8000
    curl http://127.0.0.1:8000/v1/models

Logs go to stderr. The one line on stdout says where the server listens, once it does.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from favor.errors import FavorError
from serving.engines.base import Engine
from serving.server import bind, serve
from serving.settings import MIB, Settings

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(arguments: Sequence[str] | None = None) -> int:
    settings = read_settings(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if settings.api_key is None and settings.host not in _LOOPBACK:
        logging.getLogger("favor.serving").warning("open to the network without a key: give --api-key")
    try:
        with bind(settings) as listener:
            asyncio.run(serve(create_engine(settings), settings, listener))
    except (FavorError, OSError) as error:
        print(f"python -m serving: {error}", file=sys.stderr)
        return 1
    return 0


def create_engine(settings: Settings) -> Engine:
    """The engine that was asked for; only the chosen one is imported, so the echo needs no torch."""
    if settings.engine == "echo":
        from serving.engines.echo import EchoEngine

        return EchoEngine()
    from serving.engines.local import LocalEngine

    return LocalEngine(settings.model, max_queue=settings.max_queue)


def read_settings(arguments: Sequence[str] | None) -> Settings:
    given = _parser().parse_args(arguments)
    return Settings(
        model=given.model,
        engine=given.engine,
        host=given.host,
        port=given.port,
        api_key=given.api_key or os.environ.get("FAVOR_API_KEY") or None,
        max_queue=given.max_queue,
        max_body_bytes=given.max_body_mib * MIB,
        max_held_bytes=max(Settings.max_held_bytes, 2 * given.max_body_mib * MIB),
        max_new_tokens=given.max_new_tokens,
        keep_alive_s=given.keep_alive_s,
    )


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m serving", formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", default=default.model, help="preset or folder of the model")
    parser.add_argument(
        "--engine", choices=("local", "echo"), default=default.engine, help="echo: no model, for trials"
    )
    parser.add_argument("--host", default=default.host, help="address to listen on")
    parser.add_argument("--port", type=_port, default=default.port, help="0 takes a free one")
    parser.add_argument("--api-key", help="key that clients must send; also read from FAVOR_API_KEY")
    parser.add_argument("--max-queue", type=_natural, default=default.max_queue, help="conversations that may wait")
    parser.add_argument("--max-body-mib", type=_positive, default=default.max_body_bytes // MIB, help="largest request")
    parser.add_argument("--max-new-tokens", type=_positive, default=default.max_new_tokens, help="longest answer")
    parser.add_argument(
        "--keep-alive-s", type=_seconds, default=default.keep_alive_s, help="longest silence of a stream"
    )
    return parser


def _port(text: str) -> int:
    return _between(int(text), 0, 65535)


def _natural(text: str) -> int:
    return _between(int(text), 0, 100_000)


def _positive(text: str) -> int:
    return _between(int(text), 1, 100_000)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.01 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.01 and 3600")
    return seconds


def _between(number: int, least: int, most: int) -> int:
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{number} is not between {least} and {most}")
    return number


if __name__ == "__main__":
    sys.exit(main())
