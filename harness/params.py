"""Typed component parameters: light dataclasses that are checked and made canonical without importing a component."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union

from harness.errors import ParameterError
from harness.naming import did_you_mean
from harness.types import JSONValue

_META = "harness"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meta:
    help: str
    unit: str
    low: float | None
    high: float | None
    introduced: Any
    locates: bool


def param(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    introduced: Any = dataclasses.MISSING,
    locates: bool = False,
) -> Any:
    """Declare one parameter of a component, as a field of a frozen keyword-only dataclass.

    ``low`` and ``high`` are inclusive bounds. ``introduced`` is the default the parameter had when it was added, if
    that is not ``default``: a record's key leaves out values equal to it, so adding a parameter keeps old keys. It
    never changes; changing ``default`` needs a higher ``version`` of the entry. ``locates`` marks a parameter that
    only says where things lie (a folder, an address): it never enters a key.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Noise:
    ...     sigma: float = param(0.1, help="standard deviation", unit="of the [0, 1] range", low=0)
    >>> coerce(Noise, {"sigma": "0.2"}, "noise")
    Noise(sigma=0.2)
    """
    meta = _Meta(
        help=help,
        unit=unit,
        low=low,
        high=high,
        introduced=default if introduced is dataclasses.MISSING else introduced,
        locates=locates,
    )
    return dataclasses.field(default=default, metadata={_META: meta})


@dataclass(frozen=True, slots=True, kw_only=True)
class NoParams:
    """The parameters of a component that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamInfo:
    """One parameter as it is shown to people."""

    name: str
    type: str
    default: JSONValue
    required: bool
    help: str
    unit: str
    range: str


def coerce(schema: type[T], given: Mapping[str, Any], where: str) -> T:
    """``given`` as an instance of the parameter dataclass ``schema``.

    Values may be what YAML or Python gives or text from a command line; a fixed-length tuple of numbers also reads
    ``14x14`` or a single number for all its places. ``where`` names the component (and file) in errors.
    Raises :class:`ParameterError` for an unknown name, a missing one, or a value of the wrong type or range.
    """
    fields = {f.name: f for f in dataclasses.fields(schema)}  # type: ignore[arg-type]  # every schema is a dataclass
    hints = typing.get_type_hints(schema)
    for name in given:
        if name not in fields:
            known = ", ".join(fields) or "none"
            raise ParameterError(
                f"{where}: unknown parameter {name!r}", hint=did_you_mean(name, fields) or f"parameters are: {known}"
            )
    values: dict[str, Any] = {}
    for name, f in fields.items():
        if name in given:
            values[name] = _check_range(_coerce(hints[name], given[name], f"{where}: {name}"), f, f"{where}: {name}")
        elif f.default is dataclasses.MISSING:
            raise ParameterError(f"{where}: parameter {name!r} is required", hint=f"{name}: {_meta(f).help}")
    return schema(**values)


def checked(params: T, where: str) -> T:
    """``params`` with every value checked and coerced as :func:`coerce` does, for those who call a constructor.

    A dataclass takes what it is given; a name or a command line is checked on its way, a call in Python is not.
    """
    fields = dataclasses.fields(params)  # type: ignore[arg-type]  # every schema is a dataclass
    return coerce(type(params), {f.name: getattr(params, f.name) for f in fields}, where)


def canonical(params: Any) -> dict[str, JSONValue]:
    """Every parameter of an instance as plain JSON values."""
    return {f.name: _plain(getattr(params, f.name)) for f in dataclasses.fields(params)}


def identity(params: Any) -> dict[str, JSONValue]:
    """The parameters that enter a key: those that differ from their introduction default and do not merely locate."""
    return {
        f.name: _plain(getattr(params, f.name))
        for f in dataclasses.fields(params)
        if not _meta(f).locates and getattr(params, f.name) != _meta(f).introduced
    }


def differing(params: Any, other: Any) -> dict[str, JSONValue]:
    """The parameters of an instance that another of the schema has otherwise, but for those that merely locate."""
    return {
        f.name: _plain(getattr(params, f.name))
        for f in dataclasses.fields(params)
        if not _meta(f).locates and getattr(params, f.name) != getattr(other, f.name)
    }


