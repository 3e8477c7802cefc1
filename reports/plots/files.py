"""Figures as files for print, and inline for the page."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from functools import cached_property
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

    def drawn(self, form: str) -> bytes:
        """A PDF, an SVG (without a background) or a PNG (300 dots an inch): always the same bytes."""
        dates = {"pdf": "CreationDate", "svg": "Date"}
        metadata: dict[str, Any] = {dates[form]: None} if form in dates else {}
        buffer = io.BytesIO()
        with styled():
            # Once for all forms: it takes a third of drawing one.
            if self.figure.get_layout_engine() is not None:
                self.figure.draw_without_rendering()
                self.figure.set_layout_engine("none")
            self.figure.savefig(buffer, format=form, dpi=300, metadata=metadata, transparent=form == "svg")
        return buffer.getvalue()

    @cached_property
    def svg(self) -> bytes:
        """As an SVG."""
        return self.drawn("svg")


def save(plot: Plot, out: Path) -> list[Path]:
    """Write one figure as PDF, SVG and PNG (300 dots an inch) under its name.

    InputError when ``out`` cannot be written.
    """
    sweep(out)
    paths = [out / f"{plot.name}.{form}" for form in ("pdf", "svg", "png")]
    for path, data in zip(paths, (plot.drawn("pdf"), plot.svg, plot.drawn("png")), strict=True):
        try:
            write_whole(path, data)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); name another folder") from error
    return paths


def inline_svg(plot: Plot) -> str:
    """The figure as an ``<svg>`` element: no background, the page's text colour, ids of its own."""
    text = plot.svg.decode()
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
