"""Images a second that the generated dataset draws: ``python tests/benchmarks/bench_shapes.py``.

Batches of 64 through ``load``, as the engine asks for them, from one thread and from two at once. The two take turns,
so that a slow spell of the machine meets both. Beside wall time stands processor time, which other people's work on
the machine disturbs less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from harness.types import View
from harness_mini.shapes_dataset import Shapes

BATCH = 64
SPLIT = "test"


def seconds(dataset: Shapes, side_px: int, batches: int, threads: int) -> tuple[float, float]:
    """Wall and processor seconds of ``batches`` batches."""
    view = View(crop=side_px)
    wanted = [range(i * BATCH, (i + 1) * BATCH) for i in range(batches)]
    wall, processor = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(max_workers=threads) as pool:
        list(pool.map(lambda positions: dataset.load(SPLIT, positions, view), wanted))
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side-px", type=int, default=56)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    images = given.batches * BATCH
    dataset = Shapes(images=max(images, 144))
    seconds(dataset, given.side_px, 1, 1)  # makes the tables
    times: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for _ in range(given.repeats):
        for threads, found in times.items():
            found.append(seconds(dataset, given.side_px, given.batches, threads))
    print(f"median of {given.repeats} times {given.batches} batches of {BATCH} images of {given.side_px} pixels")
    rates = {}
    for threads, found in times.items():
        wall, processor = (statistics.median(column) for column in zip(*found, strict=True))
        rates[threads] = images / wall
        print(
            f"{threads} thread{'s' if threads > 1 else ' '} {rates[threads]:8.0f} images/s, "
            f"from {images / max(found)[0]:.0f} to {images / min(found)[0]:.0f}; "
            f"processor {processor / images * 1e3:.2f} ms an image"
        )
    print(f"two threads over one: {rates[2] / rates[1]:.2f}")


if __name__ == "__main__":
    main()
