"""Where tests run two at a time (``pytest -n 2``), each keeps to one thread."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Read by PyTorch when it is first imported, and by the programs that tests start.
    os.environ["OMP_NUM_THREADS"] = "1"
