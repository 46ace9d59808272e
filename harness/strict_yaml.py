"""YAML read strictly: every value knows its line and key path, and nothing that YAML would guess passes unseen."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from harness.errors import RegistryError
from harness.naming import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection

    from harness.types import JSONScalar, JSONValue

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is 10 times as fast, and not built everywhere
_PREFIX = "tag:yaml.org,2002:"
_KNOWN_TAGS = frozenset(f"{_PREFIX}{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))
_DECIMAL = re.compile(r"[+-]?(0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\Z")
_TRUE = frozenset({"true", "yes", "on"})
_ORDINARY = {"bool": "true or false", "int": "a decimal integer", "float": "a decimal number", "null": "null"}
MAX_DEPTH = 1000
"""Nesting beyond which a file is refused; composing a hundred times as much would end the process."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where something was written: a file as it was named, and a line counted from one."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Item:
    """One value of a file; reading it as something that it is not raises :class:`RegistryError` with its place."""

    node: yaml.Node
    file: str
    path: str = ""

    @property
    def source(self) -> Source:
        """The place of the value (for a mapping or list: of its first line)."""
        return Source(self.file, self.node.start_mark.line + 1)

    def error(self, problem: str, hint: str | None = None) -> RegistryError:
        """An error that begins with file, line and key path."""
        return RegistryError(f"{self.source}: {self.path + ': ' if self.path else ''}{problem}", hint=hint)

    def mapping(self) -> dict[str, Item]:
        """The entries of a mapping by key. Keys are text, each once."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"expected a mapping (key: value), found {self._found()}")
        items: dict[str, Item] = {}
        lines: dict[str, Source] = {}
        for key_node, value_node in self.node.value:
            key_item = Item(key_node, self.file, self.path)
            key = key_item.text("a key")
            if key in items:
                raise key_item.error(f"key {key!r} is given twice, first in line {lines[key].line}")
            items[key] = Item(value_node, self.file, f"{self.path}.{key}" if self.path else key)
            lines[key] = key_item.source
        return items

    def key_sources(self) -> dict[str, Source]:
        """The place of every key of a mapping that :meth:`mapping` has accepted."""
        return {key.value: Source(self.file, key.start_mark.line + 1) for key, _ in self.node.value}

    def fields(self, allowed: Collection[str]) -> dict[str, Item]:
        """Like :meth:`mapping`, for a mapping that may hold these keys only."""
        items = self.mapping()
        sources = self.key_sources()
        for key in items:
            if key not in allowed:
                where = f"{sources[key]}: {items[key].path}"
                hint = did_you_mean(key, allowed) or f"keys here are: {', '.join(allowed)}"
                raise RegistryError(f"{where}: unknown key {key!r}", hint=hint)
        return items

    def text(self, what: str = "text") -> str:
        """A non-empty text. What YAML reads as something else (``no``, ``16``, a date) must be quoted."""
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.error(f"expected {what}, found {self._found()}")
        if self._tag() != "str":
            if not self.node.value:
                raise self.error(f"expected {what}, found nothing")
            raise self.error(
                f"expected {what}, found {self.node.value}, which YAML reads as {self._found()}",
                hint=f'quote it: "{self.node.value}"',
            )
        if not self.node.value.strip():
            raise self.error(f"expected {what}, found an empty text")
        return str(self.node.value)

    def integer(self, low: int) -> int:
        """A whole number of at least ``low``."""
        value = self.scalar()
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise self.error(f"expected an integer of at least {low}, found {self.node.value}")
        return value

    def boolean(self) -> bool:
        """``true`` or ``false``."""
        value = self.scalar()
        if not isinstance(value, bool):
            raise self.error(f"expected true or false, found {self.node.value!r}")
        return value

    def elements(self) -> list[Item]:
        """The elements of a list; one value that is no list counts as a list of one."""
        if isinstance(self.node, yaml.SequenceNode):
            return [Item(node, self.file, f"{self.path}[{place}]") for place, node in enumerate(self.node.value)]
        return [self]

    def scalar(self) -> JSONScalar:
        """Text, number, truth value or null as YAML types it; numbers in decimal only.

        YAML 1.1 also reads ``010`` as eight and ``1:30`` as ninety; those, ``.inf`` and a missing value are refused.
        """
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.error(f"expected a single value, found {self._found()}")
        tag, raw = self._tag(), str(self.node.value)
        if tag == "str":
            return raw
        if tag == "bool":
            return raw.lower() in _TRUE
        if tag == "null" and raw:
            return None
        if tag == "int" and _DECIMAL.match(raw):
            return int(raw)
        if tag == "float" and _FLOAT.match(raw) and math.isfinite(float(raw)):
            return float(raw)
        problem = f"{raw} is not {_ORDINARY[tag]}" if raw else "the value is missing"
        raise self.error(problem, hint="quote it if it is a text; numbers are written in decimal, such as 8 or 0.5")

    def value(self) -> JSONValue:
        """A scalar, or a list of scalars."""
        if isinstance(self.node, yaml.SequenceNode):
            return [element.scalar() for element in self.elements()]
        return self.scalar()

    def _tag(self) -> str:
        return str(self.node.tag).removeprefix(_PREFIX)

    def _found(self) -> str:
        names = {"seq": "a list", "map": "a mapping", "bool": "a truth value", "null": "nothing", "str": "a text"}
        return names.get(self._tag(), "a number")


def read_yaml(text: str, file: str) -> Item:
    """The root mapping of one YAML document.

    Raises :class:`RegistryError` for broken YAML, an empty document, several documents, anchors that are used again,
    merge keys, tags, and nesting deeper than :data:`MAX_DEPTH`.
    """
    _check_depth(text, file)
    try:
        root: yaml.Node | None = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        where = f"{file}:{mark.line + 1}" if mark else file
        raise RegistryError(
            f"{where}: not valid YAML: {problem}", hint="check indentation, colons and quotes"
        ) from error
    except yaml.YAMLError as error:
        raise RegistryError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if root is None:
        raise RegistryError(
            f"{file}: the file is empty", hint="a registry file holds at least one key, such as models:"
        )
    _check_nodes(Item(root, file))
    return Item(root, file)


def _check_depth(text: str, file: str) -> None:
    """Refuse deep nesting while it is still a stream: composing it would exhaust the stack."""
    bound = text.count("[") + text.count("{") + max(map(len, text.splitlines()), default=0)
    if bound <= MAX_DEPTH:
        return  # no document of these characters can be deeper, and the events cost as much as composing
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    line = event.start_mark.line + 1  # type: ignore[union-attr]  # the stubs allow for no mark
                    raise RegistryError(f"{file}:{line}: nested deeper than {MAX_DEPTH} levels")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except yaml.YAMLError as error:
        if "nesting depth" in str(error):  # newer versions of libyaml stop by themselves, at 1000 levels
            raise RegistryError(f"{file}: nested deeper than {MAX_DEPTH} levels") from error
        # Composing reports anything else, with its place.


def _check_nodes(root: Item) -> None:
    """Refuse what would make a value mean other than it says: a node that stands in two places, a tag, a merge."""
    seen: set[int] = set()
    # Each node with its parent's place and its own step: a path is spelt out only where there is something to say.
    waiting: list[tuple[Any, Any, str]] = [(root.node, None, "")]
    while waiting:
        place = waiting.pop()
        node = place[0]
        if id(node) in seen:
            raise _item_at(place, root.file).error(
                "YAML anchors and aliases (&name, *name) are not supported", hint="write the value out"
            )
        seen.add(id(node))
        if node.tag == f"{_PREFIX}merge":
            raise _item_at(place, root.file).error("YAML merge keys (<<) are not supported", hint="write the keys out")
        if node.tag not in _KNOWN_TAGS:
            shown = str(node.tag).removeprefix(_PREFIX)
            raise _item_at(place, root.file).error(
                f"YAML type {shown!r} is not supported", hint="quote a text that looks like one; data only"
            )
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                waiting.append((key, place, ""))
                waiting.append((value, place, f".{key.value}"))
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(element, place, f"[{number}]") for number, element in enumerate(node.value)]


def _item_at(place: tuple[Any, Any, str], file: str) -> Item:
    steps = []
    node, parent, step = place
    while parent is not None:
        steps.append(step)
        _, parent, step = parent
    return Item(node, file, "".join(reversed(steps)).removeprefix("."))
