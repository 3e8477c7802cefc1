"""TRAJAN for an external scorer: `python score_trajan.py JOB.json`, docs/external.md.

In an environment with JAX and `pip install git+https://github.com/google-deepmind/tapnet flax einops av` (at
c2cbab8). Tracks of BootsTAPIR go through a track autoencoder; the score is how well they come back (Allen et
al., arXiv 2505.00209). options: `tapir`, `autoencoder`: the files bootstapir_checkpoint_v2.npy and
track_autoencoder_ckpt.npz. Not run against the real networks.
"""

import json
import sys
from pathlib import Path

import av
import jax
import mediapy
import numpy as np
from tapnet.models import tapir_model
from tapnet.trajan import track_autoencoder
from tapnet.utils import model_utils

SIDE, LENGTH, CHUNK = 256, 150, 32  # pixels that are tracked, frames of the autoencoder, queries a call
SUPPORT = TARGETS = 2048
PIXELS = (1, 2, 4, 8, 16)


def tracked(tapir, frames, rng):
    """Tracks (N, T, 2), x and y in pixels of (T, SIDE, SIDE, 3) frames, and where they are visible (N, T)."""
    inputs = model_utils.preprocess_frames(frames)[None]
    grids = tapir.get_feature_grids(inputs, is_training=False)
    sizes = (len(frames), SIDE, SIDE)
    queries = np.stack([rng.integers(0, size, SUPPORT + TARGETS) for size in sizes], -1).astype(np.float32)

    @jax.jit
    def follow(some):
        found = tapir(
            video=inputs,
            query_points=some[None],
            is_training=False,
            query_chunk_size=CHUNK,
            feature_grids=grids,
        )
        seen = model_utils.postprocess_occlusions(found["occlusion"], found["expected_dist"])
        return found["tracks"][0], seen[0]

    parts = [follow(queries[first : first + CHUNK]) for first in range(0, len(queries), CHUNK)]
    tracks, visible = zip(*parts, strict=True)
    return np.concatenate(tracks), np.concatenate(visible)


def autoencoded(forward, tracks, visible, rng):
    """Places and visibility of the last TARGETS tracks, as the autoencoder has them from the first ones."""
    length = tracks.shape[1]
    room = ((0, 0), (0, LENGTH - length))
    places = np.pad((tracks + 0.5) / SIDE, (*room, (0, 0))).astype(np.float32)
    seen = np.pad(visible, room).astype(np.float32)
    targets, shown = places[SUPPORT:], seen[SUPPORT:]
    # A query is a place where its track is seen; one that never is begins at frame 0.
    when = np.array([rng.choice(np.flatnonzero(one)) if one.any() else 0 for one in shown])
    queries = np.concatenate([when[:, None], targets[np.arange(len(targets)), when]], -1)
    found = forward(
        {
            "support_tracks": places[None, :SUPPORT],
            "support_tracks_visible": seen[None, :SUPPORT, :, None],
            "query_points": queries[None].astype(np.float32),
            "boundary_frame": np.array([length]),
        }
    )
    # It is made for logits of being hidden: from those of being visible it tells the hidden.
    hidden = model_utils.postprocess_occlusions(found.visible_logits, found.certain_logits)
    return np.asarray(found.tracks)[0, :, :length] * SIDE, ~np.asarray(hidden)[0, :, :length, 0]


def jaccard(tracks, visible, found, found_visible):
    """TAP-Vid's average Jaccard (Doersch et al. 2022) over PIXELS, of all frames but the first."""
    tracks, visible, found, found_visible = (one[:, 1:] for one in (tracks, visible, found, found_visible))
    apart = np.linalg.norm(tracks - found, axis=-1)
    values = []
    for limit in PIXELS:
        right = found_visible & visible & (apart < limit)
        values.append(right.sum() / (visible.sum() + (found_visible & ~right).sum()))
    return float(np.mean(values))


def tree(flat):
    """Parameters by name as a tree, which their slashes tell."""
    found = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        node = found
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return found


def main():
    job = json.loads(Path(sys.argv[-1]).read_text())
    kept = np.load(job["options"]["tapir"], allow_pickle=True).item()
    settings = {"pyramid_level": 1, "extra_convs": True, "softmax_temperature": 10.0}
    settings["bilinear_interp_with_depthwise_conv"] = False
    tapir = tapir_model.ParameterizedTAPIR(kept["params"], kept["state"], tapir_kwargs=settings)
    model = track_autoencoder.TrackAutoEncoder(decoder_scan_chunk_size=CHUNK)
    params = tree(np.load(job["options"]["autoencoder"], allow_pickle=False))
    forward = jax.jit(lambda inputs: model.apply({"params": params}, inputs))
    scores = {}
    for video in job["videos"]:
        with av.open(video["video"]) as opened:
            frames = [picture.to_ndarray(format="rgb24") for picture in opened.decode(video=0)][:LENGTH]
        rng = np.random.default_rng(0)
        tracks, visible = tracked(tapir, mediapy.resize_video(np.stack(frames), (SIDE, SIDE)), rng)
        found = autoencoded(forward, tracks, visible, rng)
        scores[video["id"]] = jaccard(tracks[SUPPORT:] + 0.5, visible[SUPPORT:], *found)
    Path(job["output"]).write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
