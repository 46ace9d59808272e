"""``harness doctor``: what it looks at, what counts as a problem, and how it survives broken libraries."""

from __future__ import annotations

import importlib.metadata
import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from harness import diagnosis

ANSWERS = [
    {
        "step": "torch",
        "version": "2.9.0",
        "cuda_build": None,
        "devices": {"cpu": "AVX2", "cuda:0": "H200, 139 GiB"},
        "threads": 4,
        "interop_threads": 2,
    },
    {"step": "torchvision", "version": "0.24.0", "kept": [0]},
    {"step": "faiss", "version": "1.12", "threads": 4},
    {"step": "openmp", "runtimes": ["/a/libgomp.so.1"]},
]


def findings_of(answers, *, end: str = "") -> dict[str, diagnosis.Finding]:
    """What is made of a probe that prints ``answers`` and then does ``end``."""
    lines = [json.dumps(answer) for answer in answers]
    code = (
        f"import os, sys\nprint('noise of a library')\n[print(line) for line in {lines!r}]\nsys.stdout.flush()\n{end}"
    )
    return {one.name: one for one in diagnosis.library_findings((sys.executable, "-c", code))}


@pytest.fixture
def quick(monkeypatch):
    """Without the seconds that importing torch takes; one test does that in earnest."""
    lines = [json.dumps(answer) for answer in ANSWERS]
    command = (sys.executable, "-c", f"[print(line) for line in {lines!r}]")
    real = diagnosis.library_findings
    monkeypatch.setattr(diagnosis, "library_findings", lambda: real(command))


def by_name(answer) -> dict[str, dict[str, str]]:
    return {finding["name"]: finding for finding in answer.json}


def test_everything_in_earnest(harness):
    answer = harness("doctor", "--offline", "--json")
    found = by_name(answer)
    assert answer.code == 0, [finding for finding in answer.json if finding["status"] == "problem"]
    for name in ("torch", "torchvision", "timm", "vit-harness", "pluggy"):
        version = importlib.metadata.version(name)
        assert any(one["name"] == name and version in one["found"] for one in answer.json)
    assert found["cpu"]["area"] == "devices"
    assert found["faiss"]["status"] == "ok"
    assert "libgomp" in found["openmp"]["found"] or "omp" in found["openmp"]["found"]
    assert found["attacks"]["area"] == "extras"
    assert "timm_vit" in found["working"]["found"]


def test_text_ends_with_the_verdict(harness, quick):
    answer = harness("doctor", "--offline")
    assert answer.code == 0
    assert answer.out.splitlines()[-1] == "no problem found"
    assert "H200, 139 GiB" in answer.out


def test_hub_that_is_out_of_reach_is_a_problem_unless_offline_is_meant(harness, quick, monkeypatch):
    answer = harness("doctor", "--json")
    assert answer.code == 1
    hub = by_name(answer)["http://127.0.0.1:9"]
    assert (hub["area"], hub["status"]) == ("hub", "problem")
    assert "HARNESS_OFFLINE=1" in hub["advice"]
    assert "1 problem found" in harness("doctor").out
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    offline = by_name(harness("doctor", "--json"))
    assert offline["http://127.0.0.1:9"]["found"] == "not asked: offline"
    assert offline["HARNESS_OFFLINE"]["found"] == "1"


def test_hub_that_answers(harness, quick, monkeypatch):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("HF_ENDPOINT", url)
        answer = harness("doctor", "--json")
        server.shutdown()
    assert answer.code == 0
    assert by_name(answer)[url]["found"] == "answers"


