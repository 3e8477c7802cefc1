"""The decision table: every key of every method on every backbone, and of every backbone, by its source.

Written by hand beside the YAMLs: from the papers and the released code that each entry names; for the
embedded world from what was tuned on clips that no table uses (docs/methods.md). A new key belongs here too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from test_methods_configs import BACKBONES, CONF, WITHOUT, resolved

Node = dict[str, Any]
WAN = ("wan2.1-1.3b", "wan2.1-14b")
COGVIDEOX = ("cogvideox-2b", "cogvideox-5b")
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))

# --- what every method that samples takes from the backbone --------------------------------------

# mayuelala/FastVMT:diffsynth/pipelines/wan_video.py, ``__call__``: 50 steps, cfg_scale 5.8, sigma_shift 7.
SAMPLING: dict[str, Node] = {
    name: {
        "steps": 50,
        "guidance_scale": 5.8,
        "negative_prompt": "low quality, blurry, distorted, overexposed, watermark, subtitles",
    }
    for name in WAN
}
# diffusers:pipelines/cogvideo/pipeline_cogvideox.py, ``__call__``: 50 steps, guidance 6, no negative prompt.
SAMPLING |= {name: {"steps": 50, "guidance_scale": 6.0, "negative_prompt": ""} for name in COGVIDEOX}
SAMPLING["sprites"] = {"steps": 25, "guidance_scale": 4.0, "negative_prompt": ""}


def optimiser(start: float, end: float, iterations: int, guided: float) -> Node:
    return {
        "optimiser": {
            "lr_start": start,
            "lr_end": end,
            "iterations": iterations,
            "guided_fraction": guided,
        }
    }


def everywhere(node: Node, **others: Node) -> dict[str, Node]:
    """The same on Wan and CogVideoX; ``others``: what a backbone (``_`` for ``-`` and ``.``) has instead."""
    short = {name.translate(str.maketrans("-.", "__")): name for name in BACKBONES}
    found = dict.fromkeys(BACKBONES, node)
    return found | {short[key]: {**node, **own} for key, own in others.items()}


# --- what conf/method holds for all backbones ----------------------------------------------------

START = {"strength": None}  # pure noise: the paper has no SDEdit start, the release has one
REUSE = {"policy": "fixed", "interval": 3, "longest": 10, "turn": 30.0, "move": 5.0, "across_steps": False}
TRAINING = {"weight_decay": 0.01, "beta2": 0.999, "clip_norm": None, "seed": 0}
# conf/tracker/dis.yaml has its values; they are compared below.
TRACKER = OmegaConf.to_container(OmegaConf.load(CONF / "tracker" / "dis.yaml"))
FASTVMT = {  # the paper; interval 3 and the rest of the release, see docs/fastvmt.md
    "extractor": "window",
    "reuse": REUSE,
    "reference": "clean",
}

OWN: dict[str, Node] = {
    "none": {"_target_": "methods.none.Plain"},
    "fastvmt": {"_target_": "methods.fastvmt.FastVMT", **FASTVMT},
    "full_attention": {
        "_target_": "methods.fastvmt.FastVMT",
        **FASTVMT,
        "extractor": "dense",
        "reuse": {**REUSE, "interval": 1},
        "loss": {"window_weight": 0},
    },
    "no_skipping": {"_target_": "methods.fastvmt.FastVMT", **FASTVMT, "reuse": {**REUSE, "interval": 1}},
    "no_window_loss": {"_target_": "methods.fastvmt.FastVMT", **FASTVMT, "loss": {"window_weight": 0}},
    "fastvmt_turbo": {  # docs/turbo.md
        "_target_": "methods.fastvmt_turbo.Turbo",
        **FASTVMT,
        "reuse": {**REUSE, "interval": 5},
        "coarse": {"pool": 1, "stride": 1},
        "unconditional": {"every": 4, "first": 0.2, "within": [0.0, 1.0]},
        "caching": {"every": 3, "first": 0.4, "last": 0.9, "order": 1, "threshold": None},
    },
    "reframe": {
        "_target_": "methods.reframe.Reframe",
        **FASTVMT,
        "reframing": {"shift": [0.0, 0.0], "scale": 0.75, "corners": None},
    },
    # mayuelala/FastVMT at 34a050b: compute_tile_AMF, compute_tile_amf_loss, guidance_step, reshape_qk;
    # strength 0.75 is that of both its example scripts.
    "fastvmt_released": {
        "_target_": "methods.fastvmt_released.Released",
        **FASTVMT,
        "reduction": "token_mean",
        "windows": {
            "tile_centre": "half",
            "rounding": "truncated",
            "clamp": "cells",
            "positions": "window",
            "checkerboard": True,
        },
        "pairs": {"self_pairs": True, "span_counts_self": True},
        "loss": {"amf_reduction": "sum", "window_average": "channels", "window_norm": "plain"},
        "depth": 20,
        "reference": "renoised",
        "optimiser": {
            "weight_decay": 0.01,
            "lr_over": "iterations",
            "guided_count": 10,
            "precision": "bfloat16",
        },
        "start": {"strength": 0.75},
    },
    # ditflow/ditflow:motion_guidance.py: keys and values of block 0 are injected.
    "ditflow": {"_target_": "methods.ditflow.DiTFlow", "injection": 0},
    "ditflow_rope": {
        "_target_": "methods.ditflow_rope.DiTFlowRope",
        "injection": 0,
        "tables": "own",
        "source_prompt": "",
    },
    "moft": {
        "_target_": "methods.moft.MOFT",
        "reframing": {"shift": [0.0, 0.0], "scale": 1.0, "corners": None},
        "reference": "clean",
    },
    "smm": {"_target_": "methods.smm.SMM", "reference": "clean"},
    # LPengYang/MotionClone: 10 steps of warm-up and of cool-down, of the 50 guided of its camera preset.
    "motionclone": {"_target_": "methods.motionclone.MotionClone", "warm_up": 0.2, "cool_down": 0.2},
    # HKUST-LongGroup/FlowMotion:run.py: 20 MSE + 5 MSE of frame differences, a tenth of the orthogonal part.
    "flowmotion": {
        "_target_": "methods.flowmotion.FlowMotion",
        "loss": {"latent_weight": 20.0, "difference_weight": 5.0},
        "regularise": 0.1,
    },
    # YigitEkin/RoPECraft:generate.py: phases + 0.1 MSE, shift clamp 1, AdamW with PyTorch's decay.
    "ropecraft": {
        "_target_": "methods.ropecraft.RoPECraft",
        "warp": {"flow": "dis", "path": "forward", "divisor": None, "limit": 1.0},
        "loss": {"phase_weight": 1.0, "velocity_weight": 0.1},
        "optimiser": {"weight_decay": 0.01},
    },
    # showlab/MotionDirector:configs/config_single_video.yaml; its spatial path rests at a fifth of the steps.
    "motion_director": {
        "_target_": "methods.motion_director.MotionDirector",
        "dropout": 0.1,
        "spatial_off": 0.2,
        "debiased_weight": 1.0,
        "training": TRAINING,
        "scale": 1.0,
    },
    # EnVision-Research/MotionInversion:configs/config.yaml; diffusers' AdamW defaults.
    "motion_inversion": {
        "_target_": "methods.motion_inversion.MotionInversion",
        "training": TRAINING,
        "scale": 1.0,
    },
    # Shi-qingyu/DeT:train_cogvideox.sh: C -> 128 -> C, kernel 3, betas .9 and .95, decay 1e-4, norm 1; the
    # paper's weight 0.1 on about 100 tracks, at timesteps up to 400.
    "det": {
        "_target_": "methods.det.DeT",
        "width": 128,
        "kernel": 3,
        "tracking": {"weight": 0.1, "points": 100, "below_sigma": 0.555},
        "tracker": TRACKER,
        "training": {"weight_decay": 1e-4, "beta2": 0.95, "clip_norm": 1.0, "seed": 0},
        "scale": 1.0,
    },
}

# --- what conf/tuned holds for one backbone ------------------------------------------------------

# The paper: block 14, tiles 3x4, windows 21x21, 20 % guided, 10 iterations, 3e-3 to 2e-3, 5 AMF + 1 window.
ON_WAN = {
    "block": 14,
    "reduction": "head_mean",
    "temperature": 1.0,
    "window": 21,
    "tile": [3, 4],
    "span": 4,
    "loss": {"amf_weight": 5.0, "window_weight": 1.0},
    **optimiser(3e-3, 2e-3, 10, 0.2),
}
FASTVMT_TUNED = everywhere(
    ON_WAN,
    cogvideox_2b={"block": 15, "tile": [3, 5]},  # 30x45 tokens; DiTFlow's blocks for these networks
    cogvideox_5b={"block": 20, "tile": [3, 5]},
    sprites={
        "block": 7,
        "reduction": "concat",
        "window": 7,
        "tile": [2, 2],
        "loss": {"amf_weight": 5.0, "window_weight": 0.01},
        **optimiser(0.03, 0.02, 10, 0.4),
    },
)
# ditflow/ditflow:configs/guidance_config.yaml: 5 iterations in the first 10 of 50 steps, at
# linspace(2e-3, 1e-3, 11), whose last value no step uses; blocks 15 (2B) and 20 (5B); MOFT's and SMM's ports
# share all of it.
PORT = optimiser(2e-3, 1.1e-3, 5, 0.2)
BLOCKS = {"cogvideox_2b": {"block": 15}, "cogvideox_5b": {"block": 20}}

TUNED: dict[str, dict[str, Node]] = dict.fromkeys(
    (
        "fastvmt",
        "full_attention",
        "no_skipping",
        "no_window_loss",
        "fastvmt_turbo",
        "reframe",
        "fastvmt_released",
    ),
    FASTVMT_TUNED,
)
TUNED["ditflow"] = everywhere(
    {"block": 14, "temperature": 2.0, **PORT},
    **BLOCKS,
    sprites={"block": 7, "temperature": 3.0, **optimiser(0.03, 0.02, 5, 0.4)},
)
TUNED["ditflow_rope"] = TUNED["ditflow"]
TUNED["moft"] = everywhere(  # 4 % of the channels
    {"block": 14, "channels": 0.04, **PORT},
    **BLOCKS,
    sprites={"block": 5, "channels": 0.5, **optimiser(0.03, 0.02, 10, 0.4)},
)
TUNED["smm"] = everywhere(
    {"block": 14, **PORT}, **BLOCKS, sprites={"block": 3, **optimiser(0.03, 0.02, 10, 0.4)}
)
# Strength 2000 for 8 heads x 16 frames x 16 x 16 places; here heads x frames x places, see the test below.
TUNED["motionclone"] = everywhere(
    {"block": 14, "strength": 2.4e4, "reference_sigma": 0.61, "guided_fraction": 0.5},
    wan2_1_14b={"strength": 8.0e4},
    cogvideox_2b={"block": 15, "strength": 3.2e4},
    cogvideox_5b={"block": 20, "strength": 5.1e4},
    sprites={"block": 7, "strength": 1e4},
)
TUNED["flowmotion"] = everywhere(  # run.py: 3 iterations at 3e-3 in the first 10 of 50 steps
    {"source": "latent_prediction", **optimiser(3e-3, 3e-3, 3, 0.2)},
    sprites={"source": "clean_latent", **optimiser(0.02, 0.02, 10, 0.6)},
)
TUNED["ropecraft"] = everywhere(  # generate.py: Gaussian 21 tokens wide, deviation 11; 5 iterations at 1e-3
    {"warp": {"kernel": 21, "sigma": 11.0}, **optimiser(1e-3, 1e-3, 5, 0.2)},
    sprites={"warp": {"kernel": 3, "sigma": 1.0}, **optimiser(0.01, 0.01, 5, 0.4)},
)
TUNED["motion_director"] = everywhere(  # rank 32, 150 steps at 5e-4
    {"rank": 32, "training": {"steps": 150, "learning_rate": 5e-4}},
    sprites={"training": {"steps": 100, "learning_rate": 1e-3}},
)
TUNED["motion_inversion"] = everywhere(  # at most 400 steps at 2e-2
    {"value_frames": False, "debias": "drop", "training": {"steps": 400, "learning_rate": 2e-2}},
    sprites={
        "value_frames": True,
        "debias": "difference",
        "training": {"steps": 200, "learning_rate": 2e-2},
    },
)
TUNED["det"] = everywhere(  # 500 steps at 1e-5
    {"training": {"steps": 500, "learning_rate": 1e-5}},
    sprites={"training": {"steps": 200, "learning_rate": 5e-5}},
)

ELSEWHERE: dict[str, Node] = {
    "precomputed": {"_target_": "methods.precomputed.Precomputed", "name": "precomputed", "manifest": None},
    "external": {
        "_target_": "methods.external.External",
        "name": "external",
        "command": None,
        "folder": None,
        "options": {},
        "environment": {},
        "release": None,
        "timeout": 3600,
    },
}


def merged(*nodes: Node) -> Node:
    """Later nodes over earlier ones, key by key; ``tracker`` as a whole."""
    found: Node = {}
    for node in nodes:
        for key, value in node.items():
            both = isinstance(value, dict) and isinstance(found.get(key), dict)
            found[key] = merged(found[key], value) if both else value
    return found


def test_the_table_has_every_method_and_every_backbone() -> None:
    assert sorted({*OWN, *ELSEWHERE}) == METHODS
    assert sorted(SAMPLING) == BACKBONES == sorted(BACKBONE)
    assert {name for name in OWN if name != "none"} == set(TUNED)
    folders = {path.name: sorted(file.stem for file in path.iterdir()) for path in (CONF / "tuned").iterdir()}
    assert folders == dict.fromkeys(folders, BACKBONES)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", OWN)
def test_a_method_has_the_values_of_its_source(name: str, backbone: str) -> None:
    tuned = TUNED[name][backbone] if name in TUNED else {}
    # What a method's own YAML says of a loss or reduction holds whatever is tuned.
    wanted = merged({"name": name, "start": START}, SAMPLING[backbone], tuned, OWN[name])
    assert resolved(name, backbone=backbone) == wanted


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_method_without_a_backbone_has_the_values_of_its_contract(name: str) -> None:
    own = {"negative_prompt": SAMPLING["sprites"]["negative_prompt"]} if name == "external" else {}
    # Of a manifest later versions may say more; what is here stays.
    assert resolved(name, backbone="sprites").items() >= {**ELSEWHERE[name], **own}.items()


@pytest.mark.parametrize(
    "backbone, heads, frames, height, width",
    [
        ("wan2.1-1.3b", 12, 81, 480, 832),
        ("wan2.1-14b", 40, 81, 480, 832),
        ("cogvideox-2b", 30, 49, 480, 720),
        ("cogvideox-5b", 48, 49, 480, 720),
    ],
)
def test_motionclone_s_strength_grows_with_the_rows_it_is_averaged_over(
    backbone: str, heads: int, frames: int, height: int, width: int
) -> None:
    rows = heads * ((frames - 1) // 4 + 1) * (height // 16) * (width // 16)
    authors = 2000 / (8 * 16 * 16 * 16)
    strength = resolved("motionclone", backbone=backbone)["strength"]
    assert strength == pytest.approx(authors * rows, rel=0.02)


def test_det_s_noise_level_is_that_of_its_authors_timestep() -> None:
    from diffusers import CogVideoXDDIMScheduler

    assert BACKBONE["cogvideox-5b"]["architecture"]["scheduler"]["snr_shift_scale"] == 1.0
    scheduler = CogVideoXDDIMScheduler.from_config(BACKBONE["cogvideox-5b"]["architecture"]["scheduler"])
    power = float(scheduler.alphas_cumprod[400])
    signal, noise = power**0.5, (1 - power) ** 0.5
    tracking = resolved("det", backbone="cogvideox-5b")["tracking"]
    assert tracking["below_sigma"] == pytest.approx(noise / (signal + noise), abs=5e-4)


# --- backbones -----------------------------------------------------------------------------------

# The config.json files of Wan-AI/Wan2.1-T2V-1.3B-Diffusers and -14B-Diffusers, and of google/umt5-xxl.
UMT5 = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "gated-gelu",
}


def wan(name: str, model: str, heads: int, ffn: int, blocks: int) -> Node:
    return {
        "_target_": "methods.backbones.wan.WanBackbone",
        "name": name,
        "model": f"Wan-AI/{model}",
        "revision": "main",
        "weights": "pretrained",
        "random_seed": 0,
        "height": 480,
        "width": 832,
        "shift": 7.0,
        "max_tokens": 512,
        "dtype": "bfloat16",
        "attention": None,
        "compile": "auto",
        "checkpoint": "auto",
        "vae_tiling": False,
        "cpu_offload": False,
        "own_world_only": False,
        "most_frames": 81,
        "architecture": {
            "transformer": {
                "patch_size": [1, 2, 2],
                "num_attention_heads": heads,
                "attention_head_dim": 128,
                "in_channels": 16,
                "out_channels": 16,
                "text_dim": 4096,
                "freq_dim": 256,
                "ffn_dim": ffn,
                "num_layers": blocks,
                "cross_attn_norm": True,
                "qk_norm": "rms_norm_across_heads",
                "eps": 1e-6,
                "rope_max_seq_len": 1024,
            },
            "vae": {
                "base_dim": 96,
                "z_dim": 16,
                "dim_mult": [1, 2, 4, 4],
                "num_res_blocks": 2,
                "attn_scales": [],
                "temperal_downsample": [False, True, True],
                "scale_factor_temporal": 4,
                "scale_factor_spatial": 8,
            },
            "text_encoder": UMT5,
        },
    }


# The config.json files of THUDM/CogVideoX-2b and -5b; T5 v1.1 XXL.
def cogvideox(
    name: str, model: str, heads: int, blocks: int, rotary: bool, scaling: float, snr: float
) -> Node:
    t5 = {key: value for key, value in UMT5.items() if key != "relative_attention_max_distance"}
    return {
        "_target_": "methods.backbones.cogvideox.CogVideoXBackbone",
        "name": name,
        "model": f"THUDM/{model}",
        "revision": "main",
        "weights": "pretrained",
        "random_seed": 0,
        "height": 480,
        "width": 720,
        "max_tokens": 226,
        "dtype": "bfloat16",
        "checkpoint": "auto",
        "vae_tiling": False,
        "cpu_offload": False,
        "own_world_only": False,
        "most_frames": 49,
        "architecture": {
            "transformer": {
                "num_attention_heads": heads,
                "attention_head_dim": 64,
                "in_channels": 16,
                "out_channels": 16,
                "time_embed_dim": 512,
                "text_embed_dim": 4096,
                "num_layers": blocks,
                "attention_bias": True,
                "sample_width": 90,
                "sample_height": 60,
                "sample_frames": 49,
                "patch_size": 2,
                "temporal_compression_ratio": 4,
                "max_text_seq_length": 226,
                "spatial_interpolation_scale": 1.875,
                "temporal_interpolation_scale": 1.0,
                "use_rotary_positional_embeddings": rotary,
            },
            "vae": {
                "block_out_channels": [128, 256, 256, 512],
                "latent_channels": 16,
                "layers_per_block": 3,
                "temporal_compression_ratio": 4,
                "scaling_factor": scaling,
            },
            "text_encoder": {**t5, "vocab_size": 32128},
            "scheduler": {
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "beta_schedule": "scaled_linear",
                "num_train_timesteps": 1000,
                "prediction_type": "v_prediction",
                "rescale_betas_zero_snr": True,
                "set_alpha_to_one": True,
                "snr_shift_scale": snr,
                "timestep_spacing": "trailing",
                "clip_sample": False,
            },
        },
    }


BACKBONE: dict[str, Node] = {
    "wan2.1-1.3b": wan("wan2.1-1.3b", "Wan2.1-T2V-1.3B-Diffusers", 12, 8960, 30),
    "wan2.1-14b": wan("wan2.1-14b", "Wan2.1-T2V-14B-Diffusers", 40, 13824, 40),
    "cogvideox-2b": cogvideox("cogvideox-2b", "CogVideoX-2b", 30, 30, False, 1.15258426, 3.0),
    "cogvideox-5b": cogvideox("cogvideox-5b", "CogVideoX-5b", 48, 42, True, 0.7, 1.0),
    "sprites": {  # the embedded world, as it was trained (docs/world.md)
        **wan("sprites", "", 0, 0, 0),
        "model": "sprites",
        "height": 64,
        "width": 64,
        "shift": 3.0,
        "max_tokens": 16,
        "dtype": "float32",
        "compile": False,
        "checkpoint": False,
        "own_world_only": True,
        "most_frames": 17,
        "architecture": None,
    },
}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_has_its_published_values(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"backbone={name}", *WITHOUT])
    found = OmegaConf.to_container(config.backbone, resolve=True)
    found.pop("tuned", None)
    assert found == {**BACKBONE[name], **SAMPLING[name]}


def test_the_embedded_world_samples_with_the_shift_it_was_trained_with() -> None:
    folder = Path(__file__).parents[2] / "methods" / "backbones" / "checkpoints" / "sprites" / "scheduler"
    trained = json.loads((folder / "scheduler_config.json").read_text())
    assert BACKBONE["sprites"]["shift"] == trained["shift"]
