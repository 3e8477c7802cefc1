"""Whatever strikes, the end is that of an undisturbed run."""

from __future__ import annotations

from pathlib import Path

import pytest
from torture import torture


@pytest.mark.slow
def test_disturbed_runs_end_as_an_undisturbed_one_does(tmp_path: Path) -> None:
    assert torture(tmp_path, disturbances=1, seed=1, each=1).total() >= 1
