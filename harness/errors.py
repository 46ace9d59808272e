"""Every error a user can cause, each with a hint and the exit code it ends the command with."""

from __future__ import annotations

from typing import ClassVar


class HarnessError(Exception):
    """A mistake or a lack that the person at the keyboard can act on.

    ``message`` says what was expected, what was found and where; ``hint`` says what to do about it.
    The command line prints both without a traceback and ends with :attr:`exit_code`.

    >>> print(HarnessError("no model 'vit_b61'", hint="did you mean vit_b16?"))
    no model 'vit_b61'
      hint: did you mean vit_b16?
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  hint: {self.hint}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(cls: type[HarnessError], message: str, hint: str | None) -> HarnessError:
    return cls(message, hint=hint)


class UsageError(HarnessError):
    """A command line, call or configuration that does not make sense."""


class RegistryError(HarnessError):
    """A registry file that breaks its schema, or a name that no registry file and no plugin gives."""


class ParameterError(HarnessError):
    """A component parameter of the wrong name, type or range."""


class CapabilityError(HarnessError):
    """A combination that cannot make sense: no head, other label space, no class token."""


class RecordsError(HarnessError):
    """An output folder that is locked by another run, or whose files cannot be read."""


class PluginError(HarnessError):
    """A plugin that cannot be loaded, clashes with another, or breaks its contract."""

    exit_code: ClassVar[int] = 3


class MissingDependencyError(PluginError):
    """A component whose optional dependencies are not installed; names the extra that brings them."""

    def __init__(self, message: str, *, extra: str) -> None:
        super().__init__(message, hint=f"pip install 'vit-harness[{extra}]'")
        self.extra = extra

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_missing, (self.message, self.extra))


def _rebuild_missing(message: str, extra: str) -> MissingDependencyError:
    return MissingDependencyError(message, extra=extra)


class WeightsError(HarnessError):
    """Weights that cannot be had or do not fit the architecture."""

    exit_code: ClassVar[int] = 4


class DataError(HarnessError):
    """Images, labels or folders that cannot be had or cannot be read."""

    exit_code: ClassVar[int] = 4
