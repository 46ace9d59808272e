"""The hook specifications: named and documented, an example for each that works, and callable through pluggy."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from harness import entries, hookspecs, types
from harness.entries import Entry
from harness.manager import build_manager
from harness.types import KINDS

SPECS = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("harness_")}


def example(spec: object) -> str:
    """The code block of a docstring."""
    _, _, block = inspect.getdoc(spec).partition(".. code-block:: python\n")
    return textwrap.dedent(block)


def test_every_function_of_the_module_is_a_specification() -> None:
    functions = {name for name, value in vars(hookspecs).items() if inspect.isfunction(value)}
    assert functions == set(SPECS)
    for spec in SPECS.values():
        assert spec.harness_spec["firstresult"] is False
        assert inspect.getdoc(spec)


def test_every_kind_has_a_hook_that_registers_it() -> None:
    assert {f"harness_register_{kind}s" for kind in KINDS if kind != "summary"} <= set(SPECS)
    assert "harness_register_summaries" in SPECS


@pytest.mark.parametrize("name", sorted(SPECS))
def test_the_example_of_a_specification_is_a_working_plugin(name: str) -> None:
    plugin = ModuleType("example_plugin")
    plugin.__file__ = str(Path(__file__))
    known = {**vars(types), **vars(entries), "Path": Path, "hookimpl": hookspecs.hookimpl}
    vars(plugin).update({key: value for key, value in known.items() if not key.startswith("__")})
    exec(compile(example(SPECS[name]), name, "exec"), vars(plugin))
    manager = build_manager(discover=False, extra=[plugin], strict=True)
    (row,) = [row for row in manager.plugins() if row.name == "example_plugin"]
    assert row.status == "ok"
    if name.startswith("harness_register_"):
        assert sum(row.counts.values()) == 1
    elif name == "harness_registry_files":
        assert manager.registry_files() == (("example_plugin", Path(__file__).with_name("presets.yaml")),)


def test_every_entry_type_is_of_a_kind_and_of_a_hook() -> None:
    kinds = {cls.kind: cls for cls in Entry.__subclasses__() if cls.__module__ == "harness.entries"}
    assert set(kinds) == set(KINDS)
    for cls in kinds.values():
        given = [
            name for name, spec in SPECS.items() if re.search(rf"\b{cls.__name__}\b", str(inspect.signature(spec)))
        ]
        assert len(given) == 1
