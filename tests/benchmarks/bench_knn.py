"""Time and memory of the k-NN probe beside scikit-learn's brute force: ``python tests/benchmarks/bench_knn.py``.

Features of classes with some overlap, every k of the probe's default in one search, and scikit-learn's
``KNeighborsClassifier`` for the largest of them, by the same cosine and the same weights. Every run is a process of its
own, and ways take turns, so that a slow spell of the machine meets every one of them; medians are shown. Seconds are
those of fitting and of answering all queries. Memory is the peak of what is resident, less what was resident before
there was a table, in units of the table: 1 is the table alone. ``mapped`` ways read it from a file, whose pages in
memory count too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

from harness.protocols import ProbeContext
from harness.types import (
    Capability,
    FeatureSpec,
    FeatureTable,
    Ids,
    ImageBatch,
    ModelInfo,
    ModelOutputs,
    View,
    WeightsInfo,
)
from harness_probes.knn import KnnParams
from harness_probes.knn_probe import KnnProbe

CLASSES = 100
MEMORY_LIMIT = 1.5
WAYS = ("torch", "torch mapped", "faiss", "faiss mapped", "scikit-learn")
TEMPERATURE = KnnParams().temperature
K = max(KnnParams().k)

Predict = Callable[[np.ndarray], np.ndarray]


def features(rng: np.random.Generator, labels: np.ndarray, width: int) -> np.ndarray:
    """(N, width) float32 around a centre for each class, made in place."""
    centres = np.random.default_rng(0).standard_normal((CLASSES, width), np.float32) / 4
    x = np.empty((len(labels), width), np.float32)
    for start in range(0, len(x), 4096):
        part = slice(start, start + 4096)
        x[part] = rng.standard_normal((len(labels[part]), width), np.float32) + centres[labels[part]]
    return x


def card(width: int) -> ModelInfo:
    """A model with nothing but a feature vector."""
    return ModelInfo(
        name="bench",
        family="bench",
        weights=WeightsInfo(origin="random", identity="random:bench:0"),
        view=View(crop=8),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        label_space=None,
        num_classes=None,
        num_blocks=1,
        embed_dim=width,
        pooled_dim=width,
        heads=(),
        capabilities=frozenset({Capability.POOLED}),
    )


def fit_probe(backend: str, x: np.ndarray, y: np.ndarray) -> Predict:
    """The probe; its answers for the largest k."""
    names = tuple(map(str, range(CLASSES)))
    context = ProbeContext(model=card(x.shape[1]), classes=names, label_space=None, seed=0)
    ids = Ids(f"{i}" for i in range(len(y)))
    fitted: Any = KnnProbe(backend=backend).fit(  # type: ignore[arg-type]  # checked by the probe
        FeatureTable(x=x, y=y, ids=ids, spec=FeatureSpec(pooled=True)), context
    )

    def predict(queries: np.ndarray) -> np.ndarray:
        n = len(queries)
        batch = ImageBatch(
            images=torch.zeros(n, 3, 1, 1),
            labels=torch.zeros(n, dtype=torch.int64),
            ids=tuple(map(str, range(n))),
            positions=np.arange(n),
        )
        predicted: np.ndarray = fitted.predict(batch, ModelOutputs(pooled=torch.from_numpy(queries)))[-1]
        return predicted

    return predict


def fit_sklearn(x: np.ndarray, y: np.ndarray) -> Predict:
    """scikit-learn's brute force."""
    model = KNeighborsClassifier(
        n_neighbors=K,
        algorithm="brute",
        metric="cosine",
        weights=lambda distances: np.exp((1 - distances) / TEMPERATURE),
    )
    return model.fit(x, y).predict  # type: ignore[no-any-return]  # scikit-learn has no types


def fit(name: str, x: np.ndarray, y: np.ndarray) -> Predict:
    """One of the two."""
    return fit_sklearn(x, y) if name == "scikit-learn" else fit_probe(name, x, y)


def measure(way: str, rows: int, width: int, queries: int, batch_size: int) -> dict[str, Any]:
    """One way in this process: seconds, the peak of memory in units of the table, and its accuracy."""
    name, _, mapped = way.partition(" ")
    rng = np.random.default_rng(1)
    y, truth = rng.integers(0, CLASSES, rows), rng.integers(0, CLASSES, queries)
    asked = features(rng, truth, width)
    # What libraries load and keep when first used is no part of the answer to one table.
    small = rng.integers(0, CLASSES, 2 * K)
    fit(name, features(rng, small, width), small)(asked[:8])
    resident = memory("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        x = features(rng, y, width)
        if mapped:
            x.tofile(Path(folder, "x"))
            del x
            x = np.memmap(Path(folder, "x"), np.float32, mode="r", shape=(rows, width))
        started = time.perf_counter()
        predict = fit(name, x, y)
        found = np.concatenate([predict(asked[i : i + batch_size]) for i in range(0, queries, batch_size)])
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "tables": (memory("VmHWM") - resident) / (x.size * x.itemsize),
            "accuracy": float((found == truth).mean()),
        }


def memory(what: str) -> int:
    """Bytes resident in this process: now (``VmRSS``) or at the most so far (``VmHWM``). Linux only."""
    return 1024 * int(Path("/proc/self/status").read_text().partition(f"{what}:")[2].split()[0])


def in_a_process(way: str, given: argparse.Namespace) -> dict[str, Any]:
    """:func:`measure` in a process of its own."""
    sizes = [f"--{name}={getattr(given, name)}" for name in ("rows", "width", "queries", "batch_size")]
    command = [sys.executable, __file__, "--one", way, *(size.replace("_", "-") for size in sizes)]
    ended = subprocess.run(command, env=os.environ, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--one", choices=WAYS, help="run this way here and print what it took as JSON")
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.one, given.rows, given.width, given.queries, given.batch_size)))
        return 0
    rounds = [{way: in_a_process(way, given) for way in given.ways} for _ in range(given.repeats)]
    found = {
        way: {what: statistics.median(row[way][what] for row in rounds) for what in rounds[0][way]}
        for way in given.ways
    }
    print(
        f"{given.rows} x {given.width} features, {given.queries} queries in batches of {given.batch_size}, k = {K}; "
        f"{torch.get_num_threads()} threads, median of {given.repeats}\n"
    )
    print(f"{'':<16}{'seconds':>10}{'tables':>10}{'accuracy':>11}")
    for way, row in found.items():
        print(f"{way:<16}{row['seconds']:>10.1f}{row['tables']:>10.2f}{100 * row['accuracy']:>10.2f}%")
    ours = [row for way, row in found.items() if way.startswith("torch")]
    most = max((row["tables"] for row in ours), default=0.0)
    print(f"\nlimit {MEMORY_LIMIT:g} tables: {most:.2f} at most by default")
    if "scikit-learn" not in found or not ours:
        return int(most >= MEMORY_LIMIT)
    ratio = max(row["seconds"] for row in ours) / found["scikit-learn"]["seconds"]
    print(f"limit 1 times scikit-learn's seconds: {ratio:.2f} at most by default")
    return int(most >= MEMORY_LIMIT or ratio > 1)


if __name__ == "__main__":
    sys.exit(main())
