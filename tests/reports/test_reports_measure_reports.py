"""``python -m reports.measure_reports``: the cells that it makes."""

from __future__ import annotations

from reports.measure_reports import ROWS, SEEDS, make_cells
from reports.table.rows import find_plans
from reports.table.tables import tables


def test_cells_of_either_schema_make_one_and_the_same_table(tmp_path):
    made = []
    for schema in (1, 2):
        make_cells(tmp_path / str(schema), 2 * ROWS * SEEDS, schema=schema)
        (table,) = tables(tmp_path / str(schema), find_plans(tmp_path / str(schema)))
        made.append(table)
    assert made[0].values.equals(made[1].values)
    assert len(made[0].values) == ROWS and (made[0].values["n"] == 2).all()
    assert made[0].values["motion_fidelity"].notna().all()
