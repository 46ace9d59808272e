"""The contract kit under pytest: one test per check, known failures as strict xfail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import UsageError
from harness.naming import did_you_mean
from harness.testing.kit import (
    Check,
    ContractViolation,
    SampleOptions,
    Subject,
    iter_checks,
    require_check_names,
    run_check,
    subject_named,
)
from harness.types import KINDS, Kind

if TYPE_CHECKING:
    from harness.catalog import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class PytestCheck:
    """A check as a test calls it: what does not apply is skipped, what is broken fails with the evidence alone."""

    check: Check

    def __call__(self) -> None:
        """Run it, and tell pytest what came of it."""
        outcome = run_check(self.check)
        if outcome.status == "skipped":
            pytest.skip(outcome.message)
        if outcome.status == "failed":
            __tracebackhide__ = True
            raise ContractViolation(f"{outcome.message}\npromised: {outcome.promise}")


def parametrize_contract(
    subject: str | Subject,
    *,
    kind: Kind | None = None,
    params: Mapping[str, Any] | None = None,
    known_failures: Mapping[str, str] | None = None,
    sample: SampleOptions | None = None,
    catalog: Catalog | None = None,
) -> pytest.MarkDecorator:
    """Turn a test function of one argument, ``check``, into one test per check of a component.

    ``subject`` is a name with its parameters as on the command line, or a :class:`Subject`. ``kind`` is needed only
    for a name that several kinds have. ``known_failures`` maps names of checks to the reason why they fail; a test
    that then passes fails the run. ``catalog`` is that of all installed plugins unless given.

    Raises :class:`~harness.errors.UsageError` for a known failure that no check is called, and for one without a
    reason, and for a name that no kind or several kinds have; and what :meth:`Catalog.resolve` does for its parameters.

    .. code-block:: python

        @parametrize_contract("darken", known_failures={"distortion_rises": "saturates above 0.5"})
        def test_darken_keeps_its_promises(check):
            check()
    """
    known = known_failures or {}
    found = subject if isinstance(subject, Subject) else _by_name(subject, kind, params, sample, catalog)
    require_check_names(found.entry.kind, known)
    if silent := [name for name, reason in known.items() if not reason.strip()]:
        raise UsageError(f"known failure {silent[0]!r} of {found.entry.name} has no reason", hint="say why it fails")
    return pytest.mark.parametrize(
        "check",
        [
            pytest.param(
                PytestCheck(check=check),
                id=check.name,
                marks=[pytest.mark.xfail(reason=known[check.name], strict=True)] if check.name in known else [],
            )
            for check in iter_checks(found)
        ],
    )


def _by_name(
    name: str,
    kind: Kind | None,
    params: Mapping[str, Any] | None,
    sample: SampleOptions | None,
    catalog: Catalog | None,
) -> Subject:
    if catalog is None:
        from harness.catalog import build_catalog
        from harness.manager import build_manager

        catalog = build_catalog(build_manager())
    kinds = [kind] if kind is not None else _kinds_of(catalog, name)
    if not kinds:
        known = [name for kind in KINDS for name in catalog.names(kind)]
        raise UsageError(f"nothing is named {name!r}", hint=did_you_mean(name, known) or "harness list shows all names")
    if len(kinds) > 1:
        raise UsageError(f"{name!r} is a {' and a '.join(kinds)}", hint=f"say which: kind={kinds[0]!r}")
    return subject_named(catalog, kinds[0], name, params=params, sample=sample)


def _kinds_of(catalog: Catalog, text: str) -> list[Kind]:
    from harness.grammar import parse_selector

    name = parse_selector(text).name
    return [kind for kind in KINDS if any(name in (row.name, *row.aliases) for row in catalog.rows(kind))]
