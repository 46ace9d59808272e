"""The contract kit's core: a subject, the checks that apply to it, and what came of running them."""

from __future__ import annotations

import importlib
import inspect
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.entries import Entry
from harness.errors import HarnessError, MissingDependencyError, UsageError
from harness.naming import did_you_mean
from harness.types import JSONValue, Kind

if TYPE_CHECKING:
    from harness.catalog import Catalog

CheckStatus: TypeAlias = Literal["passed", "failed", "skipped"]

_MODULES: Mapping[Kind, tuple[str, ...]] = {
    "model": ("entry_checks", "model_checks", "intervention_checks"),
    "perturbation": ("entry_checks", "perturbation_checks", "level_checks"),
    "probe": ("entry_checks", "probe_checks", "probe_run_checks", "exhibit_checks"),
    "dataset": ("entry_checks", "dataset_checks"),
    "summary": ("entry_checks",),
}


class ContractViolation(AssertionError):  # noqa: N818  # it is the finding, not a fault of the kit
    """A promise that a component broke; the message says what was expected and what was found."""


class NotApplicableError(Exception):
    """A check that has nothing to check: the component makes no such promise. Says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleOptions:
    """How much a component is tried on.

    ``images`` generated images of ``side_px`` pixels for perturbations and models; ``classes`` classes with
    ``support_per_class`` support images each for probes, in the label space ``label_space``; ``positions`` images of
    each split of a dataset.
    """

    images: int = 3
    side_px: int = 224
    classes: int = 10
    support_per_class: int = 26
    positions: int = 6
    label_space: str = "sample"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A component under test: what is said of it, and how to make it.

    ``make`` builds a fresh one. ``params`` are those it is built with, ``facts`` what a preset refines of the entry,
    by field name. ``plugin`` is the module that offers the entry, None if it is not known.
    """

    entry: Entry
    make: Callable[[], Any]
    params: Mapping[str, JSONValue] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    plugin: str | None = None
    sample: SampleOptions = field(default_factory=SampleOptions)

    @cached_property
    def shared(self) -> Any:
        """One component for all checks that leave it as it was: a large model takes longer to build than to ask."""
        return self.make()


CheckFunction: TypeAlias = Callable[[Subject], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One promise, to be held against one subject. Calling it raises :class:`ContractViolation` where it is broken."""

    name: str
    promise: str
    subject: Subject
    function: CheckFunction

    def __call__(self) -> None:
        """Try it, without guarding against what the component raises; see :func:`run_check`."""
        self.function(self.subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOutcome:
    """What came of one check. ``message`` holds the evidence of a failure, or why a check was skipped."""

    check: str
    promise: str
    status: CheckStatus
    message: str
    seconds: float

    def as_dict(self) -> dict[str, JSONValue]:
        """Plain values for ``harness check --json``."""
        return {
            "check": self.check,
            "promise": self.promise,
            "status": self.status,
            "message": self.message,
            "seconds": self.seconds,
        }


def check_functions(kind: Kind) -> tuple[CheckFunction, ...]:
    """The checks of a kind: those of every entry, then those of the component itself."""
    modules = (importlib.import_module(f"harness.testing.{name}") for name in _MODULES[kind])
    return tuple(function for module in modules for function in module.CHECKS)


def check_name(function: CheckFunction) -> str:
    """``check_ids_kept`` is shown as ``ids_kept``."""
    return function.__name__.removeprefix("check_")


def iter_checks(subject: Subject) -> Iterator[Check]:
    """Every check for the subject's kind, cheap ones first. Nothing is built before a check is called."""
    for function in check_functions(subject.entry.kind):
        yield Check(name=check_name(function), promise=promise(function), subject=subject, function=function)


def promise(function: CheckFunction) -> str:
    """The sentence in the function's docstring, on one line."""
    return " ".join((inspect.getdoc(function) or "").split())


def run_check(check: Check) -> CheckOutcome:
    """Run one check. Whatever a component raises is a failure of the check, except for what stops Python itself."""
    start = time.perf_counter()
    status: CheckStatus = "failed"
    where = f"{check.subject.entry.name}: {check.name}"
    try:
        check()
    except (NotApplicableError, MissingDependencyError) as reason:
        status, message = "skipped", str(reason)
    except ContractViolation as violation:
        message = f"{where}: {violation}"
    except Exception as error:  # noqa: BLE001  # a component may raise anything, and that is the finding
        message = f"{where}: raised {_description(error)}"
    else:
        status, message = "passed", ""
    return CheckOutcome(
        check=check.name,
        promise=check.promise,
        status=status,
        message=message,
        seconds=time.perf_counter() - start,
    )


def run_checks(subject: Subject, *, only: Collection[str] | None = None) -> list[CheckOutcome]:
    """Run every check, or those named in ``only``. Raises :class:`~harness.errors.UsageError` for an unknown name."""
    if only is not None:
        require_check_names(subject.entry.kind, only)
    return [run_check(check) for check in iter_checks(subject) if only is None or check.name in only]


def require_check_names(kind: Kind, names: Iterable[str]) -> None:
    """Raise :class:`~harness.errors.UsageError` for a name that no check of the kind has."""
    known = [check_name(function) for function in check_functions(kind)]
    for name in names:
        if name not in known:
            raise UsageError(
                f"there is no {kind} check named {name!r}",
                hint=did_you_mean(name, known) or f"the checks are {', '.join(known)}",
            )


def check_named(
    catalog: Catalog,
    kind: Kind,
    name: str,
    *,
    params: Mapping[str, Any] | None = None,
    sample: SampleOptions | None = None,
    only: Collection[str] | None = None,
) -> list[CheckOutcome]:
    """Run the checks on a component by its name or selector text, models with random weights.

    ``params`` are added to those that the text gives. Raises what :meth:`Catalog.resolve` does for a name or
    parameter that is not there; a component that cannot be built fails its checks.
    """
    return run_checks(subject_named(catalog, kind, name, params=params, sample=sample), only=only)


def subject_named(
    catalog: Catalog,
    kind: Kind,
    name: str,
    *,
    params: Mapping[str, Any] | None = None,
    sample: SampleOptions | None = None,
) -> Subject:
    """The subject behind a name; see :func:`check_named`."""
    from harness.testing.named import resolve_subject

    return resolve_subject(catalog, kind, name, params=params or {}, sample=sample or SampleOptions())


def expect(held: bool, message: str) -> None:
    """Raise :class:`ContractViolation` with ``message`` unless ``held``."""
    if not held:
        raise ContractViolation(message)


def expect_refusal(error: type[HarnessError], what: str, action: Callable[[], object]) -> None:
    """Raise :class:`ContractViolation` unless ``action`` raises ``error``; ``what`` says what was tried."""
    try:
        action()
    except error:
        return
    except Exception as other:
        raise ContractViolation(f"{what}: expected {error.__name__}, found {_description(other)}") from other
    raise ContractViolation(f"{what}: expected {error.__name__}, but nothing was raised")


def _description(error: Exception) -> str:
    """Type, message and the innermost line of an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {str(error) or 'no message'}{place}"
