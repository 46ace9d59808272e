"""Pretrained weights at plain addresses: fetched once, and held to one digest on every load.

An address promises nothing about its bytes, so a digest does: the one that a preset pins; the beginning of one that
the file's name carries (``deit_tiny-a1311bcf.pth``), as PyTorch's hub has it; and in any case the one that the first
download had, which is recorded beside the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Literal

from harness.errors import UsageError, WeightsError
from harness.paths import cache_dir, ensure_cache_dir
from harness.state_dicts import WEIGHT_SUFFIXES, container_fault
from harness.transfer import WAYS_ON, Answer, ask, download, host_of, reason, require_online

FOLDER = "weights"
"""Where these files lie in the cache folder."""

_RECORD = "record.json"
_INCOMPLETE = ".incomplete-"
_STALE_S = 24 * 3600.0
_PUBLISHED = re.compile(r"-([0-9a-f]{8,64})(?:\.[A-Za-z]+)+\Z")
_DAY = re.compile(r"(19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])\Z")
_OTHER_WAYS = "give a checkpoint file, --weights PATH; or run untrained, --weights random"
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_UNSAFE = re.compile(r"[^A-Za-z0-9._+\-]")

DigestSource = Literal["pinned", "published", "recorded"]
"""What a digest is held to: one that was given, the beginning of one in the file's name, that of the first download."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlWeights:
    """A file in the cache whose bytes have just been checked. ``sha256`` is theirs (hex)."""

    url: str
    path: Path
    size_bytes: int
    sha256: str
    digest_source: DigestSource


# --- what callers need -----------------------------------------------------------------------------------------


def url_file(url: str, *, sha256: str | None = None) -> Path:
    """The local file with the bytes of ``url``, fetched if it is not in the cache yet; see :func:`url_weights`."""
    return url_weights(url, sha256=sha256).path


def url_weights(url: str, *, sha256: str | None = None) -> UrlWeights:
    """The weights at ``url`` (http or https), fetched if they are not in the cache folder yet.

    ``sha256``: their digest (64 hexadecimal digits), where it is known. The digest of the file is computed afresh on
    every call. Raises :class:`~harness.errors.WeightsError` for an address that names no file of weights, for a file
    that cannot be had (within seconds), is no whole file of weights, or has another digest than it must have.
    """
    name = _file_name(url)
    if sha256 is not None:
        sha256 = sha256.lower()
        if not _SHA256.match(sha256):
            raise WeightsError(f"weights {url}: a SHA-256 has 64 hexadecimal digits, not {sha256!r}")
    with _told(url):
        folder = _folder(url)
        if not _is_cached(folder, name):
            require_online()
            _fetch(url, name, sha256)
        return _checked(url, folder / name, sha256)


def address_fault(url: str) -> WeightsError | None:
    """What is wrong with an address that no program can fetch weights from, such as a page; None if nothing is."""
    try:
        _file_name(url)
    except WeightsError as error:
        return error
    return None


def cached_url_file(url: str) -> Path | None:
    """The file that was fetched from ``url``, or None; no request is made, and its bytes are not looked at.

    Raises :class:`~harness.errors.WeightsError` for an address that names no file of weights.
    """
    name, folder = _file_name(url), _folder(url)
    return folder / name if _is_cached(folder, name) else None


def require_url_reachable(url: str) -> None:
    """Return if the weights at ``url`` are in the cache or their server has them, without fetching anything.

    Raises :class:`~harness.errors.WeightsError` within :data:`harness.transfer.PREFLIGHT_S` otherwise.
    """
    if cached_url_file(url) is None:
        with _told(url):
            require_online()
            _available(url)


# --- the address -----------------------------------------------------------------------------------------------


def published_prefix(name: str) -> str | None:
    """The beginning of the SHA-256 that a file's name carries, as PyTorch's hub writes it; None without one.

    >>> published_prefix("deit_tiny_patch16_224-a1311bcf.pth"), published_prefix("dino_deitsmall16_pretrain.pth")
    ('a1311bcf', None)
    """
    found = _PUBLISHED.search(name)
    # Eight digits that read as a day are when the file was made.
    return None if found is None or _DAY.match(found.group(1)) else found.group(1)


