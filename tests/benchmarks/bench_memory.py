"""Bytes of resident memory per image and cell: ``python tests/benchmarks/bench_memory.py --images 1000 100000``.

Every run is a process of its own, over generated images and a tiny model; what counts is the peak of its resident
memory, so what is held for a moment only (sorting, writing, summaries) counts too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.adapters import wrap_module
from harness.api import run
from harness.options import RunOptions
from harness.protocols import DatasetInfo, SplitIndex
from harness.types import ImageBatch, View

SIDE_PX = 8
CLASSES = 10
BATCH_SIZE = 250
LEVELS = (0.25, 0.5)
PROBES = ("head", "fewshot:shots=1:seeds=1")


class GeneratedIds(Sequence[str]):
    """Ids that are made when they are asked for, so that what is measured is the engine's."""

    def __init__(self, split: str, count: int) -> None:
        self._split = split
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return f"{self._split}/{index % self._count:06d}"


class GeneratedImages:
    """Images made from their position when they are loaded; in memory are labels only."""

    def __init__(self, images: int) -> None:
        self.info = DatasetInfo(
            name="generated",
            classes=tuple(map(str, range(CLASSES))),
            label_space="generated",
            splits=("query", "support"),
            query_split="query",
            whole_split="query",
            support_split="support",
            fingerprint=f"generated:{images}",
        )
        self._index = {split: _index(split, count) for split, count in (("query", images), ("support", 100))}

    def index(self, split: str) -> SplitIndex:
        return self._index[split]

    def load(self, split: str, positions: Sequence[int], view: View) -> ImageBatch:
        index = self._index[split]
        places = np.asarray(positions, np.int64)
        rng = np.random.default_rng(places[0])
        pixels = rng.random((len(places), 3, view.crop, view.crop), dtype=np.float32) / 2
        pixels[np.arange(len(places)), index.labels[places] % 3] += 0.3
        return ImageBatch(
            images=torch.from_numpy(pixels),
            labels=torch.from_numpy(index.labels[places]),
            ids=tuple(index.ids[position] for position in positions),
            positions=places,
        )


def _index(split: str, count: int) -> SplitIndex:
    return SplitIndex(ids=GeneratedIds(split, count), labels=np.arange(count) % CLASSES)


class TinyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, stride=4)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def measure(images: int, levels: Sequence[float], probes: Sequence[str]) -> dict[str, Any]:
    """One run in this process; its peak of resident memory in bytes."""
    torch.set_num_threads(1)
    model = wrap_module(
        TinyNet(),
        name="tiny",
        view=View(crop=SIDE_PX),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        label_space="generated",
        pooled_input_of="fc",
    )
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = run(
            model=model,
            dataset=GeneratedImages(images),
            perturb=f"patchdrop_random:grid=4@{','.join(map(str, levels))}",
            probe=list(probes),
            out=Path(folder, "out"),
            options=RunOptions(batch_size=BATCH_SIZE, cache_dir=Path(folder, "cache")),
        )
    assert not result.failures, result.failures
    return {
        "images": images,
        "cells": len(result.records),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """The most memory that was resident in this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # The kernel's other count, ru_maxrss, begins with what the process was forked from.
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_a_process(images: int, levels: Sequence[float], probes: Sequence[str]) -> dict[str, Any]:
    """:func:`measure` in a process of its own."""
    command = [sys.executable, __file__, "--one", str(images), "--levels", *map(str, levels), "--probes", *probes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs=2, default=[1000, 100_000])
    parser.add_argument("--levels", type=float, nargs="+", default=list(LEVELS))
    parser.add_argument("--probes", nargs="+", default=list(PROBES))
    parser.add_argument("--limit", type=float, default=100.0, help="bytes an image")
    parser.add_argument("--one", type=int, help="run here over so many images and print what it took as JSON")
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.one, given.levels, given.probes)))
        return 0
    few, many = (in_a_process(images, given.levels, given.probes) for images in given.images)
    grown = (many["peak_bytes"] - few["peak_bytes"]) / (many["images"] - few["images"])
    print(few, many, sep="\n")
    print(f"{grown:.0f} bytes an image for {many['cells']} cells (limit {given.limit:g})")
    return 0 if grown < given.limit else 1


if __name__ == "__main__":
    sys.exit(main())
