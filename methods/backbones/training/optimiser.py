"""How weights are trained: orthogonalised momentum, learning rates, and the average over steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Nesterov momentum of each matrix, orthogonalised by five Newton-Schulz steps in float32.

    Scaled so that AdamW's learning rates apply (Liu et al., arXiv 2502.16982, section 2.2;
    coefficients of KellerJordan/Muon:muon.py). ``torch.optim.Muon`` does the same in bfloat16,
    which is slow on a CPU that only emulates it.
    """

    def __init__(self, matrices: list[nn.Parameter], momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": 0.0, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Matrices of one shape are orthogonalised together."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, matrices in by_shape.items():
                momenta = []
                for matrix in matrices:
                    gradient = matrix.grad
                    assert gradient is not None
                    mean = self.state[matrix].setdefault("mean", torch.zeros_like(matrix))
                    mean.lerp_(gradient, 1 - group["momentum"])
                    momenta.append(gradient.lerp(mean, group["momentum"]))
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                for matrix, update in zip(matrices, orthogonalised(torch.stack(momenta)), strict=True):
                    matrix.mul_(1 - group["lr"] * 0.01).add_(update, alpha=-rate)


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearly the closest semi-orthogonal matrices to (n, rows, columns) ones: singular values 0.7 to 1.2."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    length: Tensor = x.norm(dim=(1, 2), keepdim=True)
    x = x / (length + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return x.mT if tall else x


def schedule_lr(step: int, total: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then cosine decay to 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + float(np.cos(np.pi * (step - warmup) / max(1, total - warmup))))


def trapezoid_lr(step: int, total: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, constant, then linear decay to 0 over the last 40 %.

    The constant part lets a run be ended earlier than planned: start it again with fewer steps.
    """
    return peak * min((step + 1) / warmup, 1.0, (total - step) / (0.4 * total))


class Average:
    """Exponential moving average of parameters (a short memory at first)."""

    def __init__(self, modules: dict[str, nn.Module], decay: float = 0.998) -> None:
        self.decay, self.live = decay, modules
        self.shadow = {
            f"{n}/{k}": v.detach().clone() for n, m in modules.items() for k, v in m.state_dict().items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for n, module in self.live.items():
            for k, v in module.state_dict().items():
                shadow = self.shadow[f"{n}/{k}"]
                shadow.lerp_(v, 1 - decay) if v.is_floating_point() else shadow.copy_(v)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.shadow)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for k, v in state.items():
            self.shadow[k].copy_(v)

    def weights(self, name: str) -> dict[str, Tensor]:
        """State dict of one module."""
        return {k.split("/", 1)[1]: v for k, v in self.shadow.items() if k.startswith(name + "/")}
