"""What the heavy libraries do on this machine, as JSON lines: ``python -m harness.library_probe``.

It runs in a process of its own, because a broken build may end the process instead of raising.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any


def probe_torch() -> Mapping[str, Any]:
    """Version, build and threads of torch, and the devices it can use."""
    import torch

    devices: dict[str, str] = {"cpu": torch.backends.cpu.get_cpu_capability()}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    return {
        "version": torch.__version__,
        "cuda_build": torch.version.cuda,
        "devices": devices,
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
    }


def probe_torchvision() -> Mapping[str, Any]:
    """Whether torchvision's compiled operators fit this torch; a mismatch shows at the import or at the first call."""
    import torch
    import torchvision

    kept = torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    return {"version": torchvision.__version__, "kept": kept.tolist()}


def probe_faiss() -> Mapping[str, Any]:
    """Whether faiss can be imported after torch, and its threads."""
    import faiss

    return {"version": faiss.__version__, "threads": faiss.omp_get_max_threads()}


def probe_openmp() -> Mapping[str, Any]:
    """Which OpenMP runtimes this process has loaded by now."""
    import threadpoolctl  # type: ignore[import-untyped]  # comes with scikit-learn, without stubs

    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"]
    return {"runtimes": sorted({pool["filepath"] for pool in pools})}


STEPS: Mapping[str, Callable[[], Mapping[str, Any]]] = {
    # torch first: the OpenMP runtime that is loaded first serves the others.
    "torch": probe_torch,
    "torchvision": probe_torchvision,
    "faiss": probe_faiss,
    "openmp": probe_openmp,
}


def main() -> None:
    """Print one JSON line a step, so that what was found before a crash is not lost."""
    for name, step in STEPS.items():
        found: Mapping[str, Any]
        try:
            found = step()
        except Exception as error:  # noqa: BLE001 - whatever a broken library raises is the finding
            found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        sys.stdout.write(json.dumps({"step": name, **found}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