def _file_name(url: str) -> str:
    """The name that the address gives the file: its last part that ends like a file of weights."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise WeightsError(
            f"weights {url!r}: no address that begins with http:// or https:// and names a host",
            hint="for a local file use --weights PATH",
        )
    names = [PurePosixPath(urllib.parse.unquote(part)).name for part in parts.path.split("/")]
    name = next((name for name in reversed(names) if PurePosixPath(name).suffix in WEIGHT_SUFFIXES), None)
    if name is None:
        raise WeightsError(
            f"weights {url}: the address does not name a file of weights ({', '.join(WEIGHT_SUFFIXES)})",
            hint="download it with a browser, check what it is, and use --weights PATH",
        )
    return _UNSAFE.sub("_", name).lstrip(".")[-128:]


def _folder(url: str) -> Path:
    return cache_dir() / FOLDER / hashlib.sha256(url.encode()).hexdigest()[:16]


# --- the cache -------------------------------------------------------------------------------------------------


def _is_cached(folder: Path, name: str) -> bool:
    # The record comes first and the file last, so a file without one is not of our making.
    return (folder / name).is_file() and (folder / _RECORD).is_file()


def _checked(url: str, path: Path, sha256: str | None) -> UrlWeights:
    recorded, prefix = _recorded(path.parent, url), published_prefix(path.name)
    found, size = _digest(path)
    fault = _disagreement(found, path.name, sha256) if found == recorded else f"at its first download it had {recorded}"
    if fault is not None:
        raise WeightsError(
            f"{path} has the SHA-256 {found}, but {fault}",
            hint=f"find out why; to accept what the server has now, delete {path.parent}; or give a checkpoint file, "
            "--weights PATH",
        )
    source: DigestSource = "pinned" if sha256 is not None else "recorded" if prefix is None else "published"
    return UrlWeights(url=url, path=path, size_bytes=size, sha256=found, digest_source=source)


def _disagreement(found: str, name: str, sha256: str | None) -> str | None:
    """What the digest should have been, where it is told and is another; a pinned one goes before that of the name."""
    prefix = published_prefix(name)
    if sha256 is not None:
        return None if found == sha256 else f"{sha256} is pinned"
    return None if prefix is None or found.startswith(prefix) else f"its name says that it begins with {prefix}"


def _digest(path: Path) -> tuple[str, int]:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error


def _recorded(folder: Path, url: str) -> str:
    """The digest of the first download. A record that cannot be read must not let any bytes pass for the old ones."""
    try:
        record = json.loads((folder / _RECORD).read_bytes())
    except (OSError, ValueError):
        record = None
    digest = record.get("sha256") if isinstance(record, dict) and record.get("url") == url else None
    if not isinstance(digest, str) or not _SHA256.match(digest):
        raise WeightsError(
            f"{folder / _RECORD} does not say which digest the first download had",
            hint=f"delete {folder} to fetch the file again, or give a checkpoint file, --weights PATH",
        )
    return digest


# --- fetching --------------------------------------------------------------------------------------------------


def _fetch(url: str, name: str, sha256: str | None) -> None:
    """Put the bytes of ``url`` into the cache, checked, the file last. Another process may be doing the same."""
    size = _available(url).size
    folder = _folder(url)
    try:
        ensure_cache_dir(f"{FOLDER}/{folder.name}")
        _remove_stale(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=_INCOMPLETE) as scratch:
            partial = Path(scratch) / name
            download(url, partial, size, label=name)
            if fault := container_fault(partial):
                raise WeightsError(f"{host_of(url)} does not give a whole file of weights: {fault}", hint=_OTHER_WAYS)
            found, size = _digest(partial)
            if fault := _disagreement(found, name, sha256):
                raise WeightsError(
                    f"the download has the SHA-256 {found}, but {fault}",
                    hint="it is not what was published under this address; give a checkpoint file, --weights PATH; if "
                    "the new file is to be trusted, the preset must pin its digest",
                )
            _record(folder, Path(scratch), url=url, sha256=found, size_bytes=size)
            if found != (recorded := _recorded(folder, url)):
                raise WeightsError(
                    f"the download has the SHA-256 {found}, but at its first download it had {recorded}",
                    hint=f"find out why; to accept what the server has now, delete {folder}; or give a checkpoint "
                    "file, --weights PATH",
                )
            partial.replace(folder / name)
    except OSError as error:
        raise WeightsError(f"the cache folder {folder} cannot be written to ({reason(error)})", hint=WAYS_ON) from error


def _available(url: str) -> Answer:
    """What the server says of the file, if it says that it has one."""
    answer = ask(url, called="the server", follow=True)
    host = host_of(answer.url)
    if answer.status in (404, 410):
        raise WeightsError(f"{host} has no file at this address (HTTP status {answer.status})", hint=_OTHER_WAYS)
    if answer.status not in (200, 206):
        raise WeightsError(f"{host} does not give it to everybody (HTTP status {answer.status})", hint=_OTHER_WAYS)
    if answer.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/html":
        raise WeightsError(
            f"{host} answers with an HTML page, not with weights: a page about the file, a sign-in, or a warning "
            "before a large download",
            hint="download the file with a browser and use --weights PATH; or run untrained, --weights random",
        )
    return answer


def _record(folder: Path, scratch: Path, *, url: str, sha256: str, size_bytes: int) -> None:
    """Write down the digest, unless one is there: the first download decides, whichever process it was."""
    part = scratch / _RECORD
    recorded = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"url": url, "sha256": sha256, "size_bytes": size_bytes, "recorded": recorded}, indent=2)
    part.write_text(f"{text}\n", encoding="utf-8")
    try:
        # Unlike a replacement, a link leaves the record of a quicker process alone.
        (folder / _RECORD).hardlink_to(part)
    except FileExistsError:
        return
    except OSError:  # file systems without links
        if not (folder / _RECORD).exists():
            part.replace(folder / _RECORD)


def _remove_stale(folder: Path) -> None:
    """Remove what downloads left that were killed; one that still runs is not a day old."""
    for left in folder.glob(f"{_INCOMPLETE}*"):
        try:
            age_s = time.time() - left.stat().st_mtime
        except FileNotFoundError:
            continue
        if age_s > _STALE_S:
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Errors say which weights they are about."""
    try:
        yield
    except (WeightsError, UsageError) as error:
        raise type(error)(f"weights {url}: {error.message}", hint=error.hint) from error
