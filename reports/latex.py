"""LaTeX: plain text escaped, headings over two lines, a ``table`` environment around a frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
    }
)


def latex_text(text: str) -> str:
    """Plain text for LaTeX, its special characters escaped."""
    return text.translate(_LATEX)


def latex_heading(heading: str) -> str:
    """A heading of several words over two lines."""
    first, _, rest = heading.partition(" ")
    if not rest or len(heading) <= 10:
        return latex_text(heading)
    return rf"\shortstack{{{latex_text(first)}\\{latex_text(rest)}}}"


def latex_table(title: str, frame: pd.DataFrame, notes: Sequence[str]) -> str:
    """A ``table`` environment around a frame of LaTeX, no wider than the text; title and notes are plain."""
    body = frame.style.to_latex(hrules=True, column_format="l" + "r" * len(frame.columns))
    below = " ".join(latex_text(note) for note in notes)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{latex_text(title)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            body.rstrip() + "}",
            rf"\par\smallskip\parbox{{\linewidth}}{{\raggedright\scriptsize {below}}}",
            r"\end{table}",
            "",
        ]
    )
