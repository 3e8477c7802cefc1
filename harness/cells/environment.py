"""Where a cell ran: versions, device model, code revision. No host names and no paths."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "vmtbench",
    "accelerate",
    "av",
    "diffusers",
    "hydra-core",
    "numpy",
    "open_clip_torch",
    "opencv-python-headless",
    "scipy",
    "torch",
    "torchvision",
    "transformers",
    "wandb",
)


def device_model(device: str) -> str:
    """Model name of the processor or GPU: what a timing belongs to.

    ``device`` is ``cpu``, ``cuda`` or ``cuda:N``. For ``cpu`` no torch is imported.
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(torch.device(device))
    return cpu_model()


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model name, or the architecture where the system does not tell it."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() == "model name" and value.strip():
            return " ".join(value.split())
    return platform.processor() or platform.machine() or "unknown"


def versions() -> dict[str, str | None]:
    """Installed version of each package that can change a result; None when it is not installed."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def _git(*arguments: str, root: Path) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def revision(root: Path | None = None) -> dict[str, Any]:
    """``git`` commit of our code and whether tracked files differ from it; both None outside a checkout.

    An installation inside somebody else's checkout (a virtual environment, say) is
    no checkout of ours: the work tree's top must be the folder that holds ``harness``.
    """
    root = root or Path(__file__).resolve().parents[2]
    top = _git("rev-parse", "--show-toplevel", root=root)
    if top is None or Path(top).resolve() != root.resolve():
        return {"git": None, "dirty": None}
    changes = _git("status", "--porcelain", "--untracked-files=no", root=root)
    return {
        "git": _git("rev-parse", "HEAD", root=root),
        "dirty": None if changes is None else bool(changes),
    }


def _gpu(device: str) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(torch.device(device))
    return {
        "cuda": torch.version.cuda,
        "gpu_memory": int(properties.total_memory),
        "driver": _driver(),
    }


def _driver() -> str | None:
    """The NVIDIA driver's version, None without the optional nvidia-ml-py."""
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            version = pynvml.nvmlSystemGetDriverVersion()
        finally:
            pynvml.nvmlShutdown()
    except Exception:
        return None
    return version.decode() if isinstance(version, bytes) else str(version)


def describe(device: str) -> dict[str, Any]:
    """What a record says about the machine: ``device`` is the model name of processor or GPU."""
    import torch

    # Those this process may use, where the system tells.
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    found: dict[str, Any] = {
        "device": device_model(device),
        "cpu": cpu_model(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": versions(),
        **revision(),
    }
    if device.startswith("cuda"):
        found.update(_gpu(device))
    return found
