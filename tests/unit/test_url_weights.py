"""Weights at plain addresses: one digest on every load, downloads that end, and a cache that holds whole files only."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from harness import transfer
from harness.errors import UsageError, WeightsError
from harness.transfer import UnavailableError
from harness.url_weights import (
    address_fault,
    cached_url_file,
    published_prefix,
    require_url_reachable,
    url_file,
    url_weights,
)

NAME = "net.safetensors"
WAYS_ON = ("harness fetch", "--weights PATH", "--weights random")
REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "weights" / "resnet20_cifar10"


def weights_of(seed: int) -> bytes:
    """Two and a half megabytes, so that a transfer takes several chunks."""
    return save({"a": np.random.default_rng(seed).random((640, 1024), dtype=np.float32)})


WEIGHTS, OTHER = weights_of(0), weights_of(1)
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
NO_HTML = {"Content-Type": "application/octet-stream"}


@dataclass
class Page:
    """What a server has under one path, and how it gives it. ``cut``: bytes sent of the first body, then a break."""

    content: bytes = b""
    status: int = 200
    head_status: int | None = None
    location: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    etag: bool = True
    length: int | None = None
    cut: int | None = None
    stall: threading.Event | None = None
    wait_s: float = 0.0
    before_body: Callable[["Page"], "Page | None"] | None = None
    """Called before every body; the page that it returns is given instead."""


class Server:
    """A loopback file server; ``asked`` lists methods, paths and ranges."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_HEAD(self):
                server.answer(self, body=False)

            def do_GET(self):
                server.answer(self, body=True)

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.thread = threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}"

    def close(self):
        self.httpd.shutdown()
        self.httpd.server_close()
        self.thread.join()

    @property
    def gets(self):
        return [ranged for method, _, ranged in self.asked if method == "GET"]

    def answer(self, request, *, body):
        self.asked.append((request.command, request.path, request.headers.get("Range")))
        page = self.pages.get(request.path.partition("?")[0], Page(status=404))
        time.sleep(page.wait_s)
        status = page.status if body or page.head_status is None else page.head_status
        if page.location is not None:
            self.send(request, status, {"Location": page.location, "Content-Length": "0"})
        elif status != 200:
            self.send(request, status, {"Content-Length": "0"})
        else:
            self.send_file(request, page, body)

    def send_file(self, request, page, body):
        if body and page.before_body is not None:
            page = page.before_body(page) or page
        content, version = page.content, f'"{hashlib.sha256(page.content).hexdigest()}"'
        headers = {**NO_HTML, **({"ETag": version} if page.etag else {}), **page.headers}
        status, start, ranged = 200, 0, request.headers.get("Range")
        if ranged and request.headers.get("If-Range", version) == version:
            first, _, last = ranged.removeprefix("bytes=").partition("-")
            status, start = 206, int(first)
            headers["Content-Range"] = f"bytes {start}-{last or len(content) - 1}/{len(content)}"
            content = content[start : int(last) + 1 if last else None]
        length = len(content) if page.length is None else page.length
        cut, page.cut = (page.cut, None) if body else (None, page.cut)
        self.send(request, status, {**headers, "Content-Length": str(length)}, content[:cut] if body else b"")
        if body and page.stall is not None:
            request.wfile.flush()
            page.stall.wait(20)
        request.close_connection = True

    def send(self, request, status, headers, content=b""):
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        with contextlib.suppress(ConnectionError):
            request.wfile.write(content)


@pytest.fixture
def start():
    servers = []

    def new() -> Server:
        servers.append(Server())
        return servers[-1]

    yield new
    for server in servers:
        for page in server.pages.values():
            if page.stall is not None:
                page.stall.set()
        server.close()


