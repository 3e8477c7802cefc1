"""LaTeX: plain text escaped, headings over two lines, a table in as much room as it needs."""

from __future__ import annotations

import re
from collections.abc import Sequence

COLUMN, PAGE = 200.0, 395.0
"""Points that a table may take: a column of a two-column article, and the text of most conferences."""
GAP = 8.0
"""Points between two columns of a table."""

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
        "≤": r"$\le$",
        "<": r"$<$",
        ">": r"$>$",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "±": r"$\pm$",
        "\N{MINUS SIGN}": "$-$",
        "●": r"$\bullet$",
        "○": r"$\circ$",
        "…": r"\dots{}",
    }
)


def latex_text(text: str) -> str:
    """Plain text for LaTeX: special characters escaped, real minus signs, no line between p and its value."""
    minus = re.sub(r"(?<![\w.)-])-(?=\.?\d)", "$-$", text.translate(_LATEX))
    return re.sub(r"\bp (?=[$.\d])", "p~", minus)


def latex_heading(heading: str) -> str:
    """A heading of several words over two lines, broken where they are of like length."""
    lines = two_lines(heading)
    if len(lines) == 1:
        return latex_text(heading)
    return r"\begin{tabular}[b]{@{}r@{}}" + r"\\".join(map(latex_text, lines)) + r"\end{tabular}"


def two_lines(heading: str) -> list[str]:
    """A heading's words on one or two lines, an arrow beside the word before it."""
    words = re.sub(r" (?=[↑↓])", "\0", heading).split(" ")
    if len(heading) > 10 and len(words) > 1:
        halves = ((" ".join(words[:place]), " ".join(words[place:])) for place in range(1, len(words)))
        words = list(min(halves, key=lambda lines: max(map(len, lines))))
    else:
        words = [" ".join(words)]
    return [line.replace("\0", " ") for line in words]


def width(text: str, small: bool = False) -> float:
    """About how many points a plain text takes in ``\\small``, or where it is small in ``\\scriptsize``."""
    narrow = sum(char in ".,:;[]() il" for char in text)
    return (4.8 * (len(text) - narrow) + 2.8 * narrow) * (0.8 if small else 1.0)


def latex_table(
    caption: str,
    label: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    wide: bool,
) -> str:
    """A ``table`` environment, ``table*`` where ``wide``. Notes are plain, the rest is LaTeX.

    Needs ``\\usepackage{booktabs}``.
    """
    environment = "table*" if wide else "table"
    below = " ".join(map(latex_text, notes))
    return "\n".join(
        [
            rf"\begin{{{environment}}}[t]",
            r"\centering\small\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{label}}}\vspace{{4pt}}",
            rf"\begin{{tabular}}{{@{{}}l{'r' * (len(headings) - 1)}@{{}}}}",
            r"\toprule",
            " & ".join(headings) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            *([rf"\par\smallskip\parbox{{\linewidth}}{{\raggedright\scriptsize {below}}}"] if below else []),
            rf"\end{{{environment}}}",
            "",
        ]
    )


__all__ = ["COLUMN", "GAP", "PAGE", "latex_heading", "latex_table", "latex_text", "two_lines", "width"]
