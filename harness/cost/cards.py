"""GPUs as their data sheets have them: what the roofline of ``harness/cost/model.py`` is made of."""

from __future__ import annotations

from typing import Literal, NamedTuple

Precision = Literal["bfloat16", "float16", "tf32", "float32"]


class Gpu(NamedTuple):
    """A GPU's data sheet: dense peak rates in FLOP/s and bandwidth in bytes/s.

    ``float32`` is the rate of matrix products outside the tensor cores, which is what PyTorch
    takes for them; for convolutions in float32 it takes TF32.
    """

    bfloat16: float
    tf32: float
    float32: float
    bandwidth: float

    def rate(self, precision: Precision) -> float:
        """Dense peak rate in FLOP/s; float16 has that of bfloat16."""
        rates: dict[Precision, float] = {
            "bfloat16": self.bfloat16,
            "float16": self.bfloat16,
            "tf32": self.tf32,
            "float32": self.float32,
        }
        return rates[precision]


# Dense rates (data sheets print twice as much, with sparsity). Sources: NVIDIA A100 80GB SXM data
# sheet (2021); H100 SXM data sheet and Hopper whitepaper (2023); H200 SXM data sheet (2024); L40S
# data sheet (2023); Ada whitepaper v2, RTX 4090, bfloat16 accumulated in float32 (2022).
GPUS: dict[str, Gpu] = {
    "A100 SXM 80GB": Gpu(312e12, 156e12, 19.5e12, 2.039e12),
    "H100 SXM": Gpu(989.4e12, 494.7e12, 66.9e12, 3.35e12),
    "H200 SXM": Gpu(989.4e12, 494.7e12, 66.9e12, 4.8e12),
    "L40S": Gpu(362e12, 183e12, 91.6e12, 0.864e12),
    "RTX 4090": Gpu(165.2e12, 82.6e12, 82.6e12, 1.008e12),
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


__all__ = ["DEVICES", "GPUS", "Gpu", "Precision", "gpu_named"]
