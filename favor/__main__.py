"""The command line.

    python -m favor ask CLIP "QUESTION"
    python -m favor inspect CLIP
    python -m favor adapters --host HOST --adapter NAME [KEY=VALUE ...]

Exit status: 0 done; 1 the answer was interrupted; 2 something given cannot be used (one line on stderr says what).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from favor import presets
from favor.errors import ConfigurationError, FavorError
from favor.messages import AudioPart, ImagePart, MediaPart, VideoPart

if TYPE_CHECKING:
    from favor.clips import ClipReader
    from favor.processor import FavorProcessor


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except FavorError as error:
        print(f"error ({error.code}): {_one_line(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader went away, as ``head`` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 1
    return 0


def ask(options: argparse.Namespace) -> None:
    """Stream an answer about a clip."""
    from favor.chat import Chat
    from favor.decoding import RELEASED, Decoding
    from favor.messages import user
    from favor.terminal import DecodingProgress, quiet_libraries

    quiet_libraries()
    decoding = RELEASED if options.beams else Decoding(temperature=options.temperature, seed=options.seed)
    decoding = replace(decoding, max_new_tokens=options.max_tokens)
    part = _part(options)
    chat = Chat.load(options.model)
    if options.adapter is not None:
        from favor.adapter_files import load_adapter

        load_adapter(chat.model, options.adapter)
    _set_length(chat.processor, options)
    with DecodingProgress() as progress:
        prepared = chat.prepare([user(part, options.question)], progress=progress)
    for piece in chat.stream(prepared, decoding):
        print(piece.text, end="", flush=True)
    print()
    if options.model in presets.names() and presets.describe(options.model).has_random_weights:
        print(f"note: the model {chat.name!r} has random weights; its words mean nothing.", file=sys.stderr)


def inspect(options: argparse.Namespace) -> None:
    """Show what the model would see and hear of a clip."""
    from favor.terminal import DecodingProgress, print_receipt, quiet_libraries

    quiet_libraries()
    part = _part(options)
    reader = _reader(options)
    with DecodingProgress() as progress:
        receipt = reader.receipt(reader.load(part, progress=progress))
    if options.json:
        print(json.dumps(receipt.to_dict(), allow_nan=False))
    else:
        print_receipt(receipt)


def adapters(options: argparse.Namespace) -> None:
    """Say what an adapter weighs and costs in a pair of encoders."""
    from favor.accounting import account
    from favor.terminal import print_account, quiet_libraries

    quiet_libraries()
    changes = dict(_setting(given) for given in options.settings)
    found = account(options.host, options.adapter, options.task, **changes)
    if options.json:
        print(json.dumps(found.to_dict()))
    else:
        print_account(found)


def _setting(given: str) -> tuple[str, Any]:
    """``num_latents=4`` as its key and value."""
    key, has_value, value = given.partition("=")
    if not has_value:
        raise ConfigurationError(
            f"the setting {given!r} has no '='", allowed="KEY=VALUE", advice="Write for example num_latents=4"
        )
    return key, yaml.safe_load(value)


def _part(options: argparse.Namespace) -> MediaPart:
    from favor.media import sniff_kind

    path = Path(options.clip)
    name = path.name or options.clip
    kind = options.as_kind or sniff_kind(path, name=name)
    sound = Path(options.sound) if options.sound else None
    if sound is not None and kind == "audio":
        raise _contradiction("--sound with a sound file", allowed="--sound with a video or an image")
    if options.no_audio and (sound is not None or kind != "video"):
        raise _contradiction("--no-audio without a video's own sound", allowed="--no-audio with a video alone")
    if kind == "image":
        return ImagePart(path, sound=sound, name=name)
    if kind == "audio":
        return AudioPart(path, name=name)
    return VideoPart(path, sound=sound, name=name, use_audio=not options.no_audio)


def _contradiction(given: str, *, allowed: str) -> ConfigurationError:
    return ConfigurationError(given, allowed=allowed, advice="Leave the option out")


def _reader(options: argparse.Namespace) -> ClipReader:
    if Path(options.model).is_dir() and options.model not in presets.names():
        from favor.checkpoint import load_processor

        processor = load_processor(options.model)
        _set_length(processor, options)
        return processor.reader
    return presets.clip_reader(options.model, **_length(options))


def _length(options: argparse.Namespace) -> dict[str, Any]:
    """What was said about the length of clips; the rest is the model's own."""
    max_seconds = {} if options.max_seconds is None else {"max_seconds": options.max_seconds}
    return max_seconds | ({"when_too_long": "cut"} if options.cut else {})


def _set_length(processor: FavorProcessor, options: argparse.Namespace) -> None:
    for name, value in _length(options).items():
        setattr(processor, name, value)


def _one_line(text: str) -> str:
    """Whatever a file's name may hold."""
    return "".join(character if character.isprintable() else " " for character in text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m favor", description="Ask a model about a video and its sound.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    clip = argparse.ArgumentParser(add_help=False)
    clip.add_argument("clip", metavar="CLIP", help="a video, image or sound file")
    clip.add_argument("--model", default=presets.DEFAULT, help="preset or model folder (default: %(default)s)")
    clip.add_argument("--sound", metavar="FILE", help="a sound file that replaces the clip's own sound")
    clip.add_argument("--no-audio", action="store_true", help="leave the sound of the video out")
    clip.add_argument("--max-seconds", type=float, help="longest clip (default: the model's own, mostly 300)")
    clip.add_argument("--cut", action="store_true", help="cut a longer clip instead of refusing it")
    clip.add_argument("--as", dest="as_kind", choices=("video", "audio", "image"), help="do not guess what CLIP is")

    command = commands.add_parser("ask", parents=[clip], help="answer a question about a clip")
    command.add_argument("question", metavar="QUESTION")
    command.add_argument("--adapter", metavar="FOLDER", help="put a trained adapter between the model's encoders")
    command.add_argument("--max-tokens", type=int, default=256, help="longest answer (default: %(default)s)")
    command.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    command.add_argument("--seed", type=int, help="seed of the sampling")
    command.add_argument("--beams", action="store_true", help="decode as the released FAVOR does: 5 beams, penalty 1.5")
    command.set_defaults(run=ask)

    command = commands.add_parser("inspect", parents=[clip], help="show what the model sees and hears of a clip")
    command.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    command.set_defaults(run=inspect)

    command = commands.add_parser("adapters", help="say what an adapter weighs and costs between two encoders")
    command.add_argument("--host", required=True, help="vit-b16, vit-l16, swinv2-b, swinv2-l, swinv2-l+htsat, ...")
    command.add_argument("--adapter", required=True, help="lavish, dg_sct, av_pea or copl")
    command.add_argument("--task", help="start from the published settings of ave, avs, avqa or avvp")
    command.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings that differ")
    command.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    command.set_defaults(run=adapters)
    return parser


if __name__ == "__main__":
    sys.exit(main())
