"""vit-harness: how vision backbones behave under occlusion, corruption and attack, and how their features transfer.

``harness.run(model=..., perturb=..., probe=..., dataset=...)`` runs a grid and returns typed results. Names are
loaded on first use, so that listing and planning import neither torch nor timm.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.adapters import wrap_module as wrap
    from harness.api import RunResult, Setup, list_entries, plan, run
    from harness.comparison import Comparison, compare
    from harness.errors import HarnessError
    from harness.hookspecs import hookimpl
    from harness.options import RunOptions
    from harness.records import load_records
    from harness.tensor_dataset import TensorDataset
    from harness.types import View

_HOMES = {
    "Comparison": "harness.comparison:Comparison",
    "HarnessError": "harness.errors:HarnessError",
    "RunOptions": "harness.options:RunOptions",
    "RunResult": "harness.api:RunResult",
    "Setup": "harness.api:Setup",
    "TensorDataset": "harness.tensor_dataset:TensorDataset",
    "View": "harness.types:View",
    "compare": "harness.comparison:compare",
    "hookimpl": "harness.hookspecs:hookimpl",
    "list_entries": "harness.api:list_entries",
    "load_records": "harness.records:load_records",
    "plan": "harness.api:plan",
    "run": "harness.api:run",
    "wrap": "harness.adapters:wrap_module",
}

__all__ = [
    "Comparison",
    "HarnessError",
    "RunOptions",
    "RunResult",
    "Setup",
    "TensorDataset",
    "View",
    "__version__",
    "compare",
    "hookimpl",
    "list_entries",
    "load_records",
    "plan",
    "run",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("vit-harness")
    if name not in _HOMES:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
