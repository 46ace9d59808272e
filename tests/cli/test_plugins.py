"""``harness plugins``: status, reason and what each offers."""

from __future__ import annotations


def test_own_plugins_with_their_distribution_and_entries(harness):
    rows = {row["name"]: row for row in harness("plugins", "--json").json}
    assert rows["builtin"]["offers"] == {"model": 1, "perturbation": 1, "summary": 1}
    assert rows["timm_vit"]["distribution"] == "vit-harness"
    assert rows["timm_vit"]["offers"] == {"model": 1}
    assert {row["status"] for row in rows.values()} == {"ok"}


def test_failed_plugin_is_listed_with_its_reason_and_exit_code_zero(harness, install):
    install("broken", "raise RuntimeError('does not fit\\nat all')")
    answer = harness("plugins", "--json")
    assert answer.code == 0
    (row,) = (row for row in answer.json if row["name"] == "broken")
    assert (row["distribution"], row["version"], row["status"]) == ("broken-dist", "1.5", "failed")
    assert row["reason"] == "load: RuntimeError: does not fit at all"
    assert row["offers"] == {}
    text = harness("plugins").out
    assert "broken: load: RuntimeError: does not fit at all" in text.splitlines()


def test_broken_registry_file_of_a_plugin_counts_as_its_failure(harness, install, tmp_path):
    presets = tmp_path / "presets.yaml"
    presets.write_text("models:\n  mine: {used: vit}\n")
    install(
        "presets",
        f"from pathlib import Path\n@hookimpl\ndef harness_registry_files():\n    yield Path({str(presets)!r})",
    )
    (row,) = (row for row in harness("plugins", "--json").json if row["name"] == "presets")
    assert row["status"] == "failed"
    assert f"{presets}:2" in row["reason"]


def test_strict_is_exit_code_three(harness, install):
    install("broken", "raise RuntimeError('no')")
    answer = harness("plugins", "--strict-plugins")
    assert answer.code == 3
    assert "RuntimeError: no" in answer.err


def test_blocked_plugin_says_who_kept_it_out(harness, monkeypatch):
    monkeypatch.setenv("HARNESS_DISABLE_PLUGINS", "timm_vit")
    rows = {row["name"]: row for row in harness("plugins", "--json", "--no-plugin", "patchdrop").json}
    assert (rows["timm_vit"]["status"], rows["timm_vit"]["reason"]) == ("blocked", "named in HARNESS_DISABLE_PLUGINS")
    assert rows["patchdrop"]["status"] == "blocked"
