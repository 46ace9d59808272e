"""Pretrained weights from the model hub: the local cache first, then one quick look whether the hub answers.

The files lie where huggingface_hub and timm keep theirs, in the same layout, so each finds what the other fetched.
The transfer itself is our own (:mod:`harness.transfer`): it has time limits everywhere, and fails for good.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import urllib.parse
from pathlib import Path

from harness.errors import WeightsError
from harness.state_dicts import check_container
from harness.transfer import PREFLIGHT_S, WAYS_ON, Answer, UnavailableError, ask, download, reason, require_online
from harness.weights import file_digest

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights in a hub repository, the better one first."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]*\Z")


class NotOnHubError(WeightsError):
    """The hub answered, and has no such public file."""


# --- surroundings ----------------------------------------------------------------------------------------------


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


def preflight(url: str | None = None, timeout_s: float = PREFLIGHT_S) -> Answer:
    """What the hub says of ``url`` (default: of itself), redirects not followed, within ``timeout_s`` seconds.

    The hub's own headers stand on the redirect to its storage, so that answer is the one to read. Raises
    :class:`~harness.errors.WeightsError` as :func:`harness.transfer.ask` does.
    """
    return ask(url or hub_endpoint(), called="the hub", timeout_s=timeout_s)


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
        require_online()
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
        _check_cached(tag, cached)
        return cached
    repo_id = repo_id or timm_repository(tag)
    try:
        require_online()
        for name in WEIGHT_FILES:
            fetched = _fetch(repo_id, name)
            if fetched is not None:
                return fetched
    except WeightsError as error:
        raise type(error)(f"pretrained weights {tag}: {error.message}", hint=error.hint) from error
    raise NotOnHubError(
        f"pretrained weights {tag}: {repo_id} at {hub_endpoint()} has no public file {' or '.join(WEIGHT_FILES)}",
        hint=WAYS_ON,
    )


def _check_cached(tag: str, path: Path) -> None:
    """Raise :class:`WeightsError` for a cached file whose bytes are no longer those that the hub has.

    The cache keeps a file under the hub's etag, which for weights is their SHA-256.
    """
    blob = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name) and (found := file_digest(blob)) != blob.name:
        raise WeightsError(
            f"pretrained weights {tag}: {blob} has changed since it was fetched: its SHA-256 is {found}",
            hint=f"delete {blob} to fetch it again, or give a checkpoint file, --weights PATH",
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
            download(answer.url, partial, size, label=repo_id)
            _verify(partial, etag)
            return _publish(partial, repo, etag, commit)
    except OSError as error:
        raise _unavailable(f"the cache folder {repo} cannot be written to ({reason(error)})") from error


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


def _repo_folder(repo_id: str) -> Path:
    if not all(_SAFE.match(part) for part in repo_id.split("/")):
        raise WeightsError(f"pretrained weights: {repo_id!r} cannot be the name of a hub repository")
    return hub_cache_dir() / f"models--{repo_id.replace('/', '--')}"


def _unavailable(found: str) -> WeightsError:
    return UnavailableError(found, hint=WAYS_ON)
