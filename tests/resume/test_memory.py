"""Memory does not grow with the number of images, but for labels and the outcomes of each image."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "bench_memory.py"


@pytest.mark.slow
def test_from_1000_to_100000_images_memory_grows_by_less_than_100_bytes_an_image() -> None:
    """Two probes at the clean pass and two levels: six cells."""
    ended = subprocess.run([sys.executable, str(BENCHMARK)], capture_output=True, text=True, timeout=600, check=False)
    assert ended.stderr == ""
    found = re.search(r"(-?\d+) bytes an image for 6 cells", ended.stdout)
    assert found is not None, ended.stdout
    assert int(found[1]) < 100, ended.stdout
    assert ended.returncode == 0
