"""Time of ``harness list models`` as a whole process, with 300 presets more; run this file to see it."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_S = 0.3
_CHILD = "import sys; from harness.cli import main; main(sys.argv[1:])"


def overlay(presets: int) -> str:
    """A registry file of ``presets`` models, each with parameters, an alias and a view, as real ones have."""
    lines = ["models:"]
    for place in range(presets):
        lines += [
            f"  bench_model_{place:03d}:",
            "    use: vit",
            f"    params: {{arch: vit_base_patch16_224.bench_{place:03d}}}",
            f"    aliases: [bench_alias_{place:03d}]",
            "    view: {resize: 248, crop: 224, interpolation: bicubic}",
            f"    summary: preset number {place} of the benchmark",
        ]
    return "\n".join(lines) + "\n"


def timed(arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall and processor seconds of one whole process. Raises if it fails."""
    before, start = os.times(), time.perf_counter()
    command = [sys.executable, "-c", _CHILD, *arguments]
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        registry = Path(folder, "registry.yaml")
        registry.write_text(overlay(given.presets), encoding="utf-8")
        # An installed package has its byte code; a source tree need not, and the tree stays as it is.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(Path(folder, "pycache"))}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        arguments = ["list", "models", "--registry", str(registry)]
        timed(arguments, environment)
        times = [timed(arguments, environment) for _ in range(given.repeats)]
    wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"harness list models, {given.presets} presets more: median of {given.repeats} whole processes")
    print(f"wall {wall:.3f} s (limit {LIMIT_S} s), from {min(times)[0]:.3f} to {max(times)[0]:.3f} s; cpu {cpu:.3f} s")
    return 0 if wall < LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
