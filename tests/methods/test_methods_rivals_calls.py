"""What the training-free rivals ask of a backbone at Wan's size, by their YAMLs, counted without one."""

from __future__ import annotations

import pytest
from test_methods_configs import build, resolved

from harness.cost.calls import Call, method_calls
from methods.backbones.interface import Grid

WAN = Grid(21, 30, 52)
DENOISING = {
    Call("text", "embed"): 3,
    Call("encode", "encode"): 1,
    Call("denoise", "forward"): 100,
    Call("decode", "decode"): 1,
}
# 10 guided steps of 5 iterations.
FEATURES = {
    Call("extract", "partial", 14, "hidden_states"): 1,
    Call("guide", "gradient", 14, "hidden_states"): 50,
}
RIVALS = {
    "smm": FEATURES,
    "moft": FEATURES,
    # Half of the steps, a gradient each.
    "motionclone": {
        Call("extract", "partial", 14, "queries_keys"): 1,
        Call("guide", "gradient", 14, "queries_keys"): 25,
    },
    # 10 guided steps of 3 iterations, each with classifier-free guidance; no gradient.
    "flowmotion": {Call("extract", "forward"): 10, Call("guide", "forward"): 60},
    # As fastvmt: every third gradient of 10 is a true one.
    "reframe": {
        Call("extract", "partial", 14, "queries_keys"): 1,
        Call("guide", "gradient", 14, "queries_keys"): 40,
    },
}


@pytest.mark.parametrize("name", RIVALS)
def test_the_authors_defaults_make_these_calls(name):
    method = build(resolved(name))
    method.check(WAN, 30)
    assert method_calls(method, WAN, 30) == {**DENOISING, **RIVALS[name]}


def test_a_clean_source_saves_flowmotion_its_extraction():
    method = build({**resolved("flowmotion"), "source": "clean_latent"})
    wanted = {**DENOISING, Call("guide", "forward"): 60}
    assert method_calls(method, WAN, 30) == wanted
