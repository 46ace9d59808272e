"""Median cost per image of the keyed draws: ``python tests/benchmarks/bench_rng.py``."""

from __future__ import annotations

import argparse
import statistics
import timeit
from collections.abc import Callable

from harness import rng

BATCH = 32
IDS = [f"val/n01440764/ILSVRC2012_val_{i:08d}.JPEG" for i in range(BATCH)]

CASES: dict[str, Callable[[], object]] = {
    "bits, 196 cells": lambda: rng.bits(0, "bench", IDS, 196),
    "uniforms, 196 cells": lambda: rng.uniforms(0, "bench", IDS, 196),
    "integers, 196 cells": lambda: rng.integers(0, "bench", IDS, 196, 0, 1000),
    "permutations, 196 cells": lambda: rng.permutations(0, "bench", IDS, 196),
    "ranks, 196 cells": lambda: rng.ranks(0, "bench", IDS, 196),
    "subsets, 98 of 196 cells": lambda: rng.subsets(0, "bench", IDS, 196, 98),
    "ranks, 50176 cells (PixelDrop)": lambda: rng.ranks(0, "bench", IDS, 224 * 224),
    "normals, 3 x 224 x 224": lambda: rng.normals(0, "bench", IDS, (3, 224, 224)),
    "dense_uniforms, 3 x 224 x 224": lambda: rng.dense_uniforms(0, "bench", IDS, (3, 224, 224)),
}


def microseconds_per_image(draw: Callable[[], object], repeats: int) -> float:
    """Median over ``repeats`` timings, each long enough (50 ms) for the clock."""
    timer = timeit.Timer(draw)
    once = max(timer.timeit(1), 1e-9)
    number = max(1, round(0.05 / once))
    return statistics.median(timer.repeat(repeats, number)) / number / BATCH * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    print(f"median of {repeats}, batches of {BATCH} images, microseconds an image")
    for name, draw in CASES.items():
        print(f"{name:32} {microseconds_per_image(draw, repeats):10.1f}")


if __name__ == "__main__":
    main()
