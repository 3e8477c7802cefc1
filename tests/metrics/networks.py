"""Networks of the real classes with random weights, for metrics whose weights are not part of the package."""

from __future__ import annotations

from pathlib import Path

import torch


def tiny_dino(folder: Path) -> str:
    """A ViT of transformers' class with the original's patches and positions, in a folder as the hub's."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, image_size=224
    )
    model = ViTModel(config, add_pooling_layer=False)
    with torch.no_grad():
        # As large as what they are added to, so that it shows how they are resized.
        model.embeddings.position_embeddings.normal_()
        model.embeddings.cls_token.normal_()
    model.save_pretrained(folder)
    return str(folder)


def random_raft(path: Path) -> str:
    """RAFT (large) of torchvision with random weights, its state in a file."""
    from torchvision.models.optical_flow import raft_large

    torch.manual_seed(0)
    torch.save(raft_large(weights=None).state_dict(), path)
    return str(path)
