"""Memory of a backward pass: what is saved for it, and what there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Saved:
    """Storages saved for a backward pass, by identity; each counts once."""

    def __init__(self) -> None:
        self.storages: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        return sum(self.storages.values())


@contextmanager
def counting_saved(network: torch.nn.Module) -> Iterator[Saved]:
    """Counts the tensors saved for a backward pass inside, the network's own weights apart.

    Keep the results alive while it counts: a storage that is freed may come back as another.
    """
    import torch

    weights = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    saved = Saved()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved.storages[storage._cdata] = storage.nbytes()
        # Not the tensor itself: an output that its own node holds would never be freed.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def free_bytes(device: torch.device) -> int | None:
    """Bytes this process can still take on ``device``; None where nobody says so."""
    import torch

    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + int(held)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    available = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return int(available.split()[1]) * 1024 if available else None


__all__ = ["Saved", "counting_saved", "free_bytes"]
