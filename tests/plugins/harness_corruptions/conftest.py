"""Photographs, or pictures generated like them, and the package fed with draws that the native code gets as well."""

from __future__ import annotations

import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness import rng
from harness.protocols import PerturbationContext
from harness.targets import missing_packages
from harness.types import ImageBatch, View

PHOTOS = Path(__file__).resolve().parents[4] / "shared" / "data" / "imagenet_photos" / "images"


def generated(number, side, width=None):
    """Smooth colours with edges and some grain: (N, side, width, 3) uint8."""
    pictures = []
    for name in range(number):
        generator = np.random.default_rng(name)
        coarse = Image.fromarray(generator.integers(0, 256, (7, 7, 3), dtype=np.uint8))
        size = (width or side, side)
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(int)
        sharp = np.asarray(coarse.resize(size, Image.Resampling.NEAREST)).astype(int)
        mixed = np.where(np.arange(size[0])[None, :, None] < size[0] // 2, smooth, sharp)
        pictures.append((mixed + generator.integers(-9, 10, mixed.shape)).clip(0, 255).astype(np.uint8))
    return np.stack(pictures)


@pytest.fixture(scope="session")
def pictures():
    """``pictures(n, side, width)``: generated pictures, (N, side, width, 3) uint8."""
    return generated


@pytest.fixture(scope="session")
def photographs():
    """``photographs(n)``: real ones of 224 pixels, (N, 224, 224, 3) uint8; skips where they are not here."""

    def load(number):
        files = sorted(PHOTOS.glob("*.webp"))[:number] if PHOTOS.is_dir() else []
        if len(files) < number:
            pytest.skip(f"{number} real photographs are not here")
        return np.stack([np.asarray(Image.open(file).convert("RGB").crop((37, 37, 261, 261))) for file in files])

    return load


@pytest.fixture(scope="session")
def tensor_of():
    """(N, H, W, 3) uint8 pictures as (N, 3, H, W) float32 pixels in [0, 1]."""
    return lambda given: torch.from_numpy(np.array(given)).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="session")
def batch_of(tensor_of):
    """A batch of uint8 pictures, whose ids are ``ids`` or their numbers."""

    def make(given, ids=None):
        number = len(given)
        return ImageBatch(
            images=tensor_of(given),
            labels=torch.zeros(number, dtype=torch.int64),
            ids=tuple(ids or (f"picture {i}" for i in range(number))),
            positions=np.arange(number),
        )

    return make


@pytest.fixture(scope="session")
def corrupted(batch_of):
    """``corrupted(corruption, pictures, severity, seed=0, ids=None)``: the native result in 255ths, (N, H, W, 3)."""

    def run(corruption, given, severity, *, seed=0, ids=None):
        batch = batch_of(given, ids)
        corruption.prepare(
            PerturbationContext(
                seed=seed,
                view=View(crop=given.shape[1]),
                device=torch.device("cpu"),
                dataset_fingerprint="none",
                num_classes=2,
            )
        )
        images = corruption.apply(batch, corruption.begin(batch), severity).images
        return (images.double() * 255).permute(0, 2, 3, 1).numpy().round(4)

    return run


@pytest.fixture(scope="session")
def package():
    """The package's functions; skips where it is not installed."""
    if missing_packages("corruptions"):
        pytest.skip("the package imagecorruptions is not installed")
    from harness_corruptions import reference

    return reference.package()


@pytest.fixture
def fed(package, monkeypatch):
    """``fed(name, picture, severity, normal=..., ...)``: the package's result with its random calls answered so."""

    def run(name, picture, severity, **answers):
        class Over:
            def __init__(self, module, **replaced):
                self._module = module
                self.__dict__.update(replaced)

            def __getattr__(self, attribute):
                return getattr(self._module, attribute)

        random = types.SimpleNamespace(**answers)
        with monkeypatch.context() as patch:
            patch.setattr(package, "np", Over(np, float_=np.float64, random=random))
            found = getattr(package, name)(Image.fromarray(picture), severity)
        return np.uint8(found)

    return run


@pytest.fixture(scope="session")
def radial_spectrum():
    """``radial_spectrum(differences)``: mean power of (N, H, W, 3) differences in 8 rings of spatial frequency."""

    def rings(differences):
        power = np.abs(np.fft.fft2(differences, axes=(1, 2))) ** 2
        height, width = differences.shape[1:3]
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
        ring = np.minimum((frequency / 0.5 * 8).astype(int), 7)
        mean = power.mean(axis=(0, 3))
        return np.array([mean[ring == number].mean() for number in range(8)])

    return rings


@pytest.fixture(scope="session")
def uniforms_of():
    """Keyed uniform numbers for tests: ``uniforms_of(stream, ids, shape)``."""
    return lambda stream, ids, shape: rng.dense_uniforms(0, f"test.{stream}", ids, shape)
