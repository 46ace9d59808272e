"""Checks of what an entry says of a component of any kind: its target, its parameters and its facts."""

from __future__ import annotations

import functools
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields

from harness.entries import DatasetEntry, Entry, ModelEntry, PerturbationEntry, ProbeEntry
from harness.errors import MissingDependencyError, ParameterError, PluginError
from harness.params import canonical, coerce, describe
from harness.protocols import Dataset, Model, ModelPerturbation, Perturbation, Probe, Summary
from harness.targets import load_target
from harness.testing.kit import CheckFunction, ContractViolation, NotApplicableError, Subject, expect
from harness.types import Kind

HEAVY_MODULES = (
    "torch", "torchvision", "timm", "numpy", "scipy", "sklearn", "faiss", "pandas", "pyarrow", "matplotlib", "PIL",
)  # fmt: skip
"""What a descriptor module must not import: ``harness list`` imports every one of them."""


def check_target_imports(subject: Subject) -> None:
    """The target that the entry names can be imported and called."""
    _target(subject.entry)


def check_descriptor_is_light(subject: Subject) -> None:
    """Importing the plugin's module, as listing does, imports nothing heavy."""
    if subject.plugin is None:
        raise NotApplicableError("the plugin's module is not known")
    failure, heavy = _imported_by(subject.plugin)
    expect(not failure, f"importing {subject.plugin} in a new process failed: {failure}")
    expect(
        not heavy,
        f"expected {subject.plugin} to import no heavy package, found {', '.join(heavy)}; "
        "name the implementation by target, and import for annotations under TYPE_CHECKING only",
    )


def check_parameters_declared(subject: Subject) -> None:
    """Every parameter is declared with a help text, and its default has the declared type and lies in its range."""
    schema = subject.entry.params
    try:
        rows = describe(schema)
        defaults = {row.name: row.default for row in rows if not row.required}
        required = {row.name: subject.params[row.name] for row in rows if row.required and row.name in subject.params}
        if not any(row.required and row.name not in required for row in rows):
            given = {**defaults, **required}
            kept = canonical(coerce(schema, given, subject.entry.name))
            expect(kept == given, f"{schema.__name__}: expected the defaults {given} unchanged, found {kept}")
    except (TypeError, ParameterError) as error:
        raise ContractViolation(f"{schema.__name__}: {error}") from error
    silent = [row.name for row in rows if not row.help.strip()]
    expect(not silent, f"{schema.__name__}: expected a help text for every parameter, found none for {_words(silent)}")


