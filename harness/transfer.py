"""Requests for files that always end: one quick look whether the server answers, and a download that resumes or fails.

The limits are ours, because common clients wait minutes for a silent server, and ask one that cuts the body short and
ignores ``Range`` again without end.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, IncompleteRead
from pathlib import Path
from typing import IO, Literal

from harness.errors import WeightsError

PREFLIGHT_S = 3.0
SILENCE_S = 5.0
"""How long a transfer may pause before it counts as broken off, in seconds."""

_ATTEMPTS = 3
_REDIRECTS = 5
_CHUNK_BYTES = 1 << 20
_HEADERS = {"User-Agent": "vit-harness", "Accept-Encoding": "identity"}

WAYS_ON = (
    "run `harness fetch MODEL` where there is a network (the cache folder can be copied); "
    "or give a checkpoint file, --weights PATH; or run untrained, --weights random"
)


class UnavailableError(WeightsError):
    """The server cannot be reached, is in trouble, or breaks off; asking it for another file would be in vain, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server said of a file: the status and the headers (names in lower case), at the address last asked."""

    url: str
    status: int
    headers: Mapping[str, str]

    @property
    def size(self) -> int | None:
        """Bytes of the whole file, as far as the headers say it."""
        _, slash, total = self.headers.get("content-range", "").rpartition("/")
        length = total if slash else self.headers.get("content-length", "") if self.status == 200 else ""
        return int(length) if length.isdecimal() else None


def is_offline() -> bool:
    """Whether ``HARNESS_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids every request (1, on, yes or true)."""
    return any(
        os.environ.get(name, "").lower() in ("1", "on", "yes", "true") for name in ("HARNESS_OFFLINE", "HF_HUB_OFFLINE")
    )


def require_online() -> None:
    """Raise :class:`UnavailableError` if requests are forbidden."""
    if is_offline():
        raise UnavailableError(
            "they are not in the local cache, and HARNESS_OFFLINE or HF_HUB_OFFLINE is set", hint=WAYS_ON
        )


# --- asking ----------------------------------------------------------------------------------------------------


def ask(url: str, *, called: str, timeout_s: float = PREFLIGHT_S, follow: bool = False) -> Answer:
    """What the server says of ``url``, without its body, within ``timeout_s`` seconds all together.

    ``called`` names the server in errors. With ``follow`` redirects are followed, to another host as well, and a
    server that refuses HEAD is asked for the first byte instead; else the answer to one HEAD request is given. Any
    HTTP answer counts, except that the server is in trouble (429, 5xx). Proxies of the environment (``HTTPS_PROXY``,
    ``NO_PROXY`` ...) are used. It runs in a thread of its own, because resolving a name has no time limit. Raises
    :class:`UnavailableError` for a refused connection, an unknown host, silence.
    """
    answers: list[Answer] = []
    faults: list[str] = []

    def work() -> None:
        try:
            answers.append(_followed(url, timeout_s) if follow else _answer(url, timeout_s))
        except (OSError, HTTPException, ValueError) as error:
            faults.append(reason(error))

    thread = threading.Thread(target=work, daemon=True, name="preflight")
    thread.start()
    thread.join(timeout_s)
    host = host_of(url)
    if faults:
        raise UnavailableError(f"{called} {host} cannot be reached ({faults[0]})", hint=WAYS_ON)
    if not answers:
        raise UnavailableError(f"{called} {host} does not answer within {timeout_s:g} seconds", hint=WAYS_ON)
    if answers[0].status == 429 or answers[0].status >= 500:
        raise UnavailableError(
            f"{called} {host_of(answers[0].url)} answers with HTTP status {answers[0].status}", hint=WAYS_ON
        )
    return answers[0]


def host_of(url: str) -> str:
    """The host of an address, with its port, for error messages."""
    try:
        return urllib.parse.urlsplit(url).netloc.rpartition("@")[2] or url
    except ValueError:  # brackets that hold no address
        return url


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects are answers like others: what a server says of a file may stand on them."""

    def redirect_request(self, *_: object) -> None:
        return None


