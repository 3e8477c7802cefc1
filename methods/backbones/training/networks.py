"""The networks of ``backbone=sprites``: a tiny genuine WanPipeline."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from datasets.sprites import world as sprites
from methods.backbones.training.optimiser import Average

LATENT_CHANNELS = 8
MAX_TOKENS = 16
FRAMES, SIDE = 17, 64
SHIFT = 3.0
"""Of the sampler, as Wan's at 480p."""


def build_vae(mean: list[float] | None = None, std: list[float] | None = None) -> Any:
    """Four-fold compression in space and time, with Wan 2.2's residual shortcuts (they learn faster).

    The scale factors must be explicit: without them the pipeline returns videos of another size.
    """
    from diffusers import AutoencoderKLWan

    network: Any = AutoencoderKLWan
    return network(
        base_dim=16,
        decoder_base_dim=16,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=True,
        latents_mean=mean or [0.0] * LATENT_CHANNELS,
        latents_std=std or [1.0] * LATENT_CHANNELS,
        scale_factor_spatial=4,
        scale_factor_temporal=4,
    )


@torch.no_grad()
def see_single_frames(vae: Any) -> None:
    """Start temporal convolutions as if time did not exist, so that training may begin on images."""
    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] == 3:
            module.weight[:, :, :2] = 0
            if name.endswith("time_conv"):
                module.weight.zero_()
                assert module.bias is not None
                module.bias.zero_()
                copies = module.out_channels // module.in_channels
                module.weight[:, :, 2, 0, 0] = torch.eye(module.in_channels).repeat(copies, 1)


def build_transformer() -> Any:
    """Eight blocks of width 128."""
    from diffusers import WanTransformer3DModel

    network: Any = WanTransformer3DModel
    return network(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=128,
        freq_dim=128,
        ffn_dim=512,
        num_layers=8,
        rope_max_seq_len=64,
    )


def build_tokenizer() -> Any:
    """Word-level tokenizer over ``sprites.vocabulary()`` that ends every text with </s>, as T5's does."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", *sprites.vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    wrapped: Any = PreTrainedTokenizerFast
    return wrapped(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_TOKENS,
    )


def build_text_encoder(vocabulary: int) -> Any:
    """Two layers of width 128."""
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocabulary,
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=16,
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        )
    )


@torch.no_grad()
def look_at_neighbours(text_encoder: Any) -> None:
    """Self-attention anew: a head for the word before, one for the word after, none by the words themselves.

    UMT5 does not scale its scores: at the transformer's learning rate they grow until every head sees one
    word like "a" or "on" whatever the rest, and the encoding of "a red square and a blue star" is that of
    "a blue square and a red star".
    """
    for block in text_encoder.encoder.block:
        attention = block.layer[0].SelfAttention
        attention.q.weight.zero_()
        bias = attention.relative_attention_bias.weight  # (buckets, heads)
        bias.zero_()
        # Buckets of distances: 0, 1, ... backwards in the first half, forwards in the second.
        bias[1, 0] = bias[len(bias) // 2 + 1, 1] = 5.0


def embed(text_encoder: Any, tokenizer: Any, captions: list[str]) -> Tensor:
    """(n, MAX_TOKENS, 128), zeros after the text, as WanPipeline pads."""
    tokens = tokenizer(
        captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    )
    mask = tokens.attention_mask
    states: Tensor = text_encoder(tokens.input_ids, mask).last_hidden_state * mask[..., None]
    return states


def build_pipeline(vae: Any, average: Average, mean: Tensor, std: Tensor) -> Any:
    """WanPipeline (float32) of the averaged weights; ``mean`` and ``std``: ``statistics`` of the latents."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    tokenizer = build_tokenizer()
    parts = {
        "transformer": build_transformer(),
        "text_encoder": build_text_encoder(len(tokenizer)),
        "vae": build_vae(mean.flatten().tolist(), std.flatten().tolist()),
    }
    for name, part in parts.items():
        part.load_state_dict(vae.state_dict() if name == "vae" else average.weights(name))
        part.eval()
    pipeline: Any = WanPipeline
    scheduler: Any = FlowMatchEulerDiscreteScheduler
    return pipeline(tokenizer=tokenizer, scheduler=scheduler(shift=SHIFT), **parts)
