"""Mini-batches over a table on disk that is larger than the memory the process may take."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

ROWS, WIDTH, CLASSES = 120_000, 1024, 5
TABLE_BYTES = ROWS * WIDTH * 4
ALLOWED_BYTES = 192 * 2**20

SCRIPT = """
import resource
import sys

import numpy as np
import torch

from harness.protocols import ProbeContext
from harness.types import Capability, FeatureSpec, FeatureTable, ImageBatch, ModelInfo, ModelOutputs, View, WeightsInfo
from harness_probes.linear_probe import LinearProbe

path, rows, width, classes, allowed, params = sys.argv[1], *map(int, sys.argv[2:6]), eval(sys.argv[6])
torch.set_num_threads(1)


def data_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("VmData"):
            return int(line.split()[1]) * 1024


card = ModelInfo(
    name="tiny", family="test", weights=WeightsInfo(origin="random", identity="random:tiny:0"), view=View(crop=8),
    mean=(0.5,) * 3, std=(0.5,) * 3, label_space=None, num_classes=None, num_blocks=2, embed_dim=width,
    pooled_dim=width, capabilities=frozenset({Capability.POOLED}),
)
x = np.memmap(path, np.float32, "r", shape=(rows, width))
y = np.arange(rows) % classes
table = FeatureTable(x=x, y=y, ids=range(rows), spec=FeatureSpec(pooled=True))
limit = data_bytes() + allowed
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.array(x)
except MemoryError:
    print("a copy does not fit")
probe = LinearProbe(**params)
fitted = probe.fit(table, ProbeContext(model=card, classes=list("abcde"), label_space=None, seed=0))
run = fitted.start()
query = np.arange(0, rows, 97)
run.update(
    ImageBatch(
        images=torch.zeros(len(query), 3, 1, 1), labels=torch.from_numpy(y[query]),
        ids=tuple(map(str, query)), positions=query,
    ),
    ModelOutputs(pooled=torch.from_numpy(np.array(x[query]))),
    None,
)
print("accuracy", run.result()[0].value)
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """Features of five classes, 490 MB, written a few rows at a time."""
    path = tmp_path_factory.mktemp("table") / "x.float32"
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(6000, WIDTH)).astype(np.float32)
    centres = generator.normal(size=(CLASSES, WIDTH)).astype(np.float32) * 0.12
    with path.open("wb") as file:
        for start in range(0, ROWS, len(noise)):
            labels = np.arange(start, start + len(noise)) % CLASSES
            file.write((np.roll(noise, start // len(noise), axis=1) + centres[labels]).tobytes())
    return path


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit and its unit are those of Linux")
@pytest.mark.parametrize(
    "params",
    [
        {"solver": "sgd", "epochs": 1},
        {"solver": "sgd", "epochs": 1, "recipe": "dinov2"},
        {"solver": "ridge", "ridge_lambda": 1024.0},
    ],
    ids=["dino", "dinov2", "ridge"],
)
def test_a_table_larger_than_the_memory_allowed_is_fitted_to_the_end(stored, params):
    assert stored.stat().st_size == TABLE_BYTES > 2 * ALLOWED_BYTES
    arguments = [str(stored), *map(str, (ROWS, WIDTH, CLASSES, ALLOWED_BYTES)), repr(params)]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = done.stdout.splitlines()
    assert first == "a copy does not fit"
    # Classes lie |0.12 x difference| = 0.12 sqrt(2 x 1024) = 5.4 standard deviations apart.
    assert float(second.split()[1]) > 0.97