def test_silent_hub_is_given_up_in_seconds(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(diagnosis, "PREFLIGHT_S", 0.2)
        start = time.perf_counter()
        last = list(diagnosis.hub_findings(offline=False))[-1]
    assert last.status == "problem"
    # The socket's limit and that of the thread around it end at the same time; either may be seen first.
    assert "does not answer within 0.2 seconds" in last.found or "no answer in time" in last.found
    assert time.perf_counter() - start < 2


def test_proxy_is_named_without_its_password(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy")
    found = [one for one in diagnosis.hub_findings(offline=True) if one.name == "proxy"]
    assert found[0].found == "HTTPS_PROXY set"


def test_broken_plugin_is_a_problem(harness, quick, install):
    install("broken", "raise RuntimeError('half a plugin')")
    answer = harness("doctor", "--offline", "--json")
    assert answer.code == 1
    assert by_name(answer)["broken"]["found"] == "load: RuntimeError: half a plugin"
    assert harness("doctor", "--offline", "--strict-plugins").code == 3


def test_blocked_plugin_is_a_note(harness, quick):
    answer = harness("doctor", "--offline", "--json", "--no-plugin", "timm_vit")
    assert answer.code == 0
    assert by_name(answer)["timm_vit"]["status"] == "note"


# --- libraries -------------------------------------------------------------------------------------------------


def test_torchvision_of_another_build_says_which_two_to_reinstall():
    mismatch = {"step": "torchvision", "error": "RuntimeError: operator torchvision::nms does not exist"}
    found = findings_of([ANSWERS[0], mismatch, *ANSWERS[2:]])
    assert found["torchvision"].status == "problem"
    assert "operator torchvision::nms does not exist" in found["torchvision"].found
    assert "do not belong together" in found["torchvision"].advice
    assert "pip install --force-reinstall torch torchvision" in found["torchvision"].advice
    assert found["faiss"].status == "ok"


def test_probe_reports_a_mismatch_as_the_import_raises_it(monkeypatch, capsys):
    from harness import library_probe

    def mismatch():
        raise RuntimeError("operator torchvision::nms\n does not exist")

    monkeypatch.setattr(library_probe, "STEPS", {"torchvision": mismatch, "openmp": lambda: {"runtimes": []}})
    library_probe.main()
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"step": "torchvision", "error": "RuntimeError: operator torchvision::nms does not exist"}
    assert second == {"step": "openmp", "runtimes": []}


def test_missing_torch_advises_to_install_it():
    missing = {"step": "torch", "error": "ModuleNotFoundError: No module named 'torch'"}
    found = findings_of([missing, {"step": "torchvision", "error": "the same"}, *ANSWERS[2:]])
    assert found["torch"].advice == "pip install --force-reinstall torch"
    assert "do not belong together" not in found["torchvision"].advice


@pytest.mark.parametrize(
    ("end", "said"),
    [("os.abort()", "SIGABRT"), ("sys.exit('broken build')", "broken build"), ("os._exit(0)", "gave no answer")],
)
def test_library_that_ends_the_process_is_named_and_the_rest_is_kept(end, said):
    found = findings_of(ANSWERS[:2], end=end)
    assert found["torchvision"].status == "ok"
    assert found["faiss"].status == "problem"
    assert said in found["faiss"].found
    assert "openmp" not in found


def test_library_that_never_returns_is_given_up(monkeypatch):
    monkeypatch.setattr(diagnosis, "PROBE_LIMIT_S", 1.0)
    found = findings_of(ANSWERS[:1], end="import time; time.sleep(60)")
    assert found["torch"].status == "ok"
    assert "did not finish within 1 seconds" in found["torchvision"].found


def test_two_openmp_runtimes_are_a_note():
    found = findings_of([*ANSWERS[:3], {"step": "openmp", "runtimes": ["/a/libgomp.so", "/b/libomp.so"]}])
    assert found["openmp"].status == "note"
    assert "2 runtimes in one process: libgomp.so, libomp.so" in found["openmp"].found


# --- versions, cache, extras -----------------------------------------------------------------------------------


class Distributions:
    """Installed distributions, by name: version, requirements, files."""

    def __init__(self, monkeypatch, **installed) -> None:
        self.installed = installed
        monkeypatch.setattr(importlib.metadata, "version", lambda name: self.get(name)["version"])
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: self.get(name).get("requires"))
        monkeypatch.setattr(importlib.metadata, "distribution", self.distribution)

    def get(self, name):
        if name.replace("-", "_") not in self.installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return self.installed[name.replace("-", "_")]

    def distribution(self, name):
        given = self.get(name)
        files = [importlib.metadata.PackagePath(file) for file in given.get("files", ())]
        return SimpleNamespace(requires=given.get("requires"), files=files)


def test_requirements_that_are_missing_or_too_old_are_problems(monkeypatch):
    Distributions(
        monkeypatch,
        vit_harness={
            "version": "0.1.0",
            "requires": ["torch>=2.4", "old>=1.10", "gone>=3", "bare", "skipped>=9; extra == 'all'"],
        },
        torch={"version": "2.10.0+cpu"},
        old={"version": "1.9.3"},
        bare={"version": "0.1"},
    )
    found = {one.name: one for one in diagnosis.version_findings()}
    assert {name: one.status for name, one in found.items() if name not in ("python", "vit-harness")} == {
        "torch": "ok",
        "old": "problem",
        "gone": "problem",
        "bare": "ok",
    }
    assert found["old"].found == "1.9.3, needs 1.10"
    assert found["gone"].advice == "pip install 'gone>=3'"


def test_torchattacks_pins_and_its_robustbench_are_told(monkeypatch):
    Distributions(
        monkeypatch,
        torchattacks={
            "version": "3.5.1",
            "requires": ["torch>=1.7.1", "requests (~=2.25.1)", "idna==2.10", "urllib3~=1.26", "tqdm>=4.56.1"],
            "files": ["torchattacks/__init__.py", "robustbench/__init__.py"],
        },
        requests={"version": "2.25.1"},
        idna={"version": "2.10"},
        urllib3={"version": "2.2"},
        robustbench={"version": "1.1"},
    )
    pins, package = diagnosis.torchattacks_findings()
    assert (pins.status, package.status) == ("note", "note")
    assert pins.found == (
        "holds requests at 2.25.1 (requests~=2.25.1), idna at 2.10 (idna==2.10), urllib3 at 2.2 (urllib3~=1.26)"
    )
    assert "in the place of the installed robustbench 1.1" in package.found


def test_without_torchattacks_nothing_is_said(monkeypatch):
    Distributions(monkeypatch)
    assert list(diagnosis.torchattacks_findings()) == []


def test_extras_are_told_without_importing_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    found = {one.name: one for one in diagnosis.extra_findings()}
    assert found["attacks"].found == "not installed (torchattacks)"
    assert found["attacks"].status == "note"
    monkeypatch.setitem(sys.modules, "torchattacks", sys)
    assert {one.name: one for one in diagnosis.extra_findings()}["attacks"].status == "ok"


def test_cache_folder_size_and_place(monkeypatch, tmp_path):
    (finding,) = diagnosis.cache_findings()
    assert finding.found == f"{tmp_path / 'cache'}, not made yet"
    assert finding.status == "ok"
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache" / "features").mkdir(parents=True)
    (tmp_path / "cache" / "features" / "x").write_bytes(bytes(2500))
    (finding,) = diagnosis.cache_findings()
    assert finding.found == f"{tmp_path / 'cache'}, 2.5 kB"


def test_cache_folder_that_cannot_be_written_is_a_problem(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "file" / "cache"))
    (finding,) = diagnosis.cache_findings()
    assert finding.status == "problem"
    assert "HARNESS_CACHE_DIR" in finding.advice
