"""Figures as files for print, and inline for the page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from datasets.files import sweep, write_whole
from harness.records.printable import printable
from reports.plots.style import INK, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Plot:
    """A figure, its file name without suffix, and what it shows in one sentence."""

    name: str
    caption: str
    figure: Figure


def save(plot: Plot, out: Path, chosen: Sequence[str] = ("pdf", "svg", "png")) -> list[Path]:
    """Write one figure as PDF, SVG and PNG (300 dots an inch) under its name, always the same bytes.

    InputError when ``out`` cannot be written.
    """
    forms: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    paths = []
    sweep(out)
    for form, metadata in ((form, forms[form]) for form in chosen):
        path, buffer = out / f"{plot.name}.{form}", io.BytesIO()
        with styled():
            plot.figure.savefig(buffer, format=form, dpi=300, metadata=metadata)
        try:
            write_whole(path, buffer.getvalue())
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); name another folder") from error
        paths.append(path)
    return paths


def inline_svg(plot: Plot) -> str:
    """The figure as an ``<svg>`` element: no background, the page's text colour, ids of its own."""
    buffer = io.StringIO()
    with styled():
        plot.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # The page scales it by its viewBox.
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for before in (' id="', 'href="#', "url(#"):
        text = text.replace(before, f"{before}{plot.name}-")
    return printable(text.replace(INK, "currentColor").strip())


def slug(text: str) -> str:
    """A file name's worth of a text: letters, digits, ``.``, ``_`` and ``-``."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:80] or "unnamed"
