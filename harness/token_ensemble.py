"""Token ensembles: which tokens of which blocks make a model's feature vector, as one value that people can type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.errors import ParameterError
from harness.naming import did_you_mean
from harness.types import Capability, FeatureSpec

if TYPE_CHECKING:
    from harness.types import ModelInfo

_DINO_WIDEST = 384
_HINT = "for example ensemble4+patch, cls/last4, cls+dist/-2+-1, patches/all or cls/last/raw"
_NUMBERS = re.compile(r"-?\d+(\+-?\d+)*")
_PATCH: dict[str, Literal["last", "each"]] = {"patch": "last", "patches": "each"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEnsemble:
    """A feature vector named without a model: :meth:`spec` makes it one of a given model.

    ``prefix`` tokens by name, of ``blocks`` (zero-based, negative from the end), or of all blocks where ``every``;
    ``mean_patch``: the mean patch token of the last of these blocks, or of each; ``norm``: through the model's final
    norm. ``pooled``: the pre-logits vector, in front of them. ``by_width``: DINO's linear evaluation, which takes the
    class tokens of the last four blocks of a narrow model (ViT-S), and the last class token with the mean patch token
    of a wide one.

    >>> TokenEnsemble.parse("ensemble4")
    TokenEnsemble(pooled=False, prefix=('cls',), blocks=(-4, -3, -2, -1), every=False, mean_patch='none', norm=True, \
by_width=False)
    >>> TokenEnsemble.parse("cls/last4").text
    'ensemble4'
    """

    pooled: bool = False
    prefix: tuple[str, ...] = ()
    blocks: tuple[int, ...] = ()
    every: bool = False
    mean_patch: Literal["none", "last", "each"] = "none"
    norm: bool = True
    by_width: bool = False

    @classmethod
    def parse(cls, text: str) -> TokenEnsemble:
        """Read a preset, or ``TOKENS/BLOCKS`` and ``TOKENS/BLOCKS/raw``.

        Presets: ``pooled`` (the pre-logits vector), ``last``, ``ensemble4`` and ``all`` (class tokens of the last
        block, of the last four, of all; IPViT, section 3.5), ``dino`` (its linear evaluation, by the model's width),
        ``dinov2`` and ``dinov2_1`` (its linear heads over four blocks and over one). ``+patch`` adds the mean patch
        token of the last block, ``+patches`` that of each. ``TOKENS``: names of prefix tokens, ``patch``, ``patches``
        and ``pooled``, joined by ``+``. ``BLOCKS``: ``last``, ``lastN``, ``all``, or numbers joined by ``+``. ``raw``
        leaves out the final norm. Raises :class:`~harness.errors.ParameterError` for anything else.
        """
        if text in PRESETS:
            return PRESETS[text]
        tokens, slash, where = text.partition("/")
        if not slash:
            base, _, added = text.rpartition("+")
            if base in PRESETS and added in _PATCH and PRESETS[base].mean_patch == "none" and base != "dino":
                return _with_patch(PRESETS[base], _PATCH[added])
            raise ParameterError(
                f"token ensemble {text!r} cannot be read",
                hint=did_you_mean(text, PRESETS) or f"presets are {', '.join(PRESETS)}; {_HINT}",
            )
        names = tokens.split("+")
        blocks, _, raw = where.partition("/")
        prefix = tuple(name for name in names if name not in (*_PATCH, "pooled"))
        patches = [_PATCH[name] for name in names if name in _PATCH]
        if (
            raw not in ("", "raw")
            or (where.endswith("/") and not raw)
            or len(patches) > 1
            or len(set(names)) != len(names)
            or not all(name.isidentifier() for name in names)
        ):
            raise ParameterError(f"token ensemble {text!r} cannot be read", hint=_HINT)
        if not prefix and not patches:
            raise ParameterError(f"token ensemble {text!r} names blocks, but no token of theirs", hint=_HINT)
        return cls(
            pooled="pooled" in names,
            prefix=prefix,
            blocks=() if blocks == "all" else _blocks(blocks, text),
            every=blocks == "all",
            mean_patch=patches[0] if patches else "none",
            norm=raw != "raw",
        )

    @property
    def text(self) -> str:
        """The one spelling that keys hold: a preset's name where there is one."""
        for name, value in PRESETS.items():
            if value == self:
                return name
            for added, kind in _PATCH.items():
                if value.mean_patch == "none" and not value.by_width and _with_patch(value, kind) == self:
                    return f"{name}+{added}"
        names = [*(["pooled"] if self.pooled else []), *self.prefix]
        names += [name for name, kind in _PATCH.items() if kind == self.mean_patch]
        blocks = "all" if self.every else "+".join(map(str, self.blocks))
        if not self.every and self.blocks == tuple(range(-len(self.blocks), 0)):
            blocks = "last" if len(self.blocks) == 1 else f"last{len(self.blocks)}"
        return f"{'+'.join(names)}/{blocks}{'' if self.norm else '/raw'}"

    @property
    def needs(self) -> frozenset[Capability]:
        """What a model must be able to give."""
        wanted = {Capability.POOLED} if self.pooled else set()
        if self.blocks or self.every:
            wanted.add(Capability.TOKENS)
        if "cls" in self.prefix:
            wanted.add(Capability.CLASS_TOKEN)
        return frozenset(wanted)

    def spec(self, model: ModelInfo) -> FeatureSpec:
        """The vector of ``model``. What it cannot give is found by :func:`harness.features.require_features`."""
        if self.by_width and model.embed_dim > _DINO_WIDEST:
            return FeatureSpec(blocks=(-1,), prefix=self.prefix, mean_patch="last")
        return FeatureSpec(
            pooled=self.pooled,
            blocks=tuple(range(model.num_blocks)) if self.every else self.blocks,
            prefix=self.prefix,
            mean_patch=self.mean_patch,
            norm=self.norm,
        )


def _with_patch(base: TokenEnsemble, kind: Literal["last", "each"]) -> TokenEnsemble:
    return TokenEnsemble(
        pooled=base.pooled,
        prefix=base.prefix,
        blocks=base.blocks or (() if base.every else (-1,)),
        every=base.every,
        mean_patch=kind,
    )


def _blocks(text: str, whole: str) -> tuple[int, ...]:
    if (last := re.fullmatch(r"last([1-9]\d*)?", text)) is not None:
        return tuple(range(-int(last[1] or 1), 0))
    if not _NUMBERS.fullmatch(text):
        raise ParameterError(
            f"token ensemble {whole!r}: the blocks {text!r} cannot be read",
            hint=f"give last, last4, all, or numbers such as 8+9+10+11 or -2+-1; {_HINT}",
        )
    blocks = tuple(int(number) for number in re.findall(r"-?\d+", text.replace("+", " ")))
    if len(set(blocks)) != len(blocks):
        raise ParameterError(f"token ensemble {whole!r} names a block twice", hint=_HINT)
    return blocks


_LAST4 = (-4, -3, -2, -1)
PRESETS: dict[str, TokenEnsemble] = {
    "pooled": TokenEnsemble(pooled=True),
    "last": TokenEnsemble(prefix=("cls",), blocks=(-1,)),
    "ensemble4": TokenEnsemble(prefix=("cls",), blocks=_LAST4),
    "all": TokenEnsemble(prefix=("cls",), every=True),
    "dino": TokenEnsemble(prefix=("cls",), blocks=_LAST4, by_width=True),
    "dinov2": TokenEnsemble(prefix=("cls",), blocks=_LAST4, mean_patch="last"),
    "dinov2_1": TokenEnsemble(prefix=("cls",), blocks=(-1,), mean_patch="last"),
}
"""Names for the ensembles of the literature."""
