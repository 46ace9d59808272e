"""Pretrained weights from the model hub: the local cache first, then one quick look whether the hub answers.

The files lie where huggingface_hub and timm keep theirs, in the same layout, so each finds what the other fetched.
The transfer itself is done here: the hub's own client waits minutes for a silent server, and asks one that cuts the
body short and ignores ``Range`` again without end. Everything here has a time limit and fails for good.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from typing import Any

from harness.errors import WeightsError
from harness.weights import check_container

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights in a hub repository, the better one first."""

PREFLIGHT_S = 3.0
_SILENCE_S = 5.0
"""How long a transfer may pause before it counts as broken off, in seconds."""

_ATTEMPTS = 3
_CHUNK_BYTES = 1 << 20
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]*\Z")
_USER_AGENT = "vit-harness"

_WAYS_ON = (
    "run `harness fetch MODEL` where there is a network (the cache folder can be copied); "
    "or give a checkpoint file, --weights PATH; or run untrained, --weights random"
)


class NotOnHubError(WeightsError):
    """The hub answered, and has no such public file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubAnswer:
    """What a hub said to a HEAD request: the status and the headers (any case), redirects not followed."""

    url: str
    status: int
    headers: Mapping[str, str]


# --- surroundings ----------------------------------------------------------------------------------------------


def is_offline() -> bool:
    """Whether ``HARNESS_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids every request (1, on, yes or true)."""
    return any(
        os.environ.get(name, "").lower() in ("1", "on", "yes", "true") for name in ("HARNESS_OFFLINE", "HF_HUB_OFFLINE")
    )


def hub_endpoint() -> str:
    """Address of the hub: ``HF_ENDPOINT``, else the public one; without a slash at the end."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hub_cache_dir() -> Path:
    """The hub's cache folder, as its documentation says: ``HF_HUB_CACHE``, else ``hub`` in ``HF_HOME``."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.environ[name]).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"
    return Path(home).expanduser() / "hub"


def timm_repository(tag: str) -> str:
    """The hub repository of timm's weights ``architecture.tag``, known without importing timm.

    >>> timm_repository("deit_tiny_patch16_224.fb_in1k")
    'timm/deit_tiny_patch16_224.fb_in1k'
    """
    # Two architectures that differ in the activation alone share one file.
    return f"timm/{tag.replace('_quickgelu', '')}"


# --- what callers need -----------------------------------------------------------------------------------------


def preflight(url: str | None = None, timeout_s: float = PREFLIGHT_S) -> HubAnswer:
    """One HEAD request to ``url`` (default: the hub), answered or given up within ``timeout_s`` seconds.

    Any HTTP answer counts, except that the server is in trouble (429, 5xx). Proxies of the environment
    (``HTTPS_PROXY``, ``NO_PROXY`` ...) are used. It runs in a thread of its own, because resolving a name has no
    time limit. Raises :class:`~harness.errors.WeightsError` for a refused connection, an unknown host, silence.
    """
    target = url or hub_endpoint()
    answers: list[HubAnswer] = []
    faults: list[str] = []

    def ask() -> None:
        try:
            answers.append(_head(target, timeout_s))
        except (OSError, HTTPException, ValueError) as error:
            faults.append(_reason(error))

    thread = threading.Thread(target=ask, daemon=True, name="hub-preflight")
    thread.start()
    thread.join(timeout_s)
    host = urllib.parse.urlsplit(target).netloc or target
    if faults:
        raise _unavailable(f"the hub {host} cannot be reached ({faults[0]})")
    if not answers:
        raise _unavailable(f"the hub {host} does not answer within {timeout_s:g} seconds")
    if answers[0].status == 429 or answers[0].status >= 500:
        raise _unavailable(f"the hub {host} answers with HTTP status {answers[0].status}")
    return answers[0]


def cached_file(tag: str, *, repo_id: str | None = None) -> Path | None:
    """The weights of ``tag`` in the local hub cache, or None; no request is made.

    ``repo_id`` defaults to :func:`timm_repository`.
    """
    repo = _repo_folder(repo_id or timm_repository(tag))
    try:
        commit = (repo / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    for name in WEIGHT_FILES:
        path = repo / "snapshots" / commit / name
        if _SAFE.match(commit) and path.is_file():
            return path
    return None


def require_reachable(tag: str) -> None:
    """Return if the weights of timm's ``tag`` are in the cache or the hub answers, without fetching anything.

    Raises :class:`~harness.errors.WeightsError` within :data:`PREFLIGHT_S` otherwise: before torch is imported, and
    before another model of the same grid has been run in vain.
    """
    if cached_file(tag) is not None:
        return
    try:
        _require_online()
        preflight()
    except WeightsError as error:
        raise type(error)(f"pretrained weights {tag}: {error.message}", hint=error.hint) from error


def pretrained_file(tag: str, *, repo_id: str | None = None) -> Path:
    """The local file with the pretrained weights of ``tag``, fetched if it is not in the hub cache yet.

    ``repo_id`` defaults to :func:`timm_repository`. Raises :class:`~harness.errors.WeightsError`, within seconds,
    if the file is not cached and cannot be had (:class:`NotOnHubError` if the hub has none). A body that is cut short
    or does not have the hub's digest never reaches the cache.
    """
    cached = cached_file(tag, repo_id=repo_id)
    if cached is not None:
        return cached
    repo_id = repo_id or timm_repository(tag)
    try:
        _require_online()
        for name in WEIGHT_FILES:
            fetched = _fetch(repo_id, name)
            if fetched is not None:
                return fetched
    except WeightsError as error:
        raise type(error)(f"pretrained weights {tag}: {error.message}", hint=error.hint) from error
    raise NotOnHubError(
        f"pretrained weights {tag}: {repo_id} at {hub_endpoint()} has no public file {' or '.join(WEIGHT_FILES)}",
        hint=_WAYS_ON,
    )


# --- one file --------------------------------------------------------------------------------------------------


def _fetch(repo_id: str, name: str) -> Path | None:
    """The file in the cache after a download; None if the repository has no file of that name."""
    answer = preflight(f"{hub_endpoint()}/{repo_id}/resolve/main/{name}")
    for _ in range(3):  # a renamed repository answers with a redirect inside the hub
        location = answer.headers.get("location")
        if not 300 <= answer.status < 400 or location is None or "x-repo-commit" in answer.headers:
            break
        answer = preflight(urllib.parse.urljoin(answer.url, location))
    if answer.status in (401, 403, 404):
        return None
    etag = (answer.headers.get("x-linked-etag") or answer.headers.get("etag") or "").removeprefix("W/").strip('"')
    commit = answer.headers.get("x-repo-commit", "")
    if answer.status >= 400 or not _SAFE.match(etag) or not _SAFE.match(commit):
        raise _unavailable(
            f"{answer.url} does not answer like a hub (HTTP status {answer.status}, no commit or no etag)"
        )
    length = answer.headers.get("x-linked-size") or (
        answer.headers.get("content-length") if answer.status < 300 else None
    )
    size = int(length) if length and length.isdecimal() else None
    repo = _repo_folder(repo_id)
    try:
        repo.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=repo, prefix=".incomplete-") as folder:
            partial = Path(folder) / name
            _transfer(answer.url, partial, size, label=repo_id)
            _verify(partial, etag)
            return _publish(partial, repo, etag, commit)
    except OSError as error:
        raise _unavailable(f"the cache folder {repo} cannot be written to ({_reason(error)})") from error


def _transfer(url: str, target: Path, size: int | None, *, label: str) -> None:
    """Write the body of ``url`` to ``target``, going on where it broke off as long as that gets further."""
    reached, fault = 0, None
    with target.open("wb") as file, _progress(label, size) as show:
        for _ in range(_ATTEMPTS):
            before = reached
            chunks = _body(url, start=before)
            while True:
                try:
                    offset, chunk = next(chunks, (reached, b""))
                    fault = None
                except (OSError, HTTPException) as error:
                    fault = _reason(error)
                    break
                file.seek(offset)
                file.write(chunk)
                reached = offset + len(chunk)
                show(reached)
                if not chunk:
                    break
            if fault is None or reached <= before:
                break
        file.truncate(reached)
    if fault is not None or reached != (size if size is not None else reached):
        host = urllib.parse.urlsplit(url).netloc
        of = f" of {size}" if size is not None else ""
        raise _unavailable(
            f"the download from {host} broke off after {reached}{of} bytes" + (f" ({fault})" if fault else "")
        )


def _body(url: str, *, start: int) -> Iterator[tuple[int, bytes]]:
    """The body from byte ``start`` on, or from 0 if the server does not resume: chunks with their offsets."""
    headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  # the preflight let http and https pass only
    with urllib.request.urlopen(request, timeout=_SILENCE_S) as response:  # noqa: S310
        offset = start if response.status == 206 else 0
        while chunk := response.read(_CHUNK_BYTES):
            yield offset, chunk
            offset += len(chunk)
        if response.length:
            raise IncompleteRead(b"", response.length)


def _verify(path: Path, etag: str) -> None:
    check_container(path)
    if re.fullmatch(r"[0-9a-f]{64}", etag):  # the hub's etag of a large file is its SHA-256
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != etag:
            raise _unavailable(f"the download has SHA-256 {found} instead of {etag}")


def _publish(partial: Path, repo: Path, etag: str, commit: str) -> Path:
    """Put a verified file where huggingface_hub looks for it, each step atomic, the reference last."""
    blob, pointer, reference = repo / "blobs" / etag, repo / "snapshots" / commit / partial.name, repo / "refs" / "main"
    for path in (blob, pointer, reference):
        path.parent.mkdir(parents=True, exist_ok=True)
    link, text = partial.with_suffix(".link"), partial.with_suffix(".ref")
    partial.replace(blob)
    try:
        link.symlink_to(Path(os.path.relpath(blob, pointer.parent)))
        link.replace(pointer)
    except OSError:  # file systems without links; the hub's client then puts the file itself there, too
        blob.replace(pointer)
    text.write_text(commit, encoding="utf-8")
    text.replace(reference)
    return pointer


# --- requests --------------------------------------------------------------------------------------------------


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The hub's own headers stand on the redirect to its storage, so that answer is the one to read."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _head(url: str, timeout_s: float) -> HubAnswer:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("its address does not begin with http:// or https://")
    headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, method="HEAD", headers=headers)  # noqa: S310  # checked just above
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_s) as response:
            status, found = response.status, response.headers
    except urllib.error.HTTPError as answer:
        with answer:
            status, found = answer.code, answer.headers
    return HubAnswer(url=url, status=status, headers={name.lower(): value for name, value in found.items()})


def _repo_folder(repo_id: str) -> Path:
    if not all(_SAFE.match(part) for part in repo_id.split("/")):
        raise WeightsError(f"pretrained weights: {repo_id!r} cannot be the name of a hub repository")
    return hub_cache_dir() / f"models--{repo_id.replace('/', '--')}"


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return _reason(inner)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _require_online() -> None:
    if is_offline():
        raise _unavailable("they are not in the local cache, and HARNESS_OFFLINE or HF_HUB_OFFLINE is set")


def _unavailable(reason: str) -> WeightsError:
    return WeightsError(reason, hint=_WAYS_ON)


@contextmanager
def _progress(label: str, size: int | None) -> Iterator[Callable[[int], object]]:
    """A function to tell the bytes reached to; shown on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=size)
        yield lambda reached: progress.update(task, completed=reached)