def check_signature_agrees(subject: Subject) -> None:
    """The target takes the declared parameters by keyword, no others, and its own defaults are theirs."""
    entry = subject.entry
    signature = inspect.signature(_target(entry)).parameters.values()
    open_ended = [f"*{p.name}" for p in signature if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    expect(not open_ended, f"{entry.target}: expected named parameters only, found {_words(open_ended)}")
    positional = [p.name for p in signature if p.kind is p.POSITIONAL_ONLY]
    expect(not positional, f"{entry.target}: expected keywords, found {_words(positional)} positional only")
    declared = {f.name: f.default for f in fields(entry.params)}
    extra = {"weights"} if isinstance(entry, ModelEntry) else set()
    found = {p.name: p.default for p in signature}
    missing, unknown = (declared.keys() | extra) - found.keys(), found.keys() - declared.keys() - extra
    expect(
        not missing and not unknown,
        f"{entry.target}: expected the parameters {_words([*declared, *extra])}, found {_words(found)}",
    )
    for name, default in declared.items():
        if found[name] is not inspect.Parameter.empty and default is not MISSING:
            expect(
                found[name] == default,
                f"{entry.target}: {name}: expected the declared default {default!r}, found {found[name]!r}",
            )


def check_special_parameters_exist(subject: Subject) -> None:
    """Parameters that the entry gives a role (tag, target, models, features, level) are among those it declares."""
    entry = subject.entry
    named: tuple[str | None, ...] = ()
    if isinstance(entry, ModelEntry):
        named = entry.weights_params
    elif isinstance(entry, PerturbationEntry):
        named = (entry.target_param, *entry.model_params)
        source = entry.source_param
        expect(
            source is None or source in entry.model_params,
            f"source_param: expected one of model_params ({_words(entry.model_params)}), found {source}",
        )
    elif isinstance(entry, DatasetEntry):
        named = (entry.level_param,)
    elif isinstance(entry, ProbeEntry):
        named = (entry.features_param,)
    known = [f.name for f in fields(entry.params)]
    unknown = [name for name in named if name is not None and name not in known]
    expect(not unknown, f"expected parameters of {entry.params.__name__} ({_words(known)}), found {_words(unknown)}")


def check_protocol_implemented(subject: Subject) -> None:
    """What the target builds has the methods that its kind promises."""
    entry = subject.entry
    expected: tuple[type, ...] = _PROTOCOLS[entry.kind]
    if isinstance(entry, PerturbationEntry) and entry.stage != "image":
        expected = (ModelPerturbation,)
    built = subject.shared if entry.kind == "model" else subject.make()
    for protocol in expected:
        missing = sorted(name for name in _members(protocol) if not hasattr(built, name))
        expect(not missing, f"a {type(built).__name__} is no {protocol.__name__}: it has no {', '.join(missing)}")


_PROTOCOLS: Mapping[Kind, tuple[type, ...]] = {
    "model": (Model,),
    "perturbation": (Perturbation,),
    "probe": (Probe,),
    "dataset": (Dataset,),
    "summary": (Summary,),
}


def check_facts_agree(subject: Subject) -> None:
    """What the entry says for planning is what the built component says of itself."""
    entry = subject.entry
    names: tuple[str, ...]
    if isinstance(entry, ModelEntry):
        names = ("view", "label_space", "capabilities")
    elif isinstance(entry, PerturbationEntry):
        names = ("name", "version", "stage", "level", "stochastic", "needs_target")
    elif isinstance(entry, ProbeEntry):
        names = ("name", "version", "learns", "compares", "needs_label_space", "maps_labels", "headline")
    elif isinstance(entry, DatasetEntry):
        # Without a label space in the entry it follows from the data.
        names = () if entry.label_space is None else ("label_space",)
    else:
        raise NotApplicableError(f"a {entry.kind} says nothing of itself")
    info = (subject.shared if entry.kind == "model" else subject.make()).info
    for name in names:
        expected = subject.facts.get(name, getattr(entry, name))
        found = getattr(info, name)
        expect(expected == found, f"{name}: the entry says {_shown(expected)}, the component {_shown(found)}")


CHECKS: tuple[CheckFunction, ...] = (
    check_target_imports,
    check_descriptor_is_light,
    check_parameters_declared,
    check_signature_agrees,
    check_special_parameters_exist,
    check_protocol_implemented,
    check_facts_agree,
)


def _target(entry: Entry) -> Callable[..., object]:
    try:
        return load_target(entry)
    except MissingDependencyError:
        raise
    except PluginError as error:
        raise ContractViolation(str(error)) from error


@functools.cache
def _imported_by(module: str) -> tuple[str, tuple[str, ...]]:
    """What a new process that imports ``module`` fails with (empty if it does not), and the heavy packages it loads."""
    code = (
        "import importlib, json, sys\n"
        f"importlib.import_module({module!r})\n"
        f"print(json.dumps([name for name in {HEAVY_MODULES!r} if name in sys.modules]))"
    )
    done = subprocess.run(  # noqa: S603  # our own interpreter on a module this process is about to import anyway
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}", ()
    return "", tuple(json.loads(done.stdout.splitlines()[-1]))


def _members(protocol: type) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_")]


def _words(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _shown(value: object) -> str:
    return _words(map(str, value)) if isinstance(value, frozenset) else repr(value)