@pytest.fixture
def server(start):
    return start()


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    for name in ("HF_HUB_OFFLINE", "HARNESS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    return tmp_path / "cache"


def put(server, page=None, name=NAME) -> str:
    server.pages[f"/files/{name}"] = page or Page(WEIGHTS)
    return f"{server.url}/files/{name}"


def files_under(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def refused(url, match, **pinned) -> WeightsError:
    with pytest.raises(WeightsError, match=match) as caught:
        url_file(url, **pinned)
    assert caught.value.exit_code == 4
    assert url in caught.value.message
    return caught.value


# --- what works ------------------------------------------------------------------------------------------------


def test_a_file_is_fetched_once_and_its_digest_recorded(server, cache):
    url = put(server)
    assert cached_url_file(url) is None
    found = url_weights(url)
    assert found.path.read_bytes() == WEIGHTS
    assert (found.sha256, found.size_bytes, found.digest_source) == (SHA256, len(WEIGHTS), "recorded")
    assert found.path.name == NAME
    assert found.path.parent.parent == cache / "weights"
    record = json.loads((found.path.parent / "record.json").read_text())
    assert (record["url"], record["sha256"], record["size_bytes"]) == (url, SHA256, len(WEIGHTS))
    assert files_under(cache) == [NAME, "record.json"]
    asked = len(server.asked)
    server.pages.clear()
    assert url_file(url) == found.path == cached_url_file(url)
    assert len(server.asked) == asked


def test_addresses_of_one_file_name_do_not_share_a_file(server):
    first, second = put(server), put(server, Page(OTHER), name=f"other/{NAME}")
    assert url_file(first).read_bytes() == WEIGHTS
    assert url_file(second).read_bytes() == OTHER
    assert url_file(first).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"/{NAME}?download=1", NAME),
        ("/records/7/files/a%20net.pth/content", "a_net.pth"),
        ("/x/%2e%2e%2fnet.pth.tar", "net.pth.tar"),
        ("/..net.th", "net.th"),
    ],
)
def test_the_name_is_the_part_that_ends_like_weights(server, path, name):
    content = WEIGHTS if name.endswith("safetensors") else b"\x80\x02}q\x00."
    server.pages[path.partition("?")[0]] = Page(content)
    found = url_file(server.url + path)
    assert found.name == name
    assert found.read_bytes() == content


def test_no_torch_is_imported(tmp_path):
    code = (
        "import sys, harness.url_weights as u\n"
        "try:\n    u.url_file('http://127.0.0.1:9/a.pth')\n"
        "except u.WeightsError as error:\n    print(error.exit_code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.split() == ["4", "False"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}


# --- digests ---------------------------------------------------------------------------------------------------


def altered(path: Path) -> str:
    """Change one byte, and neither size nor time stamp; the new digest."""
    stat, raw = path.stat(), bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize("name", [NAME, f"net-{SHA256[:8]}.safetensors"])
@pytest.mark.parametrize("pinned", [None, SHA256])
def test_every_load_computes_the_digest_afresh(server, name, pinned):
    url = put(server, name=name)
    path = url_file(url, sha256=pinned)
    old = time.time() - 3600
    os.utime(path, (old, old))
    assert url_file(url, sha256=pinned) == path
    found = altered(path)
    error = refused(url, found, sha256=pinned)
    assert SHA256 in error.message
    assert f"delete {path.parent}" in str(error.hint)
    assert "--weights PATH" in str(error.hint)
    assert cached_url_file(url) == path, "nothing is thrown away unasked"


def test_new_bytes_are_accepted_once_the_folder_is_gone(server):
    url = put(server)
    path = url_file(url)
    path.unlink()
    put(server, Page(OTHER))
    assert "at its first download" in refused(url, SHA256).message, "the record outlives the file"
    assert not path.exists()
    shutil.rmtree(path.parent)
    assert url_file(url).read_bytes() == OTHER


@pytest.mark.parametrize("digits", [8, 10, 64])
@pytest.mark.parametrize("suffix", ["safetensors", "th"])
def test_a_digest_in_the_name_is_compared(server, cache, digits, suffix):
    content = WEIGHTS if suffix == "safetensors" else b"\x80\x02}q\x00."
    digest = hashlib.sha256(content).hexdigest()
    url = put(server, Page(content), name=f"net-{digest[:digits]}.{suffix}")
    assert url_weights(url).digest_source == "published"
    wrong = "0" if digest[digits - 1] != "0" else "1"
    other = put(server, Page(content), name=f"net-{digest[: digits - 1]}{wrong}.{suffix}")
    error = refused(other, f"begins with {digest[: digits - 1]}{wrong}")
    assert digest in error.message
    assert cached_url_file(other) is None
    assert len(files_under(cache)) == 2, "of the wrong file nothing stays"


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("resnet20-12fca82f.th", "12fca82f"),
        ("resnet50_train_60_epochs-c8e5653e.pth.tar", "c8e5653e"),
        ("deit_base_distilled_patch16_384-d0272ac0.pth", "d0272ac0"),
        ("net-ABCDEF01.pth", None),
        ("net-abc.pth", None),
        ("net-8xb32-in1k.pth", None),
        ("12fca82f.pth", None),
    ],
)
def test_what_counts_as_a_digest_in_a_name(name, prefix):
    assert published_prefix(name) == prefix


