"""Sections of Markdown files that commands write, between markers, so that everything around them stays."""

from __future__ import annotations

from pathlib import Path


def put_section(path: Path, name: str, section: str, *, header: str = "") -> None:
    """Write a section between its markers, or at the file's end where it has none.

    Args:
        name: of the markers, ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``.
        header: of the file, if there is none yet.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = path.read_text(encoding="utf-8") if path.exists() else header
    marked = f"{begin}\n{section}\n{end}"
    if begin in text and end in text:
        text = text.split(begin, 1)[0] + marked + text.split(end, 1)[1]
    else:
        text = f"{text.rstrip()}\n\n{marked}\n".lstrip()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
