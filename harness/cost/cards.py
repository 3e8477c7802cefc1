"""GPUs as their data sheets have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    pass


class Gpu(NamedTuple):
    """A GPU's data sheet: dense peak rates in FLOP/s, bandwidth in bytes/s, memory in bytes.

    ``float32`` is the rate of matrix products outside the tensor cores, which is what PyTorch
    takes for them; for convolutions in float32 it takes TF32.
    """

    bfloat16: float
    tf32: float
    float32: float
    bandwidth: float
    memory: float


# Dense rates (data sheets print twice as much, with sparsity). Sources: NVIDIA A100 80GB SXM data
# sheet (2021); H100 SXM data sheet and Hopper whitepaper (2023); H200 SXM data sheet (2024); L40S
# data sheet (2023); Ada whitepaper v2, RTX 4090, bfloat16 accumulated in float32 (2022).
GPUS: dict[str, Gpu] = {
    "A100 SXM 80GB": Gpu(312e12, 156e12, 19.5e12, 2.039e12, 80e9),
    "H100 SXM": Gpu(989.4e12, 494.7e12, 66.9e12, 3.35e12, 80e9),
    "H200 SXM": Gpu(989.4e12, 494.7e12, 66.9e12, 4.8e12, 141e9),
    "L40S": Gpu(362e12, 183e12, 91.6e12, 0.864e12, 48e9),
    "RTX 4090": Gpu(165.2e12, 82.6e12, 82.6e12, 1.008e12, 24e9),
}


# What PyTorch calls them. Cards of other forms (PCIe, NVL) have other rates and are not among them.
DEVICES = {
    "NVIDIA A100-SXM4-80GB": "A100 SXM 80GB",
    "NVIDIA H100 80GB HBM3": "H100 SXM",
    "NVIDIA H200": "H200 SXM",
    "NVIDIA L40S": "L40S",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
}


def gpu_named(device: str) -> str | None:
    """The name in ``GPUS`` of what PyTorch calls ``device``; None for any other."""
    return DEVICES.get(device)


def peak_rate(gpu: str, dtype: str) -> float:
    """FLOP/s of a GPU of ``GPUS`` in a backbone's ``dtype``, or in ``tf32``."""
    rates = GPUS[gpu]
    return float(getattr(rates, "bfloat16" if dtype == "float16" else dtype))