def test_a_real_published_name_holds(server):
    (file,) = REAL.glob("*.th") if REAL.is_dir() else (None,)
    if file is None:
        pytest.skip("the real weights are not here")
    found = url_weights(put(server, Page(file.read_bytes()), name=file.name))
    assert found.digest_source == "published"
    assert found.path.name == "resnet20-12fca82f.th"


def test_a_pinned_digest_decides(server, cache):
    url = put(server)
    error = refused(url, f"{'0' * 64} is pinned", sha256="0" * 64)
    assert SHA256 in error.message
    assert files_under(cache) == []
    assert url_weights(url, sha256=SHA256.upper()).digest_source == "pinned"
    assert "is pinned" in refused(url, SHA256, sha256="0" * 64).message, "of a cached file, too"
    named = put(server, name="net-00000000.safetensors")
    assert url_weights(named, sha256=SHA256).digest_source == "pinned", "the name says less than a whole digest"
    refused(url, "64 hexadecimal digits", sha256=SHA256[:63])


@pytest.mark.parametrize("rubbish", [b"", b"{", b"[]", b'{"sha256": 3}', b'{"sha256": "%s"}' % (b"0" * 64), b"\xff"])
def test_a_record_that_says_nothing_lets_nothing_pass(server, rubbish):
    url = put(server)
    path = url_file(url)
    (path.parent / "record.json").write_bytes(rubbish)
    assert f"delete {path.parent}" in str(refused(url, "does not say which digest").hint)


def test_a_file_that_nobody_recorded_is_fetched_anew(server):
    url = put(server)
    path = url_file(url)
    (path.parent / "record.json").unlink()
    path.write_bytes(OTHER)
    assert cached_url_file(url) is None
    assert url_file(url).read_bytes() == WEIGHTS


# --- transfers -------------------------------------------------------------------------------------------------


def test_a_broken_transfer_goes_on_where_it_broke(server):
    cut = len(WEIGHTS) * 3 // 5
    assert url_file(put(server, Page(WEIGHTS, cut=cut))).read_bytes() == WEIGHTS
    assert server.gets == [None, f"bytes={cut}-"]


