"""The paper's own numbers, shown beside ours as a block of their own and never computed with.

``published.csv``: FastVMT (ICLR 2026), arXiv 2602.05551, by way of a secondary note; its first line holds
the headings, and the text of the numbers is kept as it was printed.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from reports.table.latex import latex_heading, latex_table, latex_text

TITLES = {
    "methods": "Published: FastVMT (arXiv 2602.05551), methods",
    "ablation": "Published: FastVMT (arXiv 2602.05551), ablation",
}
WHERE = (
    "As published, via a secondary note: other clips, prompts, backbones, trackers and devices than ours. "
    "Not comparable with the tables above, and in none of their statistics."
)
SPEED = (
    "The abstract's 3.43x equals 632.41 / 184.18, the median rival's time over FastVMT's: it compares "
    "different programs."
)


COLUMNS = (
    "clip_t",
    "motion_fidelity_legacy",
    "clip_f",
    "time",
    "subject_consistency",
    "motion_smoothness",
)
"""What the columns of its table are here, by key: those that ``metrics=paper`` shows, in its order."""
SAME = f"metrics=paper shows the same columns of ours: {', '.join(COLUMNS)}."


@dataclass(frozen=True)
class Block:
    """One published table: headings (the first empty, for the row's name), rows of text, notes."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    notes: list[str]

    def to_markdown(self) -> str:
        """A heading, a pipe table and the notes as a list."""
        from tabulate import tabulate

        align = ["left", *["right"] * (len(self.headings) - 1)]
        body = tabulate(self.rows, self.headings, "pipe", disable_numparse=True, colalign=align)
        return "\n".join([f"### {self.title}", "", body, "", *(f"- {note}" for note in self.notes)]) + "\n"

    def to_latex(self) -> str:
        """A ``table*`` environment with booktabs rules (needs ``\\usepackage{booktabs}``)."""
        rows = [[latex_text(text) for text in row] for row in self.rows]
        label = f"published-{self.title.rpartition(' ')[2]}"
        headings = [latex_heading(heading) for heading in self.headings]
        return latex_table(f"{latex_text(self.title)}.", label, headings, rows, self.notes, wide=True)


def blocks() -> list[Block]:
    """The published tables, in the file's order; columns without any number are not in them."""
    found: dict[str, list[dict[str, str]]] = {}
    with (Path(__file__).parent / "published.csv").open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            found.setdefault(line["block"], []).append(line)
    made = []
    for name, lines in found.items():
        headings = [heading for heading in list(lines[0])[2:] if any(line[heading] for line in lines)]
        rows = [[line["method"], *(line[heading] or "-" for heading in headings)] for line in lines]
        notes = [WHERE, SPEED, SAME] if name == "methods" else [WHERE]
        made.append(Block(TITLES[name], ["", *headings], rows, notes))
    return made