def describe(schema: type) -> list[ParamInfo]:
    """The parameters of ``schema`` for help texts: those that must be given first, then in order of declaration."""
    hints = typing.get_type_hints(schema)
    rows = []
    for f in dataclasses.fields(schema):
        meta = _meta(f)
        low = "" if meta.low is None else f"{meta.low:g} <= "
        high = "" if meta.high is None else f" <= {meta.high:g}"
        required = f.default is dataclasses.MISSING
        rows.append(
            ParamInfo(
                name=f.name,
                type=_type_text(hints[f.name]),
                default=None if required else _plain(f.default),
                required=required,
                help=meta.help,
                unit=meta.unit,
                range=f"{low}{f.name}{high}" if low or high else "",
            )
        )
    return sorted(rows, key=lambda row: not row.required)


def _meta(f: dataclasses.Field[Any]) -> _Meta:
    meta = f.metadata.get(_META)
    if not isinstance(meta, _Meta):
        raise TypeError(f"parameter {f.name!r} must be declared with harness.params.param(...)")
    return meta


def _plain(value: Any) -> JSONValue:
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value


def _type_text(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " | ".join("none" if arg is types.NoneType else _type_text(arg) for arg in args)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return f"list of {_type_text(args[0])}"
        return f"{_type_text(args[0])}s, as {'x'.join('N' * len(args))}"
    name: str = hint.__name__
    return {"str": "text", "int": "integer", "float": "number", "bool": "true | false"}.get(name, name)


def _check_range(value: Any, f: dataclasses.Field[Any], where: str) -> Any:
    meta = _meta(f)
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if (meta.low is not None and number < meta.low) or (meta.high is not None and number > meta.high):
            low, high = ("-inf" if meta.low is None else meta.low), ("inf" if meta.high is None else meta.high)
            raise ParameterError(f"{where} must lie in [{low}, {high}], not {number}")
    return value


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        for choice in args:
            if value == choice or (isinstance(value, str) and value == str(choice)):
                return choice
        near = did_you_mean(str(value), map(str, args)) or f"choose one of {', '.join(map(str, args))}"
        raise ParameterError(f"{where} cannot be {value!r}", hint=near)
    if origin in (Union, types.UnionType):
        return _coerce_union(args, value, where)
    if origin is tuple:
        return _coerce_tuple(args, value, where)
    return _coerce_scalar(hint, value, where)


def _coerce_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if types.NoneType in args and (value is None or (isinstance(value, str) and value.lower() in ("none", "null"))):
        return None
    failures = []
    for arg in args:
        if arg is types.NoneType:
            continue
        try:
            return _coerce(arg, value, where)
        except ParameterError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    wanted = " | ".join(_type_text(arg) for arg in args if arg is not types.NoneType)
    raise ParameterError(f"{where} cannot be {value!r}", hint=f"give {wanted}")


def _coerce_tuple(args: tuple[Any, ...], value: Any, where: str) -> Any:
    fixed = not (len(args) == 2 and args[1] is Ellipsis)
    if isinstance(value, str):
        value = value.strip("[]()").replace("x", "," if fixed else "x").replace("+", ",")
        items: Sequence[Any] = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, Sequence):
        items = value
    else:
        items = [value]
    if not fixed:
        return tuple(_coerce(args[0], item, where) for item in items)
    if len(items) == 1:
        items = list(items) * len(args)
    if len(items) != len(args):
        raise ParameterError(f"{where} needs {len(args)} values such as {'x'.join(['14'] * len(args))}, not {value!r}")
    return tuple(_coerce(arg, item, where) for arg, item in zip(args, items, strict=True))


def _coerce_scalar(hint: type, value: Any, where: str) -> Any:
    wrong = ParameterError(f"{where} must be {_article(_type_text(hint))}, not {value!r}")
    if hint is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise wrong
    if isinstance(value, bool):
        raise wrong
    if hint is str:
        if isinstance(value, str):
            return value
        raise wrong
    try:
        number = float(value) if isinstance(value, str | int | float) else None
    except ValueError:
        number = None
    if number is None or number != number or number in (float("inf"), float("-inf")):
        raise wrong
    if hint is int:
        if number != int(number):
            raise wrong
        return int(value) if isinstance(value, int) else int(number)
    return number


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else noun if " " in noun or noun == "text" else f"a {noun}"
