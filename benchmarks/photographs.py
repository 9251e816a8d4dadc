"""Photographs as a phone would send them, the same for a seed: cut from the two that ship with scikit-learn."""

from __future__ import annotations

import importlib.resources
import io
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

SEED = 20261129
NAMES = ("china.jpg", "flower.jpg")


@dataclass(frozen=True, slots=True)
class Camera:
    """What a picture of it is like. `grain`: the deviation of its sensor's noise, which is much of a file's size."""

    width: int
    height: int
    quality: int
    grain: float


# Such that a file of each has about 100 to 300 kB.
CAMERAS = (Camera(640, 480, 90, 6), Camera(1024, 768, 85, 4), Camera(1280, 960, 80, 4), Camera(1600, 1200, 75, 3))


def photographs(count: int, seed: int = SEED) -> list[bytes]:
    """`count` JPEG files, the cameras in turn, each of another cut. The first n are the same whatever `count` is."""
    sources = [_source(name) for name in NAMES]
    choose, noise = random.Random(seed), np.random.default_rng(seed)
    return [_taken(choose.choice(sources), CAMERAS[number % len(CAMERAS)], choose, noise) for number in range(count)]


def _source(name: str) -> Image.Image:
    file = importlib.resources.files("sklearn.datasets.images") / name
    return Image.open(io.BytesIO(file.read_bytes())).convert("RGB")


def _taken(source: Image.Image, camera: Camera, choose: random.Random, noise: np.random.Generator) -> bytes:
    """A cut of 60 to 100 % of the height, as large as the camera makes it."""
    height = round(source.height * choose.uniform(0.6, 1.0))
    width = min(source.width, round(height * camera.width / camera.height))
    left, top = choose.randint(0, source.width - width), choose.randint(0, source.height - height)
    cut = source.crop((left, top, left + width, top + height)).resize(
        (camera.width, camera.height), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(cut, np.float32) + noise.normal(0, camera.grain, (camera.height, camera.width, 1))
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=camera.quality)
    return out.getvalue()
