"""What people type to name a component: ``NAME``, ``NAME:key=value``, ``NAME@LEVEL``, lists, globs and ``@file``.

::

    selector  = [plugin ":"] name {":" pair {"," pair}} ["@" levels]
    pair      = key "=" value
    levels    = "all" | number {"," number}

The first part is the name; where a second part without ``=`` follows, the first is the plugin (or distribution) that
offers the name. A value that holds ``:``, ``,`` or ``@`` is quoted or bracketed as a whole: ``folder:root="C:\\data"``,
``fewshot:shots=[1,5]``.
"""

from __future__ import annotations

import fnmatch
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.errors import ParameterError, UsageError
from harness.naming import is_valid_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PLUGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\Z")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z")
_PLAIN_VALUE = re.compile(r"[^\s:,@#='\"\[\]()]+\Z")
_OPENING = {"[": "]", "(": ")", "'": "'", '"': '"'}
_EXAMPLE = (
    "for example patchdrop_random, patchdrop_random@0.5, patchdrop_random:grid=7x7@0.25,0.5 or patchdrop_random@all"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """One component as it was asked for, not yet looked up. Parameter values are text.

    ``plugin`` is what stood before the name (``timm_vit:vit``), None if nothing did. ``levels`` is None where none
    were given, and ``"all"`` for the perturbation's own sweep.
    """

    name: str
    params: Mapping[str, str] = field(default_factory=dict)
    levels: tuple[float, ...] | Literal["all"] | None = None
    plugin: str | None = None

    @property
    def qualified_name(self) -> str:
        """The name with its plugin, where one was given."""
        return self.name if self.plugin is None else f"{self.plugin}:{self.name}"

    @property
    def text(self) -> str:
        """A spelling that :func:`parse_selector` reads back to this very selector.

        >>> parse_selector("fewshot:shots=1+5:seed=3").text
        'fewshot:shots=1+5,seed=3'
        """
        text = self.qualified_name
        if self.params:
            text += ":" + ",".join(f"{key}={_quoted(value)}" for key, value in self.params.items())
        if self.levels == "all":
            text += "@all"
        elif self.levels is not None:
            text += "@" + ",".join(repr(level).removesuffix(".0") for level in self.levels)
        return text


def parse_selector(text: str) -> Selector:
    """Read one selector.

    Raises :class:`UsageError` for a text that is no selector (a composition ``A@3+B@0.5`` is reserved and says so) and
    :class:`ParameterError` for a pair or a level that cannot be read.

    >>> parse_selector("patchdrop_random:grid=7x7@0.25,0.5")
    Selector(name='patchdrop_random', params={'grid': '7x7'}, levels=(0.25, 0.5), plugin=None)
    >>> parse_selector("timm_vit:vit").plugin
    'timm_vit'
    """
    head, *rest = _split(text.strip(), "@", text)
    if _is_composition(head, rest):
        raise UsageError(
            f"{text!r} composes perturbations with '+', which is reserved and not available yet",
            hint="ask for each perturbation on its own, for example --perturb A@3 --perturb B@0.5",
        )
    if len(rest) > 1:
        raise UsageError(
            f"{text!r} has more than one '@'", hint='quote a value that holds one: folder:root="/data/me@home"'
        )
    parts = _split(head, ":", text)
    name, plugin = parts.pop(0).strip(), None
    if parts and "=" not in parts[0]:
        # Behind a plugin's name the spelling of the library that it wraps is understood: torchattacks:APGD.
        name, plugin = parts.pop(0).strip().lower(), name
    if plugin is not None and not _PLUGIN.match(plugin):
        raise UsageError(f"{text!r}: {plugin!r} is not the name of a plugin")
    if not is_valid_name(name):
        raise _not_a_name(name, text)
    return Selector(
        name=name,
        params=_pairs((pair for part in parts for pair in _split(part, ",", text)), text),
        levels=_levels(rest[0], text) if rest else None,
        plugin=plugin,
    )


def split_names(texts: Iterable[str]) -> list[str]:
    """Every selector or glob of comma lists and ``@file`` lists, in order, each once.

    A comma also separates levels and parameters, so a part that is a number or ``key=value`` belongs to the selector
    before it. A file holds one list per line; ``#`` starts a comment. Raises :class:`UsageError` for a file that
    cannot be read, an empty part, or a file that names a file.

    >>> split_names(["vit_b16,resnet50", "patchdrop_random:grid=7,offset=1@0.25,0.5,none"])
    ['vit_b16', 'resnet50', 'patchdrop_random:grid=7,offset=1@0.25,0.5', 'none']
    """
    found: dict[str, None] = {}
    for text in texts:
        for item in _list_items(text):
            if item.startswith("@"):
                found.update(dict.fromkeys(_file_items(Path(item[1:]))))
            else:
                found[item] = None
    return list(found)


def is_glob(text: str) -> bool:
    """Whether the name in ``text`` is a pattern with ``*``, ``?`` or ``[...]``; parameters and levels do not count.

    >>> is_glob("vit_*@all"), is_glob("fewshot:shots=[1,5]")
    (True, False)
    """
    return any(sign in split_name(text)[0] for sign in "*?[")


def split_name(text: str) -> tuple[str, str]:
    """``text`` cut where its parameters or levels begin.

    >>> split_name("timm_vit:vit*:arch=x@all")
    ('timm_vit:vit*', ':arch=x@all')
    """
    cut = len(text)
    for mark in re.finditer(r"@|:(?=[^:@]*=)", text):
        cut = mark.start()
        break
    return text[:cut], text[cut:]


def match_glob(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that ``pattern`` matches, in their order; case matters.

    >>> match_glob("vit_?16", ["vit_b16", "vit_b32", "deit_b"])
    ['vit_b16']
    """
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def _is_composition(head: str, rest: list[str]) -> bool:
    name = head.partition(":")[0].lower()
    follows = any(_is_name_after_plus(part) for part in rest)
    return follows or ("+" in name and all(is_valid_name(word) for word in name.split("+")))


def _is_name_after_plus(levels: str) -> bool:
    _, plus, after = levels.partition("+")
    name = after.partition(":")[0].strip().lower()
    return bool(plus) and is_valid_name(name) and _NUMBER.match(name) is None


def _not_a_name(word: str, text: str) -> UsageError:
    if not word:
        return UsageError(f"{text!r}: a name is missing", hint=_EXAMPLE)
    if any(sign in word for sign in "*?["):
        return UsageError(f"{text!r}: a pattern was given where one name is needed")
    if "=" in word:
        return UsageError(f"{text!r}: {word!r} is a parameter without a name before it", hint=f"write NAME:{word}")
    lower = word.lower()
    hint = f"did you mean {lower}?" if is_valid_name(lower) else _EXAMPLE
    return UsageError(f"{text!r}: {word!r} is not a name (lower-case letters, digits, '_', '-', '.')", hint=hint)


def _pairs(parts: Iterable[str], text: str) -> dict[str, str]:
    params: dict[str, str] = {}
    for part in parts:
        key, separator, raw = part.partition("=")
        key, raw = key.strip(), raw.strip()
        if not separator or not _KEY.match(key):
            raise ParameterError(
                f"{text!r}: expected key=value, found {part!r}",
                hint="write lists as shots=1+5 or shots=[1,5]; quote a value that holds ':' or ',': root=\"C:/data\"",
            )
        if key in params:
            raise ParameterError(f"{text!r}: parameter {key!r} is given twice")
        if not raw:
            raise ParameterError(f"{text!r}: parameter {key!r} has no value", hint=f'write {key}=VALUE, or {key}=""')
        params[key] = _unquoted(raw)
    return params


def _levels(raw: str, text: str) -> tuple[float, ...] | Literal["all"]:
    if raw.strip() == "all":
        return "all"
    levels: dict[float, None] = {}
    for part in raw.split(","):
        number = part.strip()
        if not _NUMBER.match(number) or not math.isfinite(float(number)):
            hint = "write NAME@0.5, NAME@0.25,0.5 or NAME@all"
            if "=" in raw or ":" in raw:
                hint += "; parameters come before '@': NAME:key=value@0.5"
            elif "/" in raw or "\\" in raw or is_valid_name(number):
                hint += "; quote a value that holds '@': folder:root=\"/data/me@home\""
            raise ParameterError(f"{text!r}: level {number!r} is not a number", hint=hint)
        levels[float(number)] = None
    return tuple(levels)


def _list_items(text: str) -> Iterator[str]:
    item = ""
    for raw in _split(text, ",", text):
        part = raw.strip()
        if not part:
            raise UsageError(f"{text!r}: a name is missing between commas", hint="for example vit_b16,resnet50")
        if item and _continues(item, part):
            item += f",{part}"
            continue
        if item:
            yield item
        item = part
    if item:
        yield item


def _continues(item: str, part: str) -> bool:
    if "@" in split_name(item)[1]:
        return _NUMBER.match(part) is not None
    key, equals, _ = part.partition("=")
    return bool(equals) and _KEY.match(key.strip()) is not None and "=" in item


def _file_items(path: Path) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"@{path}: cannot read this list of names: {reason}", hint="one name per line") from error
    for number, line in enumerate(lines, start=1):
        text = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        for item in _list_items(text) if text else ():
            if item.startswith("@"):
                raise UsageError(f"{path}:{number}: a list file cannot name another, found {item!r}")
            yield item


def _split(text: str, separator: str, whole: str) -> list[str]:
    """``text`` cut at every ``separator`` outside quotes and brackets, which open only where a value begins."""
    parts, closing, start = [], "", 0
    for position, sign in enumerate(text):
        if closing:
            if sign == closing[-1]:
                closing = closing[:-1]
            elif sign in "[(" and closing[-1] in "])":
                closing += _OPENING[sign]
        elif sign in _OPENING and text[:position].rstrip().endswith("="):
            closing = _OPENING[sign]
        elif sign == separator:
            parts.append(text[start:position])
            start = position + 1
    if closing:
        raise UsageError(f"{whole!r}: {closing[-1]!r} is missing at the end")
    return [*parts, text[start:]]


def _unquoted(raw: str) -> str:
    return raw[1:-1] if len(raw) >= 2 and raw[0] == raw[-1] and raw[0] in "'\"" else raw


def _quoted(value: str) -> str:
    if _PLAIN_VALUE.match(value):
        return value
    if '"' not in value:
        return f'"{value}"'
    if "'" not in value:
        return f"'{value}'"
    raise ParameterError(f"the value {value!r} holds both kinds of quotes, which no selector can spell")
