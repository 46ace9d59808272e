"""Wall time of a sweep over that of the forward passes it needs: ``python tests/benchmarks/bench_engine_overhead.py``.

Ten PatchDrop levels and two probes over JPEG files; model, images and everything else by name, as from the command
line. What stands above the line: building the model, decoding, support features and their cache, fitting, perturbing,
probing, checkpoints, outcomes, records, summaries. Below it: the same forward passes over batches already decoded.
The two take turns in one process, so that a slow spell of the machine meets both. Beside wall time stands processor
time, which other people's work on the machine disturbs less; it counts decoding, which wall time hides in part.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from harness.api import RunResult, Setup, plan, run
from harness.forward import Forward
from harness.loader import BatchSize, load_batches
from harness.options import Counters, RunOptions
from harness.protocols import Model
from harness.types import ImageBatch, OutputSpec

LIMIT = 1.10
PROBES = ["head", "fewshot:shots=1+5:seeds=3"]
PERTURBATION = "patchdrop_random@all"
WNIDS = ("n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042", "n03425413")


def photos(root: Path, split: str, images: int) -> None:
    """JPEG files of 500 x 375 pixels, about as heavy to decode as photographs, in folders named by class."""
    rng = np.random.default_rng(len(split))
    for number in range(images):
        folder = root / split / WNIDS[number % len(WNIDS)]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
        fine = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        noisy = (fine + rng.integers(-12, 13, fine.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:05d}.jpg", quality=90)


class Clock:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._started[0], time.process_time() - self._started[1]


def sweep(model: str, data: Path, batch_size: int, workers: int) -> tuple[tuple[float, float], RunResult]:
    """Seconds of the run as a whole, into folders of its own, and what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        result = run(
            model=model,
            weights="random",
            perturb=PERTURBATION,
            probe=list(PROBES),
            data=data,
            out=Path(folder, "out"),
            options=RunOptions(batch_size=batch_size, workers=workers, cache_dir=Path(folder, "cache")),
            setup=Setup(),
        )
        seconds = clock.read()
    assert not result.failures, result.failures
    return seconds, result


def prepared(model: str, data: Path, batch_size: int) -> tuple[Model, list[ImageBatch]]:
    """The model, and the query images decoded as the sweep decodes them."""
    walk = plan(model=model, weights="random", perturb=PERTURBATION, probe=list(PROBES), data=data).passes[0]
    batches = load_batches(
        walk.dataset.dataset, walk.split, walk.positions(), walk.view, batch_size=BatchSize(batch_size), workers=2
    )
    return walk.model.build(), [batch for _, batch in batches]


def bare(model: Model, batches: list[ImageBatch], images: int) -> tuple[float, float]:
    """Seconds of forward passes over ``images`` images, batch by batch."""
    forward = Forward(device=torch.device("cpu"), precision="fp32", counters=Counters())
    want = OutputSpec(logits=True, pooled=True)
    clock = Clock()
    while images > 0:
        for batch in batches:
            part = batch.images[:images]
            if len(part):
                forward(model, part, want)
            images -= len(part)
    return clock.read()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit_ti16")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "photos")
        photos(data, "train", 20 * len(WNIDS))
        photos(data, "val", given.images)
        model, batches = prepared(given.model, data, given.batch_size)
        bare(model, batches, given.batch_size)
        _, result = sweep(given.model, data, given.batch_size, given.workers)
        images = result.counters.forward_images
        wall, processor, alone = [], [], []
        for _ in range(given.repeats):
            whole, _ = sweep(given.model, data, given.batch_size, given.workers)
            passes = bare(model, batches, images)
            wall.append(whole[0] / passes[0])
            processor.append(whole[1] / passes[1])
            alone.append(passes[0])
            print(f"sweep {whole[0]:.2f} s, bare {passes[0]:.2f} s: {wall[-1]:.3f}, processor {processor[-1]:.3f}")
    ratio = statistics.median(wall)
    print(
        f"{given.model}: {len(result.records)} records, {images} images forwarded in batches of {given.batch_size}, "
        f"{1000 * statistics.median(alone) / images:.1f} ms an image, {torch.get_num_threads()} threads"
    )
    print(
        f"sweep over bare forward passes, median of {given.repeats}: wall {ratio:.3f} (limit {LIMIT}), "
        f"processor {statistics.median(processor):.3f}"
    )
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
