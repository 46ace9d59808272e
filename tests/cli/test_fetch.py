"""``harness fetch``: against a small server that answers as the hub does, or as any other server."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = save({"a": np.arange(6, dtype=np.float32)})
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


class Hub:
    """A loopback hub: the files of repositories by path, large ones on a storage behind a redirect; ``asked``."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def put(self, repository: str, content: bytes) -> None:
        self.files[f"/{repository}/resolve/main/model.safetensors"] = content

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        self.asked.append(f"{request.command} {request.path}")
        path = request.path.partition("?")[0].removeprefix("/storage")
        content = self.files.get(path)
        digest = hashlib.sha256(content or b"").hexdigest()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"', "Content-Length": str(len(content or b""))}
        status = 200 if content is not None else 404
        if content is not None and path == request.path and "/resolve/" in path and len(content) > 1000:
            status = 302
            headers |= {"Location": f"/storage{path}", "X-Linked-Size": str(len(content)), "Content-Length": "0"}
            headers["X-Linked-Etag"] = headers.pop("ETag")
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        if content is not None and body and status == 200:
            request.wfile.write(content)


@pytest.fixture
def server() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def hub(server: Hub, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub with the weights of ResNet-18 alone; the list it gives holds the requests."""
    server.put("timm/resnet18.tv_in1k", WEIGHTS)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    return server.asked


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
    answer = harness("fetch", "resnet??", "resnet1??", "vit_b16", "--json")
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


# --- whole models ----------------------------------------------------------------------------------------------

FAMILIES = {
    "vit:arch=test_vit.r160_in1k": "test_vit.r160_in1k",
    "dino_s16": "vit_small_patch16_224.dino",
    "resnet:arch=test_resnet.r160_in1k": "test_resnet.r160_in1k",
}
"""A Vision Transformer, one without a head, and a convolutional network."""


@pytest.fixture(scope="module")
def networks():
    """timm's own networks with random weights that no seed of ours gives, by their tag."""
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(2**40 + 7)
        found = {tag: timm.create_model(tag, pretrained=False).eval() for tag in FAMILIES.values()}
    assert [net.num_classes for net in found.values()] == [1000, 0, 1000]
    return found


def serve_networks(server, networks, monkeypatch):
    from safetensors.torch import save as save_torch

    for tag, net in networks.items():
        server.put(f"timm/{tag}", save_torch({name: value.contiguous() for name, value in net.state_dict().items()}))
    monkeypatch.setenv("HF_ENDPOINT", server.url)


def assert_built_with_those_weights(name, net):
    import torch

    from harness.catalog import build_catalog
    from harness.components import model_component
    from harness.manager import build_manager
    from harness.types import OutputSpec
    from harness.weights import WeightsChoice

    component = model_component(build_catalog(build_manager()), name, WeightsChoice())
    component.require_weights()
    model = component.build()
    tag = FAMILIES[name]
    assert model.info.weights.identity == component.weights.identity == f"pretrained:{tag}"
    side = model.info.input_size
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.info.mean, model.info.std))
    with torch.inference_mode():
        expected = net((images - mean) / std)
    found = model.outputs(images, OutputSpec(logits=net.num_classes > 0, pooled=net.num_classes == 0))
    answer = found.pooled if net.num_classes == 0 else found.logits["head"]
    assert answer is not None
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)
    return model.info.weights.sha256