def test_two_versions_of_a_file_are_never_mixed(server):
    url = put(server, Page(WEIGHTS, cut=len(WEIGHTS) * 3 // 5))
    count = iter(range(9))

    def change(page):
        if next(count):
            page.content = OTHER

    server.pages[f"/files/{NAME}"].before_body = change
    assert url_file(url).read_bytes() == OTHER
    assert len(server.gets) == 2


def test_without_a_version_it_is_begun_anew(server):
    url = put(server, Page(WEIGHTS, cut=len(WEIGHTS) // 2, etag=False))
    assert url_file(url).read_bytes() == WEIGHTS
    assert server.gets == [None, None]


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (Page(WEIGHTS[:-100], length=len(WEIGHTS)), "broke off after"),
        (Page(WEIGHTS[:-100]), "it is truncated"),
        (Page(b""), "it is empty"),
        (Page(b"<!DOCTYPE html><html>Virus scan warning</html>"), "it looks like an HTML page"),
        (Page(b"<html>Sign in</html>", headers={"Content-Type": "text/html; charset=utf-8"}), "answers with an HTML"),
        (Page(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS pointer"),
        (Page(status=404), "no file at this address"),
        (Page(status=410), "no file at this address"),
        (Page(status=403), "HTTP status 403"),
        (Page(status=503), "HTTP status 503"),
        (Page(status=429), "HTTP status 429"),
        (Page(status=302, location="ftp://127.0.0.1/net.safetensors"), "does not begin with http"),
        (Page(status=302, location=f"/files/{NAME}"), "redirects more than 5 times"),
    ],
)
def test_what_goes_wrong_is_said_and_never_cached(server, cache, page, says):
    url = put(server, page)
    error = refused(url, says)
    assert "--weights PATH" in str(error.hint)
    assert "--weights random" in str(error.hint)
    assert files_under(cache) == []
    put(server)
    assert url_file(url).read_bytes() == WEIGHTS


def test_a_truncated_zip_is_not_taken_for_weights(server, tmp_path):
    import io

    import torch

    raw = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, raw)
    whole = raw.getvalue()
    url = put(server, Page(whole[: len(whole) // 2]), name="net.pth")
    refused(url, "truncated, or no zip archive")
    put(server, Page(whole), name="net.pth")
    assert url_file(url).read_bytes() == whole


@pytest.mark.parametrize("refusal", [None, 403, 405, 501])
def test_a_redirect_to_the_storage_of_another_host_is_followed(start, refusal):
    front, storage = start(), start()
    storage.pages["/signed"] = Page(WEIGHTS, head_status=refusal)
    url = put(front, Page(status=302, location=f"{storage.url}/signed?key=1"))
    found = url_weights(url)
    assert (found.path.name, found.sha256) == (NAME, SHA256)
    assert storage.asked[0][0] == "HEAD"
    assert storage.gets == [None] if refusal is None else ["bytes=0-0", None]


def test_a_host_that_refuses_head_is_asked_for_one_byte(server):
    url = put(server, Page(WEIGHTS, head_status=405))
    require_url_reachable(url)
    assert server.gets == ["bytes=0-0"]
    assert url_file(url).read_bytes() == WEIGHTS


def test_the_length_that_the_first_byte_tells_is_held(server, cache):
    url = put(server, Page(WEIGHTS, head_status=403))
    shorter = Page(WEIGHTS[:-4])
    server.pages[f"/files/{NAME}"].before_body = lambda page: page if server.gets[-1] else shorter
    refused(url, f"broke off after {len(WEIGHTS) - 4} of {len(WEIGHTS)} bytes")
    assert files_under(cache) == []


def test_a_silent_server_is_given_up_after_three_seconds():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/net.pth"
        began = time.monotonic()
        error = refused(url, "within 3 seconds|no answer in time")
        assert 2.5 < time.monotonic() - began < 4
    assert isinstance(error, UnavailableError)
    assert all(way in str(error.hint) for way in WAYS_ON)


def test_a_refused_connection_ends_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/net.pth"
        assert isinstance(refused(url, "cannot be reached"), UnavailableError)


def test_a_body_that_stalls_is_given_up(server, cache, monkeypatch):
    monkeypatch.setattr(transfer, "SILENCE_S", 0.3)
    url = put(server, Page(WEIGHTS, cut=1_500_000, stall=threading.Event()))
    # When it is asked to go on, nothing comes any more.
    server.pages[f"/files/{NAME}"].before_body = lambda page: setattr(page, "cut", 0 if server.gets[1:] else 1_500_000)
    began = time.monotonic()
    refused(url, f"broke off after 1048576 of {len(WEIGHTS)} bytes")
    assert time.monotonic() - began < 4
    assert server.gets == [None, "bytes=1048576-"]
    assert files_under(cache) == []


# --- offline ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["HARNESS_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_uses_the_cache_and_asks_nobody(server, monkeypatch, variable):
    url = put(server)
    monkeypatch.setenv(variable, "1")
    error = refused(url, "not in the local cache")
    assert all(way in str(error.hint) for way in WAYS_ON)
    with pytest.raises(WeightsError, match="not in the local cache"):
        require_url_reachable(url)
    assert server.asked == []
    monkeypatch.delenv(variable)
    path = url_file(url)
    monkeypatch.setenv(variable, "1")
    assert url_file(url) == path
    require_url_reachable(url)


def test_reachable_is_what_has_the_file(server, cache):
    url = put(server)
    require_url_reachable(url)
    assert server.gets == []
    assert files_under(cache) == []
    with pytest.raises(WeightsError, match="no file at this address") as caught:
        require_url_reachable(f"{server.url}/files/gone.pth")
    assert not isinstance(caught.value, UnavailableError)
    with pytest.raises(UnavailableError, match="cannot be reached"):
        require_url_reachable("http://127.0.0.1:9/net.pth")
    url_file(url)
    asked = len(server.asked)
    require_url_reachable(url)
    assert len(server.asked) == asked


# --- addresses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("file:///etc/net.pth", "http:// or https://"),
        ("ftp://host/net.pth", "http:// or https://"),
        ("net.pth", "http:// or https://"),
        ("http:///net.pth", "http:// or https://"),
        ("http://[::1/net.pth", "http:// or https://"),
        ("https://drive.google.com/uc?export=download&id=1z-1V3rdFiwqSECz7Wkmn4VJVefJGJGiF", "does not name a file"),
        ("https://host/page.html", "does not name a file"),
        ("https://host", "does not name a file"),
    ],
)
def test_addresses_that_name_no_file_are_refused_unasked(monkeypatch, url, says):
    monkeypatch.setattr(transfer, "_answer", lambda *_: pytest.fail("nobody is to be asked"))
    for call in (url_file, cached_url_file, require_url_reachable):
        with pytest.raises(WeightsError, match=says):
            call(url)


def test_an_unwritable_cache_is_named(server, cache):
    cache.write_text("a file in the way")
    with pytest.raises(UsageError, match="cannot be written to"):
        url_file(put(server))


# --- several processes -----------------------------------------------------------------------------------------

FETCH = "import sys\nfrom harness.url_weights import url_file\nprint(url_file(sys.argv[1]))\n"


def fetching(url: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, url], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_that_fetch_at_once_both_end_well(server, cache):
    together = threading.Barrier(2)
    url = put(server)

    def wait(page):
        together.wait(20)
        return page

    # No body begins before both have asked for it, so that both find an empty cache.
    server.pages[f"/files/{NAME}"].before_body = wait
    processes = [fetching(url), fetching(url)]
    answers = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    (path,) = {out.strip() for out, _ in answers}
    assert Path(path).read_bytes() == WEIGHTS
    assert files_under(cache) == [NAME, "record.json"]


def test_of_two_that_get_other_bytes_one_is_told(server):
    together, contents = threading.Barrier(2), [WEIGHTS, OTHER]

    def other_bytes(page):
        together.wait(20)
        return Page(contents.pop())

    url = put(server, Page(WEIGHTS, before_body=other_bytes))
    results: list[bytes | WeightsError] = []

    def fetch():
        try:
            results.append(url_file(url).read_bytes())
        except WeightsError as error:
            results.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    kept = cached_url_file(url)
    assert kept is not None
    (error,) = (result for result in results if isinstance(result, WeightsError))
    (content,) = (result for result in results if isinstance(result, bytes))
    assert "first download" in error.message
    assert content == kept.read_bytes()
    assert json.loads((kept.parent / "record.json").read_text())["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_process_killed_half_way_leaves_nothing_that_is_used(server, cache):
    url = put(server, Page(WEIGHTS, cut=len(WEIGHTS) // 2, stall=threading.Event()))
    page = server.pages[f"/files/{NAME}"]
    process = fetching(url)
    deadline = time.monotonic() + 20
    while not any(path.stat().st_size for path in cache.rglob(NAME)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    page.stall.set()
    page.stall = None
    (left,) = (path for path in cache.rglob(".incomplete-*"))
    assert cached_url_file(url) is None
    found = url_file(url)
    assert found.read_bytes() == WEIGHTS
    assert left.exists(), "it might belong to a process that still runs"
    yesterday = time.time() - 25 * 3600
    os.utime(left, (yesterday, yesterday))
    found.unlink()
    assert url_file(url).read_bytes() == WEIGHTS
    assert not left.exists()


def test_a_day_in_a_name_is_no_digest():
    assert published_prefix("resnet-20210101.pth") is None
    assert published_prefix("resnet-20211301.pth") == "20211301"
    assert published_prefix("resnet-19991231ab.pth") == "19991231ab"


def test_an_address_is_judged_without_a_request():
    assert address_fault("https://example.org/weights-1f2e3d4c.pth") is None
    assert "does not name a file of weights" in address_fault("https://example.org/file/d/1/view").message
