"""Adds what changes over time in the reference to the start noise: the cheapest motion transfer."""

from typing import ClassVar

import pydantic

from methods.interface import LatentMethod


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class ChangeStart(LatentMethod):
    """``gain`` scales the reference's deviation from its own mean over time."""

    name: str
    gain: float
    steps: int
    guidance_scale: float
    negative_prompt: str

    version: ClassVar[str] = "1"  # change it when the code changes the output

    def transfer(self, backbone, reference, prompt, noise, observer):
        with observer.stage("text"):
            text, negative = backbone.embed([prompt, self.negative_prompt]).split(1)
        schedule = backbone.schedule(self.steps)
        latent = noise + self.gain * (reference - reference.mean(dim=2, keepdim=True))
        for index in range(self.steps):
            observer.step(index, self.steps)
            with observer.stage("denoise"):
                velocity = backbone.predict(
                    latent, schedule.timesteps[index], text, negative, self.guidance_scale
                )
                latent = backbone.step(latent, velocity, schedule, index)
        return latent
