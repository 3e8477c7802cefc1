"""Training the tiny CLIP: it can be cut off."""

from __future__ import annotations

import torch

from datasets.sprites.world import vocabulary
from metrics.clip_model import WordTokenizer, tiny_config, vocabulary_of
from metrics.training.train_sprites_clip import Settings, train


def test_a_finished_training_is_read_back_from_its_state(tmp_path, capsys):
    words = vocabulary_of(vocabulary())
    arguments = Settings(steps=2, batch=4, clips=6), tiny_config(len(words)), WordTokenizer(words)
    state = tmp_path / "clip.pt"
    model, losses = train(*arguments, state)
    assert [step for step, _ in losses] == [0] and not model.training
    before = state.read_bytes()
    again, read = train(*arguments, state)
    assert read == losses and state.read_bytes() == before
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