def test_a_vit_a_headless_dino_and_a_cnn_come_from_the_hub(harness, server, networks, monkeypatch):
    serve_networks(server, networks, monkeypatch)
    answer = harness("fetch", *FAMILIES, "--json")
    assert answer.code == 0, answer.err
    assert [found["status"] for found in answer.json] == ["fetched"] * 3
    assert [found["tag"] for found in answer.json] == list(FAMILIES.values())
    for found, tag in zip(answer.json, FAMILIES.values(), strict=True):
        path = Path(found["path"])
        assert path.name == "model.safetensors"
        assert path.parent.parent.parent.name == f"models--timm--{tag}"
        assert path.parent.name == COMMIT
        assert path.resolve().name == found["sha256"], "the hub's cache keeps files under their digests"
    # From now on nobody is asked, as where there is no network.
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    server.files.clear()
    for found, (name, tag) in zip(answer.json, FAMILIES.items(), strict=True):
        assert assert_built_with_those_weights(name, networks[tag]) == found["sha256"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_fetches_by_itself(server, networks, monkeypatch, name):
    serve_networks(server, networks, monkeypatch)
    assert assert_built_with_those_weights(name, networks[FAMILIES[name]])
    assert f"GET /timm/{FAMILIES[name]}/resolve/main/model.safetensors" in server.asked


# --- weights at plain addresses --------------------------------------------------------------------------------

PLAIN = """
@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    url: str | None = param(None, help="address of its weights")
    sha256: str | None = param(None, help="their digest")

@hookimpl
def harness_register_models():
    yield ModelEntry(
        name="plain", target="plain_code:build", summary="plain", view=View(crop=8), capabilities=frozenset(),
        params=Params, url_param="url", sha256_param="sha256",
    )
"""


@pytest.fixture
def plain(install, tmp_path) -> Callable[..., Path]:
    """A registry file with presets of a model whose weights lie at plain addresses."""
    install("plain", PLAIN, plain_code="def build(*, url, sha256, weights):\n    raise AssertionError\n")

    def write(**presets: dict[str, str]) -> Path:
        path = tmp_path / "plain.yaml"
        models = {name: {"use": "plain", "params": params} for name, params in presets.items()}
        path.write_text(json.dumps({"models": models}))  # which is YAML as well
        return path

    return write


def test_weights_at_an_address_are_fetched_and_their_digest_explained(harness, server, plain, tmp_path):
    server.files |= {"/a/net.safetensors": WEIGHTS, f"/a/net-{SHA256[:8]}.safetensors": WEIGHTS}
    named = f"{server.url}/a/net-{SHA256[:8]}.safetensors"
    file = plain(
        recorded={"url": f"{server.url}/a/net.safetensors"},
        published={"url": named},
        pinned={"url": f"{server.url}/a/net.safetensors?pinned", "sha256": SHA256},
    )
    arguments = ("fetch", "recorded", "published", "pinned", "--registry", str(file))
    answer = harness(*arguments, "--json")
    assert answer.code == 0, answer.err
    assert [found["digest"] for found in answer.json] == ["recorded", "published", "pinned"]
    for found in answer.json:
        assert (found["status"], found["sha256"], found["size_bytes"]) == ("fetched", SHA256, len(WEIGHTS))
        assert Path(found["path"]).read_bytes() == WEIGHTS
        assert found["path"].startswith(str(tmp_path / "cache" / "weights"))
    assert answer.json[1]["tag"] == named
    asked = len(server.asked)
    again = harness(*arguments, "--json").json
    assert [found["status"] for found in again] == ["cached"] * 3
    assert len(server.asked) == asked
    out = " ".join(harness(*arguments).out.split())
    for words in ("recorded at the first download", "published in the name", "pinned"):
        assert words in out


def test_changed_bytes_end_with_four_and_both_digests(harness, server, plain):
    server.files["/net.safetensors"] = WEIGHTS
    file = plain(net={"url": f"{server.url}/net.safetensors"})
    arguments = ("fetch", "net", "--registry", str(file))
    path = Path(harness(*arguments, "--json").json[0]["path"])
    other = save({"a": np.zeros(6, dtype=np.float32)})
    path.write_bytes(other)
    answer = harness(*arguments)
    assert answer.code == 4
    assert SHA256 in answer.err
    assert hashlib.sha256(other).hexdigest() in answer.err
    assert str(path.parent) in answer.err


def test_a_server_out_of_reach_is_asked_once_and_others_still_count(harness, server, plain, monkeypatch):
    from harness import transfer

    server.files["/net.safetensors"] = WEIGHTS
    away = "http://127.0.0.1:9"
    file = plain(
        a={"url": f"{away}/a.pth"},
        b={"url": f"{away}/b.pth"},
        here={"url": f"{server.url}/net.safetensors"},
        gone={"url": f"{server.url}/gone.pth"},
        twice={"url": f"{server.url}/net.safetensors?again"},
    )
    tried, real = [], transfer._answer
    monkeypatch.setattr(transfer, "_answer", lambda url, *a, **k: tried.append(url) or real(url, *a, **k))
    answer = harness("fetch", "a,b,here,gone,twice", "--registry", str(file), "--json")
    assert answer.code == 4
    assert [found["status"] for found in answer.json] == ["failed", "failed", "fetched", "failed", "fetched"]
    assert "not tried" in answer.json[1]["error"]
    assert [url for url in tried if url.startswith(away)] == [f"{away}/a.pth"]


def test_a_model_without_published_weights_is_told(harness, plain):
    answer = harness("fetch", "bare", "--registry", str(plain(bare={})), "--json")
    assert answer.code == 4
    assert answer.json[0]["status"] == "failed"
    assert "has no pretrained weights" in answer.json[0]["error"]
    assert "--weights random" in answer.err


def test_unknown_model_is_two(harness):
    answer = harness("fetch", "resnet19")
    assert answer.code == 2
    assert "did you mean resnet" in answer.err
