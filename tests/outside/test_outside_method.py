"""A method from outside the package: one file, and one YAML that names it."""

from __future__ import annotations

FILES = {
    "method_from_outside/halfway.py": '''
from typing import ClassVar

import pydantic

from methods.interface import LatentMethod


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Halfway(LatentMethod):
    """Denoises from the reference's latent, noised to a share of the schedule."""

    name: str
    share: float
    steps: int
    guidance_scale: float
    negative_prompt: str

    version: ClassVar[str] = "1"

    def transfer(self, backbone, reference, prompt, noise, observer):
        with observer.stage("text"):
            text, negative = backbone.embed([prompt, self.negative_prompt]).split(1)
        schedule = backbone.schedule(self.steps)
        first = round((1 - self.share) * self.steps)
        latent = backbone.add_noise(reference, noise, float(schedule.sigmas[first]))
        for index in range(first, self.steps):
            observer.step(index, self.steps)
            with observer.stage("denoise"):
                velocity = backbone.predict(
                    latent, schedule.timesteps[index], text, negative, self.guidance_scale
                )
                latent = backbone.step(latent, velocity, schedule, index)
        return latent
''',
    "configs/method/halfway.yaml": """
_target_: method_from_outside.halfway.Halfway
name: halfway
share: 0.5
steps: ${backbone.steps}
guidance_scale: ${backbone.guidance_scale}
negative_prompt: ${backbone.negative_prompt}
""",
}


def test_a_method_from_outside_is_run_counted_and_recorded(outside):
    (record,) = outside(FILES, "method=halfway", "dataset.clips=1", "backbone.steps=4", "method.share=0.5")
    assert (record.status, record.method.name, record.clip) == ("ok", "halfway", "curved-0000")
    assert record.calls == {"forward": 4} and record.flops.forward_equivalents == 4
    assert {"encode", "text", "denoise", "decode"} <= record.timing.stages.keys()
    assert record.identity["method"] == {
        "kind": "",
        "version": "1",
        "config": {
            "name": "halfway",
            "share": 0.5,
            "steps": 4,
            "guidance_scale": 4.0,
            "negative_prompt": "",
        },
    }