class _SoundRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects of a download, but not from an encrypted connection to one that anybody could alter."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        _check_redirect(req.full_url, newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_redirect(origin: str, target: str) -> None:
    _require_http(target)
    if origin.startswith("https:") and not target.startswith("https:"):
        raise ValueError(f"it redirects from https to {target.partition(':')[0]} at {host_of(target)}")


def _require_http(url: str) -> None:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("its address does not begin with http:// or https://")


def _answer(url: str, timeout_s: float, *, method: Literal["HEAD", "GET"] = "HEAD") -> Answer:
    _require_http(url)
    headers = _HEADERS if method == "HEAD" else {**_HEADERS, "Range": "bytes=0-0"}
    request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310  # checked just above
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_s) as response:
            status, found = response.status, response.headers
    except urllib.error.HTTPError as answer:
        with answer:
            status, found = answer.code, answer.headers
    return Answer(url=url, status=status, headers={name.lower(): value for name, value in found.items()})


def _followed(url: str, timeout_s: float) -> Answer:
    """The answer at the end of the redirects. Storage signs addresses for GET alone, and then refuses HEAD."""
    end = time.monotonic() + timeout_s
    method: Literal["HEAD", "GET"] = "HEAD"
    for _ in range(_REDIRECTS + 1):
        answer = _answer(url, max(end - time.monotonic(), 0.1), method=method)
        if method == "HEAD" and answer.status in (400, 401, 403, 405, 501):
            method = "GET"
            answer = _answer(url, max(end - time.monotonic(), 0.1), method=method)
        location = answer.headers.get("location")
        if not 300 <= answer.status < 400 or location is None:
            return answer
        target = urllib.parse.urljoin(url, location)
        _check_redirect(url, target)
        url = target
    raise ValueError(f"it redirects more than {_REDIRECTS} times")


# --- downloading -----------------------------------------------------------------------------------------------


def download(url: str, target: Path, size: int | None, *, label: str) -> None:
    """Write the body of ``url`` to ``target``, going on where it broke off as long as that gets further.

    ``size`` is the number of bytes it must have, if known; ``label`` names it on a terminal. Raises
    :class:`UnavailableError` for a body that is cut short, and :class:`OSError` where ``target`` cannot be written.
    """
    reached, fault, source = 0, None, _Source(url)
    with target.open("wb") as file, _progress(label, size) as show:
        for _ in range(_ATTEMPTS):
            before = reached
            chunks = source.chunks(before)
            while True:
                try:
                    offset, chunk = next(chunks, (reached, b""))
                    fault = None
                except (OSError, HTTPException, ValueError) as error:
                    fault = reason(error)
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
        of = f" of {size}" if size is not None else ""
        why = f" ({fault})" if fault else ""
        raise UnavailableError(
            f"the download from {host_of(url)} broke off after {reached}{of} bytes{why}", hint=WAYS_ON
        )


class _Source:
    """The bytes behind an address, and which version of them was seen, so that two are never mixed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.version: str | None = None

    def chunks(self, start: int) -> Iterator[tuple[int, bytes]]:
        """The body from byte ``start`` on, or from 0 if it cannot be resumed: chunks with their offsets."""
        _require_http(self.url)
        headers = dict(_HEADERS)
        if start and self.version is not None:
            headers |= {"Range": f"bytes={start}-", "If-Range": self.version}
        request = urllib.request.Request(self.url, headers=headers)  # noqa: S310  # checked just above
        with urllib.request.build_opener(_SoundRedirects).open(request, timeout=SILENCE_S) as response:
            etag = response.headers.get("ETag", "")
            self.version = etag if etag.startswith('"') else response.headers.get("Last-Modified")
            offset = start if response.status == 206 else 0
            while chunk := response.read(_CHUNK_BYTES):
                yield offset, chunk
                offset += len(chunk)
            if response.length:
                raise IncompleteRead(b"", response.length)


def reason(error: BaseException) -> str:
    """Why a request or a write failed, in words that tell a person something."""
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return reason(inner)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


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
