"""Errors: text, hint, exit code, and the way through pickle that worker processes need."""

from __future__ import annotations

import pickle

import pytest

from harness import errors
from harness.errors import HarnessError, MissingDependencyError

CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, HarnessError)]
PLAIN = [cls for cls in CLASSES if cls is not MissingDependencyError]


@pytest.mark.parametrize("cls", PLAIN)
def test_message_and_hint_are_shown_and_survive_pickling(cls: type[HarnessError]) -> None:
    for hint, text in ((None, "m"), ("do this", "m\n  hint: do this")):
        error = cls("m", hint=hint)
        again = pickle.loads(pickle.dumps(error))
        for one in (error, again):
            assert type(one) is cls
            assert (one.message, one.hint, str(one)) == ("m", hint, text)


def test_a_missing_dependency_names_the_extra() -> None:
    error = MissingDependencyError("probe x needs y", extra="attacks")
    again = pickle.loads(pickle.dumps(error))
    for one in (error, again):
        assert (one.extra, one.hint) == ("attacks", "pip install 'vit-harness[attacks]'")


def test_exit_codes_are_those_of_the_command() -> None:
    codes = {cls.__name__: cls.exit_code for cls in CLASSES}
    by_code = {code: {name for name, given in codes.items() if given == code} for code in set(codes.values())}
    assert by_code[3] == {"PluginError", "MissingDependencyError"}
    assert by_code[4] == {"WeightsError", "DataError"}
    assert set(by_code) == {2, 3, 4}
