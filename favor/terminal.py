"""What the command line shows: a progress bar while decoding, receipts and accounts as tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from transformers.utils import logging

from favor.clips import ClipReceipt

if TYPE_CHECKING:
    from favor.accounting import Account


class DecodingProgress:
    """A bar on stderr that shows seconds of video decoded; nothing where stderr is not a terminal."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("decoding"),
            BarColumn(),
            TextColumn("{task.completed:.1f}/{task.total:.1f} s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("decoding", total=0.0, visible=False)

    def __enter__(self) -> DecodingProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, seconds_done: float, seconds_in_all: float) -> None:
        self._bar.update(self._task, completed=seconds_done, total=seconds_in_all, visible=True)


def print_receipt(receipt: ClipReceipt) -> None:
    """The receipt as a table on stdout."""
    media, table = receipt.media, Table(show_header=False, box=None, pad_edge=False)
    rows = [("clip", f"{media.name}: {receipt.kind}, {media.duration_s:.2f} s")]
    if media.video is not None:
        video = media.video
        turned = f", turned by {video.rotation_deg} degrees" if video.rotation_deg else ""
        rows.append(("picture", f"{video.codec}, {video.width} x {video.height}{turned}"))
        rows.append(("frames", f"{video.num_frames} at {_times(video.times_s)} s"))
    else:
        rows.append(("picture", "none"))
    if media.audio is not None:
        audio = media.audio
        rows.append(("sound", f"{audio.codec}, {audio.sample_rate_hz} Hz, {audio.num_channels} channels averaged"))
        rows.append(("heard", f"{audio.seconds:.2f} s from {audio.start_s:.2f} s on"))
    else:
        rows.append(("sound", "none"))
    rows.append(("model", f"{receipt.num_steps} steps of 0.5 s, {receipt.num_windows} windows"))
    rows.append(("tokens", f"{receipt.num_soft_tokens} soft tokens"))
    rows += [("skipped", reason) for reason in media.skipped] or [("skipped", "nothing")]
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def print_account(account: Account) -> None:
    """What an adapter weighs and costs, as a table on stdout."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("adapter", f"{account.adapter} in {account.host}")
    table.add_row("settings", ", ".join(f"{key} {value}" for key, value in account.settings.items()))
    for part, number in account.parts.items():
        table.add_row(part, f"{number:,} parameters")
    table.add_row("in all", f"{account.parameters:,} parameters, {account.share:.2%} of the backbone's")
    table.add_row("backbone", f"{account.backbone:,} frozen parameters, without heads")
    table.add_row(
        "cost", f"{account.macs / 1e9:.4f} GMAC a frame, of which attention {account.attention_macs / 1e9:.4f}"
    )
    for number, site in enumerate(account.sites):
        table.add_row("" if number else "inserted", site)
    Console(highlight=False, markup=False).print(table)


def quiet_libraries() -> None:
    """Keep the libraries' progress bars and advice off the user's terminal."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _times(times_s: tuple[float, ...]) -> str:
    shown = [f"{time_s:.2f}" for time_s in times_s]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:4], "...", *shown[-2:]])
