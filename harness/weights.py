"""Which weights a model gets: the choice, and its identity without building anything."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.errors import HarnessError, UsageError, WeightsError
from harness.paths import ensure_cache_dir
from harness.types import WeightsInfo

CHOICES = "pretrained, random, random:SEED, or the path of a checkpoint"


# --- the choice ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsChoice:
    """What ``--weights`` said: the tag's own, those of the checkpoint at ``path``, or initialised from ``seed``.

    ``allow_missing``: patterns (``head.*``) of names that file and network need not have in common. What the file
    lacks then keeps the initial values of ``seed``, what the network lacks is left out.
    """

    origin: Literal["pretrained", "random", "checkpoint"] = "pretrained"
    path: Path | None = None
    seed: int = 0
    allow_missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.origin == "checkpoint") != (self.path is not None):
            raise WeightsError(f"weights of origin {self.origin!r} with path {self.path}", hint=f"choose {CHOICES}")
        if not 0 <= self.seed < 2**63:
            raise WeightsError(f"weights: the seed must lie in [0, 2**63), not {self.seed}")
        for pattern in self.allow_missing:
            if not pattern or any(sign.isspace() or sign in ",;" for sign in pattern):
                raise UsageError(
                    f"--allow-missing {pattern!r} is no pattern of names",
                    hint="give a pattern such as 'head.*', and the option once for each",
                )
        if self.allow_missing and self.origin == "random":
            raise UsageError(
                "--allow-missing can have no effect beside random weights: nothing is loaded",
                hint="leave it out, or give --weights PATH",
            )


def parse_weights(text: str, *, allow_missing: Sequence[str] = ()) -> WeightsChoice:
    """Read ``pretrained``, ``random``, ``random:SEED`` or a path.

    Raises :class:`~harness.errors.WeightsError` for a path that is no file and for a seed that is no number, and
    :class:`~harness.errors.UsageError` for patterns that are none or can have no effect.

    >>> parse_weights("random:3")
    WeightsChoice(origin='random', path=None, seed=3, allow_missing=())
    """
    return allowing(_parse(text), allow_missing)


def allowing(choice: WeightsChoice, patterns: Sequence[str]) -> WeightsChoice:
    """``choice`` with further patterns of names that may be missing, each once. Raises as :func:`parse_weights` does.

    >>> allowing(WeightsChoice(), ["head.*"]).allow_missing
    ('head.*',)
    """
    every = [*choice.allow_missing, *([patterns] if isinstance(patterns, str) else patterns)]
    return replace(choice, allow_missing=tuple(dict.fromkeys(every)))


def _parse(text: str) -> WeightsChoice:
    if text == "pretrained":
        return WeightsChoice(origin="pretrained")
    kind, separator, seed = text.partition(":")
    if kind == "random" and (seed.isdecimal() or not separator):
        return WeightsChoice(origin="random", seed=int(seed or 0))
    path = Path(text).expanduser()
    if not path.is_file():
        if kind == "random":
            found = f"{seed!r} is no seed"
        else:
            found = f"{path} is a folder" if path.is_dir() else f"there is no file {path}"
        raise WeightsError(f"weights {text!r}: {found}", hint=f"choose {CHOICES}")
    return WeightsChoice(origin="checkpoint", path=path)


# --- identity --------------------------------------------------------------------------------------------------


def identify(
    choice: WeightsChoice, *, use: str, tag: str | None = None, url: str | None = None, embedded: str | None = None
) -> WeightsInfo:
    """The identity of the weights that a model would get, without building it and without importing torch.

    ``use`` is the model entry, ``tag`` what names its pretrained weights, ``url`` their address where they are others
    than the tag's, ``embedded`` the name of weights that its plugin carries. Random weights are those of a seed under
    two library versions, since initialisers change; so are the values that stay where names may be missing from a file.
    Raises :class:`~harness.errors.WeightsError` for a checkpoint that cannot be read, and for pretrained weights of a
    model that has none; and :class:`~harness.errors.UsageError` for names that may be missing from embedded weights.
    """
    if choice.origin == "random":
        return WeightsInfo(
            origin="random",
            identity=f"random:{tag or use}:{_initial(choice)}",
            source=f"random initialisation, seed {choice.seed}",
        )
    if choice.path is not None:
        digest = file_digest(choice.path)
        info = WeightsInfo(origin="checkpoint", identity=f"sha256:{digest}", source=str(choice.path), sha256=digest)
    elif (name := url or tag) is not None:
        info = WeightsInfo(origin="pretrained", identity=f"pretrained:{name}", source=name)
    elif embedded is not None:
        if choice.allow_missing:
            raise UsageError(
                f"--allow-missing can have no effect on model {use}, whose weights come with its plugin",
                hint="leave it out, or give --weights PATH",
            )
        return WeightsInfo(origin="embedded", identity=f"embedded:{embedded}", source=embedded)
    else:
        raise WeightsError(f"model {use} has no pretrained weights", hint="use --weights PATH or --weights random")
    return _with_gaps(info, choice) if choice.allow_missing else info


def _with_gaps(info: WeightsInfo, choice: WeightsChoice) -> WeightsInfo:
    """Which names really are missing shows only when the file is read, so the identity holds all that may matter."""
    patterns = sorted(choice.allow_missing)
    return replace(
        info,
        identity=f"{info.identity};allow-missing={','.join(patterns)};initial={_initial(choice)}",
        source=f"{info.source}, allowed to differ in {', '.join(patterns)}: names that it lacks keep initial values of "
        f"seed {choice.seed}, names that the model lacks are left out",
    )


def _initial(choice: WeightsChoice) -> str:
    versions = (f"{name}-{importlib.metadata.version(name)}" for name in ("torch", "timm"))
    return ":".join((str(choice.seed), *versions))


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file, remembered in the cache folder by path, size and time of last change.

    Raises :class:`~harness.errors.WeightsError` for a file that cannot be read.
    """
    try:
        path = path.resolve(strict=True)
        before = path.stat()
        signature: dict[str, str | int] = {"path": str(path), "size": before.st_size, "mtime_ns": before.st_mtime_ns}
        remembered = _remembered(signature)
        if remembered is not None:
            return remembered
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"weights: cannot read {path}: {error.strerror or error}") from error
    # A file changed within the resolution of its time stamp could change again without showing it.
    if time.time_ns() - before.st_mtime_ns > 2_000_000_000:
        _remember(signature, digest)
    return digest


def _remembered(signature: dict[str, str | int]) -> str | None:
    try:
        entry = json.loads(_digest_entry(signature).read_bytes())
    except (OSError, ValueError, HarnessError):
        return None
    if not isinstance(entry, dict) or {name: entry.get(name) for name in signature} != signature:
        return None
    digest = entry.get("sha256")
    return digest if isinstance(digest, str) and len(digest) == 64 else None


def _remember(signature: Mapping[str, str | int], digest: str) -> None:
    # The digest is right with or without this note, so a cache that cannot be written costs time only.
    try:
        target = _digest_entry(signature)
        with tempfile.NamedTemporaryFile("w", dir=target.parent, suffix=".part", delete=False) as part:
            json.dump({**signature, "sha256": digest}, part)
        Path(part.name).replace(target)
    except (OSError, HarnessError):
        return


def _digest_entry(signature: Mapping[str, str | int]) -> Path:
    name = hashlib.sha256(str(signature["path"]).encode()).hexdigest()
    return ensure_cache_dir("digests") / f"{name}.json"
