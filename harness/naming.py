"""Names people type: what a name may look like, and what they probably meant by one that is unknown."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_NAME = re.compile(r"[a-z0-9][a-z0-9_.\-]*\Z")


def parameter_text(name: str, value: object) -> str:
    """A parameter of a component as people type it: ``name=value``, the sides of a grid as 14x14, lists as 1+5.

    >>> parameter_text("grid", [14, 14]), parameter_text("shots", (1, 5)), parameter_text("fill", "blur")
    ('grid=14x14', 'shots=1+5', 'fill=blur')
    """
    if isinstance(value, list | tuple):
        return f"{name}={('x' if name == 'grid' else '+').join(map(str, value))}"
    return f"{name}={value}"


def is_valid_name(name: str) -> bool:
    """Whether ``name`` may name an entry: lower-case letters, digits, ``_``, ``-`` and ``.``.

    >>> is_valid_name("vit_b16"), is_valid_name("ViT B/16")
    (True, False)
    """
    return _NAME.match(name) is not None


def suggest(name: str, known: Iterable[str], *, limit: int = 3) -> list[str]:
    """The known names closest to ``name``, best first; empty when none is near.

    >>> suggest("vit_b61", ["vit_b16", "resnet50"])
    ['vit_b16']
    """
    candidates = sorted(set(known))
    near = difflib.get_close_matches(name.lower(), candidates, n=limit, cutoff=0.6)
    return near or [other for other in candidates if name and name.lower() in other][:limit]


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A hint sentence for an unknown name, or None when nothing is near.

    >>> did_you_mean("fewshots", ["fewshot", "head"])
    'did you mean fewshot?'
    """
    near = suggest(name, known)
    return f"did you mean {' or '.join(near)}?" if near else None


def plural(kind: str) -> str:
    """A kind as a heading names it.

    >>> plural("model"), plural("summary")
    ('models', 'summaries')
    """
    return f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
