"""``harness fetch``: against a small server that answers as the hub does."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = save({"a": np.arange(6, dtype=np.float32)})
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def hub(monkeypatch):
    """Serves the weights of ResNet-18 alone; the list it gives holds the requests."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, *, body):
            asked.append(f"{self.command} {self.path}")
            there = self.path == "/timm/resnet18.tv_in1k/resolve/main/model.safetensors"
            self.send_response(200 if there else 404)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{SHA256}"')
            self.send_header("Content-Length", str(len(WEIGHTS) if there else 0))
            self.end_headers()
            if there and body:
                self.wfile.write(WEIGHTS)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    yield asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_file_is_fetched_once_and_described(harness, hub, tmp_path):
    answer = harness("fetch", "resnet18", "--json")
    (found,) = answer.json
    assert answer.code == 0, answer.err
    assert (found["model"], found["status"], found["tag"]) == ("resnet18", "fetched", "resnet18.tv_in1k")
    assert (found["size_bytes"], found["sha256"]) == (len(WEIGHTS), SHA256)
    assert found["path"].startswith(str(tmp_path / "hub"))
    assert Path(found["path"]).read_bytes() == WEIGHTS
    requests = len(hub)
    (again,) = harness("fetch", "resnet18", "--json").json
    assert (again["status"], again["path"], again["sha256"]) == ("cached", found["path"], SHA256)
    assert len(hub) == requests


def test_text_says_where_it_lies(harness, hub):
    out = harness("fetch", "resnet18").out
    assert SHA256 in out
    assert "model.safetensors" in out


def test_cached_file_needs_no_network(harness, hub, monkeypatch):
    harness("fetch", "resnet18")
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    assert harness("fetch", "resnet18").code == 0


def test_without_a_hub_it_ends_with_four_and_the_ways_on(harness):
    answer = harness("fetch", "resnet18")
    assert answer.code == 4
    for way in ("harness fetch", "--weights PATH", "--weights random"):
        assert way in answer.err
    assert harness("fetch", "resnet18", "--json").json[0]["status"] == "failed"


def test_unreachable_hub_is_asked_once_and_what_is_cached_still_counts(harness, hub, monkeypatch):
    harness("fetch", "resnet18")
    from harness import hub as module

    tried = []
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    real = module.preflight
    monkeypatch.setattr(module, "preflight", lambda *a, **k: tried.append(a) or real(*a, **k))
    answer = harness("fetch", "resnet*", "vit_b16", "--json")
    status = {found["model"]: found["status"] for found in answer.json}
    assert answer.code == 4
    assert status.pop("resnet18") == "cached"
    assert set(status) == {"resnet34", "resnet50", "resnet101", "resnet152", "vit_b16"}
    assert set(status.values()) == {"failed"}
    assert len(tried) == 1
    for found in answer.json:
        if found["status"] == "failed":
            assert found["tag"] in found["error"]


EMBEDDED = """
@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    release: str = param("one", help="which release of its weights")

@hookimpl
def harness_register_models():
    facts = dict(summary="small", view=View(crop=8), capabilities=frozenset())
    yield ModelEntry(name="carried", target="small_code:build", **facts)
    yield ModelEntry(name="elsewhere", target="small_code:build", params=Params, tag_param="release", **facts)
"""

CODE = """
from harness.errors import WeightsError
from harness.types import ModelInfo, View, WeightsInfo

class Model:
    info = ModelInfo(
        name="elsewhere", family="small", view=View(crop=8), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
        label_space=None, num_classes=None, num_blocks=1, embed_dim=1,
        weights=WeightsInfo(origin="pretrained", identity="pretrained:one", sha256="f" * 64),
    )
    def outputs(self, images, want):
        raise NotImplementedError
    def to(self, device):
        return self

def build(*, release="one", weights):
    if release == "gone":
        raise WeightsError("release gone: withdrawn")
    assert weights.origin == "pretrained"
    return Model()
"""


def test_embedded_weights_need_no_fetching(harness, install):
    install("small", EMBEDDED, small_code=CODE)
    answer = harness("fetch", "carried", "--json")
    assert answer.code == 0
    assert (answer.json[0]["status"], answer.json[0]["path"]) == ("embedded", None)
    assert "come with its plugin" in harness("fetch", "carried").out


def test_weights_that_the_hub_has_not_are_fetched_by_the_plugin(harness, hub, install):
    install("small", EMBEDDED, small_code=CODE)
    answer = harness("fetch", "elsewhere", "--json")
    assert answer.code == 0, answer.err
    assert (answer.json[0]["status"], answer.json[0]["sha256"]) == ("fetched by its plugin", "f" * 64)
    gone = harness("fetch", "elsewhere:release=gone", "resnet18", "--json")
    assert gone.code == 4
    assert "release gone: withdrawn" in gone.err
    assert gone.json[1]["model"] == "resnet18"


def test_unknown_model_is_two(harness):
    answer = harness("fetch", "resnet19")
    assert answer.code == 2
    assert "did you mean resnet" in answer.err
