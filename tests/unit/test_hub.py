"""The hub: cache first, a quick look, and a transfer that ends. Against a server that speaks as the real hub does."""

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from safetensors.numpy import save

from harness import hub, transfer
from harness.errors import WeightsError

TAG = "test_vit.r160_in1k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WAYS_ON = ("harness fetch", "--weights PATH", "--weights random")
LIMIT_S = 10.0


@pytest.fixture
def weights() -> bytes:
    """Two and a half megabytes, so that a transfer takes several chunks."""
    return save({"a": np.random.default_rng(0).random((640, 1024), dtype=np.float32)})


class Hub:
    """A loopback server in the hub's format. ``mode`` says how it misbehaves; ``asked`` what it was asked."""

    def __init__(self, files: dict[str, bytes], mode: str = "whole") -> None:
        self.files, self.mode, self.asked = files, mode, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def answer(self, *, body):
                server.answer(self, body)

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.thread = threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}"

    def close(self):
        self.httpd.shutdown()
        self.httpd.server_close()
        self.thread.join()

    def answer(self, request, body):
        self.asked.append((request.command, request.path, request.headers.get("Range")))
        content = self.files.get(request.path.partition("?")[0])
        digest = hashlib.sha256(content or b"").hexdigest()
        if self.mode == "storage-silent" and body:
            time.sleep(transfer.SILENCE_S + 1)
        elif self.mode in ("503", "429", "401"):
            self.send(request, int(self.mode), {"Content-Length": "0"})
        elif self.mode == "portal":
            self.send(request, 200, {"Content-Type": "text/html"}, b"<html>Sign in</html>" if body else b"")
        elif self.mode == "renamed" and request.path.startswith("/timm/"):
            location = request.path.replace("/timm/", "/moved/")
            self.send(request, 307, {"Location": location, "Content-Length": "0"})
        elif content is None:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT, "Content-Length": "0"}
            self.send(request, 404, headers)
        elif self.mode == "storage" and "/resolve/" in request.path:
            self.files["/storage"] = content
            headers = {"Location": "/storage?signed", "X-Linked-Etag": f'"{digest}"', "X-Repo-Commit": COMMIT}
            self.send(request, 302, {**headers, "X-Linked-Size": str(len(content)), "Content-Length": "0"})
        else:
            self.send_file(request, content, digest, body)

    def send_file(self, request, content, digest, body):
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        status, start, end = 200, 0, len(content)
        if self.mode not in ("cut", "restarting") and (wanted := request.headers.get("Range")):
            status, start = 206, int(wanted.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{end}"
        resumes = self.mode in ("resumable", "restarting") and "Range" in request.headers
        if self.mode in ("cut", "resumable", "restarting") and not resumes:
            end = len(content) * 3 // 5
        length = len(content) - start
        if body and self.mode == "short":
            end = length = len(content) // 2
        if body and self.mode == "altered":
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send(request, status, {**headers, "Content-Length": str(length)}, content[start:end] if body else b"")
        if self.mode in ("cut", "resumable", "restarting"):
            request.close_connection = True

    def send(self, request, status, headers, content=b""):
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        with contextlib.suppress(ConnectionError):
            request.wfile.write(content)


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Start a server, and make it the hub of this test, with an empty cache."""
    servers = []

    def start(files, mode="whole"):
        server = Hub(files, mode)
        servers.append(server)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch, tmp_path):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HARNESS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


def resolve(name="model.safetensors", repo=f"timm/{TAG}"):
    return f"/{repo}/resolve/main/{name}"


def everything_under(folder):
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def assert_refused(error: WeightsError):
    assert error.exit_code == 4
    assert all(way in str(error) for way in WAYS_ON)
    assert TAG in error.message


# --- what works ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["whole", "storage", "renamed", "resumable", "restarting"])
def test_a_file_is_fetched_once_and_then_needs_no_server(serve, weights, mode):
    server = serve({resolve(): weights, resolve(repo=f"moved/{TAG}"): weights}, mode)
    file = hub.pretrained_file(TAG)
    assert file.read_bytes() == weights
    assert file.name == "model.safetensors"
    asked = len(server.asked)
    assert hub.pretrained_file(TAG) == file
    assert len(server.asked) == asked
    server.mode = "503"
    assert hub.pretrained_file(TAG) == file == hub.cached_file(TAG)


def test_a_cached_file_that_has_changed_is_refused(serve, weights):
    serve({resolve(): weights})
    path = hub.pretrained_file(TAG)
    blob = path.resolve()
    changed = bytearray(blob.read_bytes())
    changed[-1] ^= 1
    blob.write_bytes(changed)
    with pytest.raises(WeightsError, match=r"has changed since it was fetched.*SHA-256") as caught:
        hub.pretrained_file(TAG)
    assert str(blob) in str(caught.value.hint)
    blob.write_bytes(weights)
    assert hub.pretrained_file(TAG) == path


def test_a_broken_transfer_goes_on_where_it_broke(serve, weights):
    server = serve({resolve(): weights}, "resumable")
    hub.pretrained_file(TAG)
    ranges = [wanted for method, _, wanted in server.asked if method == "GET"]
    assert ranges == [None, f"bytes={len(weights) * 3 // 5}-"]


def test_the_older_file_name_is_the_second_choice(serve):
    content = b"\x80\x02}q\x00."
    server = serve({resolve("pytorch_model.bin"): content})
    assert hub.pretrained_file(TAG).name == "pytorch_model.bin"
    assert server.asked[0][1] == resolve("model.safetensors")


def test_the_hubs_own_client_finds_what_was_fetched(serve, weights):
    from huggingface_hub import hf_hub_download

    serve({resolve(): weights})
    file = hub.pretrained_file(TAG)
    found = hf_hub_download(f"timm/{TAG}", "model.safetensors", cache_dir=hub.hub_cache_dir(), local_files_only=True)
    assert file.samefile(found)


def test_what_the_hubs_own_client_fetched_is_found(serve, weights):
    from huggingface_hub import hf_hub_download

    server = serve({resolve(): weights})
    found = hf_hub_download(f"timm/{TAG}", "model.safetensors", cache_dir=hub.hub_cache_dir(), endpoint=server.url)
    asked = len(server.asked)
    assert hub.pretrained_file(TAG).samefile(found)
    assert len(server.asked) == asked


def test_offline_uses_the_cache_and_asks_nobody(serve, weights, monkeypatch):
    server = serve({resolve(): weights})
    for variable in ("HARNESS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(variable, "1")
        assert transfer.is_offline()
        with pytest.raises(WeightsError, match="not in the local cache") as caught:
            hub.pretrained_file(TAG)
        assert_refused(caught.value)
        monkeypatch.delenv(variable)
    assert server.asked == []
    assert not transfer.is_offline()
    file = hub.pretrained_file(TAG)
    monkeypatch.setenv("HARNESS_OFFLINE", "true")
    assert hub.pretrained_file(TAG) == file


def test_cache_folder_follows_the_hubs_variables(monkeypatch, tmp_path):
    assert hub.hub_cache_dir() == tmp_path / "hf" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert hub.hub_cache_dir() == tmp_path / "elsewhere"
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub.hub_cache_dir() == tmp_path / "xdg" / "huggingface" / "hub"


# --- what does not ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("cut", "broke off after"),
        ("short", "broke off after"),
        ("altered", "SHA-256"),
        ("503", "HTTP status 503"),
        ("429", "HTTP status 429"),
        ("401", "no public file"),
        ("portal", "does not answer like a hub"),
        ("storage-silent", "broke off after 0"),
    ],
)
def test_what_goes_wrong_is_said_in_time_and_never_cached(serve, weights, tmp_path, monkeypatch, mode, says):
    assert transfer.PREFLIGHT_S + transfer.SILENCE_S < LIMIT_S
    monkeypatch.setattr(transfer, "SILENCE_S", 0.5)
    server = serve({resolve(): weights}, mode)
    start = time.monotonic()
    with pytest.raises(WeightsError, match=says) as caught:
        hub.pretrained_file(TAG)
    assert time.monotonic() - start < LIMIT_S
    assert_refused(caught.value)
    assert hub.cached_file(TAG) is None
    assert everything_under(tmp_path / "hf") == []
    server.mode = "whole"
    assert hub.pretrained_file(TAG).read_bytes() == weights


def test_a_file_that_is_truncated_on_the_hub_itself_is_not_cached(serve, weights, tmp_path):
    serve({resolve(): weights[:-100]})
    with pytest.raises(WeightsError, match="truncated") as caught:
        hub.pretrained_file(TAG)
    assert TAG in caught.value.message
    assert everything_under(tmp_path / "hf") == []


def test_a_missing_file_is_said_to_be_missing(serve):
    server = serve({})
    with pytest.raises(hub.NotOnHubError, match=r"no public file model\.safetensors or pytorch_model\.bin") as caught:
        hub.pretrained_file(TAG)
    assert_refused(caught.value)
    assert [path for _, path, _ in server.asked] == [resolve(name) for name in hub.WEIGHT_FILES]


def test_names_that_would_leave_the_cache_folder_are_refused(serve, weights, tmp_path):
    serve({})
    for tag in ("../../etc", "a/b/../c", "", "a b"):
        with pytest.raises(WeightsError):
            hub.pretrained_file(tag)


def test_an_unwritable_cache_is_named(serve, weights, tmp_path):
    serve({resolve(): weights})
    (tmp_path / "hf").write_text("a file in the way")
    with pytest.raises(WeightsError, match="cannot be written to"):
        hub.pretrained_file(TAG)


def test_an_address_of_another_kind_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", f"file://{tmp_path}")
    with pytest.raises(WeightsError, match="http"):
        hub.pretrained_file(TAG)


def test_preflight_lets_every_answer_of_a_sound_server_pass(serve):
    server = serve({})
    assert hub.preflight().status == 404
    server.mode = "503"
    with pytest.raises(WeightsError, match="503"):
        hub.preflight()


def test_a_name_that_hangs_in_resolution_is_given_up(monkeypatch):
    def hang(*_, **__):
        time.sleep(1)
        raise OSError("no name server")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    start = time.monotonic()
    with pytest.raises(WeightsError, match=r"does not answer within 0\.3 seconds"):
        hub.preflight("http://hangs.invalid", timeout_s=0.3)
    assert time.monotonic() - start < 0.9


@pytest.fixture
def faulty_endpoint(request):
    """A hub that refuses, has no address, or listens and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        if request.param == "silent":
            listener.listen()
        yield "http://no-such-host.invalid" if request.param == "unknown" else f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("faulty_endpoint", ["refusing", "unknown", "silent"], indirect=True)
def test_a_fresh_process_gives_up_within_ten_seconds_and_imports_no_timm(faulty_endpoint, tmp_path):
    code = (
        "import sys\n"
        "from harness.errors import WeightsError\n"
        "from harness.weights import parse_weights\n"
        "from harness_timm.builders import build_vit as build\n"
        "try:\n"
        f"    build(arch={TAG!r}, weights=parse_weights('pretrained'))\n"
        "except WeightsError as error:\n"
        "    print(error, sorted({'torch', 'timm'} & set(sys.modules)))\n"
        "    raise SystemExit(error.exit_code)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": faulty_endpoint, "HF_HOME": str(tmp_path / "hf")}
    environment["PYTHONPATH"] = os.pathsep.join(part for part in sys.path if part)
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert time.monotonic() - start < LIMIT_S
    assert done.returncode == 4, done.stderr
    assert all(way in done.stdout for way in WAYS_ON)
    assert done.stdout.strip().endswith("[]")
    assert done.stderr == ""
