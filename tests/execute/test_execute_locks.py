"""One worker at a time on a cell: by the kernel's locks, and by leases where hosts share a file system."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from harness.cells import locks
from harness.cells.locks import CellLock, Lost, Queue, kind_of

HOLD = """
import os, socket, sys, time
socket.gethostname = lambda: sys.argv[3]
from pathlib import Path
from harness.cells import locks
locks.LEASE = 1.0
hold = locks.CellLock(Path(sys.argv[1]), "cell", sys.argv[2])
print(hold.take(), flush=True)
sys.stdin.readline()
try:
    hold.check()
    print("still mine", flush=True)
except locks.Lost:
    print("lost", flush=True)
"""


def other(results: Path, kind: str, host: str) -> subprocess.Popen[str]:
    """A process that takes the lock, on a host of that name."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(results), kind, host],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("kind", ["flock", "lease"])
def test_a_cell_is_held_by_one_and_freed_by_its_release(tmp_path: Path, kind: locks.Locks) -> None:
    first, second = CellLock(tmp_path, "cell", kind), CellLock(tmp_path, "cell", kind)
    assert first.take() and not second.take()
    first.check()
    first.release()
    assert second.take()
    second.release()


@pytest.mark.parametrize("kind", ["flock", "lease"])
def test_what_a_killed_process_held_is_free(
    tmp_path: Path, kind: locks.Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE", 1.0)
    process = other(tmp_path, kind, socket.gethostname())
    assert process.stdout is not None and process.stdout.readline() == "True\n"
    mine = CellLock(tmp_path, "cell", kind)
    assert not mine.take()
    process.kill()
    process.wait()
    assert taken(mine, 5)
    mine.release()


def taken(hold: CellLock, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if hold.take():
            return True
        time.sleep(0.05)
    return False


def test_a_live_lease_of_another_host_is_kept_and_a_silent_one_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE", 1.0)
    process = other(tmp_path, "lease", "far-away")
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "True\n"
    mine = CellLock(tmp_path, "cell", "lease")
    assert not taken(mine, 2.5), "it beats"
    # Stopped: a host that is cut off, or swaps.
    os.kill(process.pid, 19)
    assert taken(mine, 10)
    os.kill(process.pid, 18)
    time.sleep(0.7)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "lost\n", "it notices before it writes"
    mine.check()
    process.wait(10)
    mine.check()
    mine.release()


def test_a_lost_hold_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LEASE", 0.6)
    mine = CellLock(tmp_path, "cell", "lease")
    assert mine.take()
    (lease,) = (tmp_path / "locks").glob("*.lease")
    lease.unlink()
    time.sleep(0.7)
    with pytest.raises(Lost):
        mine.check()


@pytest.mark.parametrize(
    ("system", "kind"),
    [("ext4", "flock"), ("nfs4", "lease"), ("lustre", "lease"), ("fuse.sshfs", "lease"), ("tmpfs", "flock")],
)
def test_the_file_system_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, kind: str
) -> None:
    class Part:
        mountpoint, fstype = str(tmp_path), system

    class Root:
        mountpoint, fstype = "/", "ext4"

    monkeypatch.setattr("psutil.disk_partitions", lambda all: [Root, Part])
    assert kind_of(tmp_path / "results") == kind


def test_items_are_taken_by_rank_and_put_back_ones_come_again(tmp_path: Path) -> None:
    seen: list[str] = []
    turns = Queue(["b2", "a1", "a2"], lambda item: CellLock(tmp_path, item, "flock"), seen.append, sorted)
    order = []
    for item, _ in turns:
        order.append(item)
        if order == ["a1"]:
            turns.put_back()
        if item == "a2":
            turns.drop(lambda other: other == "b2")
    assert order == ["a1", "a1", "a2"] and not seen
