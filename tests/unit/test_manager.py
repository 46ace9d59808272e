"""The plugin manager: every way a plugin can be broken takes out that plugin alone, named in one line."""

from __future__ import annotations

import importlib.metadata
import sys
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from harness.catalog import build_catalog
from harness.entries import API_VERSION, PerturbationEntry, ProbeEntry
from harness.errors import PluginError, UsageError
from harness.hookspecs import hookimpl
from harness.manager import HarnessManager, PluginFailure, build_manager

HEADER = """
from dataclasses import dataclass
from harness.entries import ModelEntry, PerturbationEntry, ProbeEntry
from harness.hookspecs import hookimpl
from harness.params import param
from harness.types import Capability, View
"""

SOUND = """
@hookimpl
def harness_register_probes():
    yield ProbeEntry(name="sound_probe", target="sound.code:Probe", summary="works", aliases=("sp",))
"""


class Installer:
    """Writes distributions with entry points into a folder that is on ``sys.path``."""

    def __init__(self, site: Path) -> None:
        self.site = site

    def install(self, distribution: str, version: str, points: dict[str, str] | str, **modules: str) -> None:
        info = self.site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        if isinstance(points, dict):
            points = "[harness.plugins]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        (info / "entry_points.txt").write_text(points)
        for name, source in modules.items():
            (self.site / f"{name}.py").write_text(HEADER + textwrap.dedent(source))
        importlib.invalidate_caches()


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for variable in ("HARNESS_DISABLE_PLUGINS", "HARNESS_PLUGIN_AUTOLOAD"):
        monkeypatch.delenv(variable, raising=False)
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    before = set(sys.modules)
    yield Installer(site)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(site)):
            del sys.modules[name]


def failures(manager: HarnessManager, plugin: str = "broken") -> list[PluginFailure]:
    return [failure for failure in manager.failures if failure.plugin == plugin]


def names(manager: HarnessManager, kind: str) -> list[str]:
    return [offer.entry.name for offer in manager.entries(kind)]


def status(manager: HarnessManager, plugin: str) -> list[str]:
    return [row.status for row in manager.plugins() if row.name == plugin]


HOOK = "@hookimpl\ndef harness_register_probes():\n"
ONE = 'ProbeEntry(name="lost", target="broken.code:Probe", summary="s")'
PLUGIN = "broken_plugin"


def giving(more: str = "", *, name: str = "lost", target: str = "b:c", before: str = "") -> str:
    """The source of a plugin that offers one probe, with further fields."""
    return f"{before}{HOOK}  yield ProbeEntry(name={name!r}, target={target!r}, summary='s', {more})\n"


def params(body: str, decorator: str = "@dataclass(frozen=True)") -> str:
    return giving("params=P", before=f"{decorator}\nclass P:\n  {body}\n")


UNPRINTABLE = "class E(Exception):\n  def __str__(self): raise ValueError\nraise E"
OTHER_KIND = f"{HOOK}  yield PerturbationEntry(name='lost', target='b:c', summary='s')"
WRONG_TAG = """
@hookimpl
def harness_register_models():
    yield ModelEntry(name="lost", target="b:c", summary="s", view=View(crop=8), capabilities=set(), tag_param="arch")
"""

# What is wrong: the entry point's value, the module's source, the stage that finds it, what is said.
BROKEN: dict[str, tuple[str, str | None, str, str]] = {
    "module missing": ("absent_module", None, "load", "No module named 'absent_module'"),
    "attribute missing": (f"{PLUGIN}:plugin", "", "load", "no attribute 'plugin'"),
    "import raises": (PLUGIN, "1 / 0", "load", "ZeroDivisionError: division by zero"),
    "import of something missing": (PLUGIN, "import absent_thing", "load", "No module named 'absent_thing'"),
    "import exits": (PLUGIN, "import sys\nsys.exit(3)", "load", "SystemExit: 3"),
    "syntax error": (PLUGIN, "def f(:\n  pass", "load", "SyntaxError: "),
    "error without a message": (PLUGIN, UNPRINTABLE, "load", "cannot be shown"),
    "error over many lines": (PLUGIN, "raise RuntimeError('one\\ntwo\\n\\nthree')", "load", "one two three"),
    "entry point gives a text": (f"{PLUGIN}:text", "text = 'x'", "register", "a plugin is a module or an object"),
    "no hook": (PLUGIN, "def register(): pass", "verify", "implements no hook"),
    "undecorated": (PLUGIN, f"def harness_register_probes():\n  yield {ONE}", "verify", "not decorated"),
    "one of two undecorated": (PLUGIN, f"{giving()}def harness_run_finished(result): pass", "verify", "not decorated"),
    "misspelt": (PLUGIN, "@hookimpl\ndef harness_register_probs(): pass", "verify", "mean harness_register_probes"),
    "hook without prefix": (PLUGIN, "@hookimpl\ndef register(): return []", "verify", "no hook 'register'"),
    "wrong argument": (PLUGIN, "@hookimpl\ndef harness_register_probes(config): pass", "verify", "'config'"),
    "wrapper": (PLUGIN, f"{HOOK}  return (yield)".replace("impl", "impl(wrapper=True)", 1), "verify", "wrapper"),
    "coroutine": (PLUGIN, "@hookimpl\nasync def harness_register_probes(): pass", "verify", "coroutine"),
    "raises at once": (PLUGIN, f"{HOOK}  raise KeyError('x')", "collect", "KeyError: 'x'"),
    "exits": (PLUGIN, f"{HOOK}  raise SystemExit", "collect", "SystemExit"),
    "raises midway": (PLUGIN, f"{HOOK}  yield {ONE}\n  raise OSError('disk gone')", "collect", "disk gone"),
    "returns nothing": (PLUGIN, f"{HOOK}  pass", "collect", "not NoneType"),
    "returns one entry": (PLUGIN, f"{HOOK}  return {ONE}", "collect", "not ProbeEntry"),
    "gives a text": (PLUGIN, f"{HOOK}  return 'lost'", "collect", "must give ProbeEntry objects, not a str"),
    "gives a dict": (PLUGIN, f"{HOOK}  yield dict(name='lost')", "collect", "not a dict"),
    "gives another kind": (PLUGIN, OTHER_KIND, "collect", "must give ProbeEntry objects, not a PerturbationEntry"),
    "invalid name": (PLUGIN, giving(name="Lost One"), "collect", "'Lost One'"),
    "invalid target": (PLUGIN, giving(target="b.c"), "collect", "package.module:attribute"),
    "no summary": (PLUGIN, giving().replace("'s'", "' '"), "collect", "summary"),
    "unknown field": (PLUGIN, giving("nam='lost'"), "collect", "unexpected keyword argument 'nam'"),
    "newer api": (PLUGIN, giving(f"api_version={API_VERSION + 1}"), "collect", "upgrade vit-harness"),
    "older api": (PLUGIN, giving("api_version=0"), "collect", "upgrade the plugin"),
    "api of no number": (PLUGIN, giving("api_version='1'"), "collect", "api_version"),
    "one name twice": (PLUGIN, f"{HOOK}  yield {ONE}\n  yield {ONE}", "collect", "'lost' is offered twice"),
    "alias is a name": (
        PLUGIN,
        f"{giving(name='m')}  yield {ONE[:-1]}, aliases=('m',))",
        "collect",
        "'m' is offered twice",
    ),
    "aliases as a text": (PLUGIN, giving("aliases='abc'"), "collect", "tuples"),
    "unknown extra": (PLUGIN, giving("extra='gpu'"), "collect", "extra 'gpu'"),
    "parameters in no dataclass": (PLUGIN, giving("params=dict"), "collect", "must be a dataclass"),
    "parameters not declared": (PLUGIN, params("k: int = 1"), "collect", "harness.params.param"),
    "parameters can change": (PLUGIN, params("k: int = param(1, help='h')", "@dataclass"), "collect", "frozen"),
    "parameters of unknown type": (PLUGIN, params("k: 'Absent' = param(1, help='h')"), "collect", "Absent"),
    "facts contradict parameters": (PLUGIN, WRONG_TAG, "collect", "'arch' is not one of its parameters"),
    "unknown capability": (PLUGIN, giving("needs=frozenset({'magic'})"), "collect", "'magic'"),
    "registry file is a text": (
        PLUGIN,
        HOOK.replace("register_probes", "registry_files") + "  yield 'x'",
        "collect",
        "Path",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_left_out_and_named_in_one_line(installer: Installer, case: str) -> None:
    target, source, stage, text = BROKEN[case]
    installer.install("sound-dist", "1.0", {"sound": "sound_plugin"}, sound_plugin=SOUND)
    installer.install("broken-dist", "2.3", {"broken": target}, **({} if source is None else {"broken_plugin": source}))
    manager = build_manager()

    (failure,) = failures(manager)
    line = failure.describe()
    assert line.startswith(f"plugin broken (broken-dist 2.3): {stage}: ")
    assert text in line
    assert "\n" not in line
    assert status(manager, "broken") == ["failed"]

    assert status(manager, "sound") == ["ok"]
    assert "sound_probe" in names(manager, "probe")
    assert "lost" not in names(manager, "probe")
    catalog = build_catalog(manager)
    assert catalog.resolve("probe", "sp").name == "sound_probe"
    assert catalog.resolve("perturbation", "none").plugin == "builtin"

    with pytest.raises(PluginError) as caught:
        build_manager(strict=True)
    assert line in caught.value.message
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("case", ["raises midway", "newer api", "one name twice", "unknown extra"])
def test_asking_for_a_name_of_a_failed_plugin_says_why(installer: Installer, case: str) -> None:
    target, source, _, text = BROKEN[case]
    installer.install("broken-dist", "2.3", {"broken": target}, broken_plugin=source or "")
    catalog = build_catalog(build_manager())
    for name in ("lost", "broken:lost"):
        with pytest.raises(PluginError, match=r"broken-dist 2\.3") as caught:
            catalog.resolve("probe", name)
        assert text in caught.value.message


def test_an_unknown_name_lists_the_plugins_that_failed(installer: Installer) -> None:
    installer.install("broken-dist", "2.3", {"broken": "absent_module"})
    catalog = build_catalog(build_manager())
    with pytest.raises(Exception, match="no probe named 'nowhere'") as caught:
        catalog.resolve("probe", "nowhere")
    assert "plugin broken (broken-dist 2.3): load" in str(caught.value)
    with pytest.raises(
        PluginError, match=r"broken-dist 2\.3"
    ):  # the plugin asked for by its name is known to be broken
        catalog.resolve("probe", "broken:nowhere")


@pytest.mark.parametrize(
    ("yaml", "text"),
    [
        (None, "cannot read this registry file"),
        ("probes: [", "not valid YAML"),
        ("probes:\n  late:\n    use: sound_probe\n    parms: {}\n", "presets.yaml:4: probes.late.parms: unknown key"),
        (
            "probes:\n  late:\n    use: own\n    params: {k: no}\n",
            "presets.yaml:4: probes.late.params.k must be an integer",
        ),
        (
            "probes:\n  late:\n    use: own\n    params: {q: 1}\n",
            "presets.yaml:4: probes.late.params.q: own has no parameter",
        ),
        (
            "models:\n  vit_b16:\n    use: vit\n",
            "presets.yaml:2: models.vit_b16: model 'vit_b16' is already at registry.yaml",
        ),
        ("probes:\n  own:\n    use: own\n", "already an entry of plugin broken"),
        ("probes:\n  nobody:\n    use: own\n    override: true\n", "override: true, but no earlier file or plugin has"),
        ("defaults:\n  model: mine\n", "cannot set defaults"),
    ],
)
def test_a_broken_registry_file_takes_out_its_plugin_alone(installer: Installer, yaml: str | None, text: str) -> None:
    source = """
    from pathlib import Path
    @dataclass(frozen=True, kw_only=True)
    class P:
        k: int = param(1, help="a number")
    @hookimpl
    def harness_register_probes():
        return [ProbeEntry(name="own", target="broken.code:Probe", summary="s", params=P)]
    @hookimpl
    def harness_registry_files():
        return [Path(__file__).with_name("presets.yaml")]
    """
    installer.install("sound-dist", "1.0", {"sound": "sound_plugin"}, sound_plugin=SOUND)
    installer.install("broken-dist", "2.3", {"broken": "broken_plugin"}, broken_plugin=source)
    if yaml is not None:
        (installer.site / "presets.yaml").write_text(yaml)
    manager = build_manager()
    catalog = build_catalog(manager)
    (failure,) = failures(manager)
    assert failure.describe().startswith("plugin broken (broken-dist 2.3): collect: ")
    assert text in failure.error
    assert "\n" not in failure.describe()
    assert catalog.resolve("probe", "sound_probe").plugin == "sound"
    assert catalog.defaults.model == "vit_mini"
    with pytest.raises(PluginError, match=r"broken-dist 2\.3"):
        catalog.resolve("probe", "own")
    with pytest.raises(PluginError, match=r"broken-dist 2\.3"):
        build_catalog(build_manager(strict=True))


def test_an_interrupt_is_never_taken_for_a_broken_plugin(installer: Installer) -> None:
    installer.install("broken-dist", "2.3", {"broken": "broken_plugin"}, broken_plugin="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        build_manager()


def test_malformed_metadata_of_one_distribution_stops_no_other(installer: Installer) -> None:
    installer.install("sound-dist", "1.0", {"sound": "sound_plugin"}, sound_plugin=SOUND)
    installer.install("garbled-dist", "9.9", "[harness.plugins]\nthis is no entry point\n")
    with pytest.raises(TypeError):  # what the standard library makes of it
        list(importlib.metadata.entry_points(group="harness.plugins"))
    manager = build_manager()
    (failure,) = failures(manager, "garbled-dist")
    assert "plugin garbled-dist (garbled-dist 9.9): load: its entry_points.txt cannot be read" in failure.describe()
    assert "sound_probe" in names(manager, "probe")


def test_a_distribution_without_metadata_still_loads(installer: Installer) -> None:
    installer.install("sound-dist", "1.0", {"sound": "sound_plugin"}, sound_plugin=SOUND)
    next(installer.site.glob("*.dist-info/METADATA")).unlink()
    manager = build_manager()
    assert "sound_probe" in names(manager, "probe")


def test_a_sound_plugin_is_found_with_distribution_and_version(installer: Installer) -> None:
    installer.install("sound-dist", "1.0", {"sound": "sound_plugin"}, sound_plugin=SOUND)
    manager = build_manager()
    (row,) = [row for row in manager.plugins() if row.name == "sound"]
    assert (row.distribution, row.version, row.status, row.reason) == ("sound-dist", "1.0", "ok", None)
    assert row.counts == {"model": 0, "perturbation": 0, "probe": 1, "dataset": 0, "summary": 0}
    (offer,) = [offer for offer in manager.entries("probe") if offer.entry.name == "sound_probe"]
    assert offer.owner == "plugin sound (sound-dist 1.0)"


def test_without_discovery_only_the_builtin_plugin_and_extras_load(installer: Installer) -> None:
    installer.install("sound-dist", "1.0", {"sound": "sound_plugin"}, sound_plugin=SOUND)
    manager = build_manager(discover=False)
    assert [row.name for row in manager.plugins()] == ["builtin"]
    assert (names(manager, "perturbation"), names(manager, "summary")) == (["none"], ["retention"])


# --- keeping plugins out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "environment", "reason"),
    [
        (("sound",), {}, "kept out by the caller"),
        (("Sound_Dist",), {}, "kept out by the caller"),
        ((), {"HARNESS_DISABLE_PLUGINS": "other, sound"}, "named in HARNESS_DISABLE_PLUGINS"),
        ((), {"HARNESS_DISABLE_PLUGINS": "sound-dist"}, "named in HARNESS_DISABLE_PLUGINS"),
        ((), {"HARNESS_PLUGIN_AUTOLOAD": "0"}, "HARNESS_PLUGIN_AUTOLOAD=0"),
    ],
)
def test_a_plugin_can_be_kept_out(
    installer: Installer,
    monkeypatch: pytest.MonkeyPatch,
    block: tuple[str, ...],
    environment: dict[str, str],
    reason: str,
) -> None:
    installer.install("sound-dist", "1.0", {"sound": "sound_plugin"}, sound_plugin=f"raise RuntimeError\n{SOUND}")
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    manager = build_manager(block=block, strict=True)  # it is never imported, so it cannot fail
    (row,) = [row for row in manager.plugins() if row.name == "sound"]
    assert (row.status, row.reason) == ("blocked", reason)
    with pytest.raises(Exception, match="no probe named 'sound_probe'") as caught:
        build_catalog(manager).resolve("probe", "sound_probe")
    assert f"sound was kept out ({reason})" in str(caught.value)


def test_autoload_off_keeps_what_the_caller_hands_in(installer: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_PLUGIN_AUTOLOAD", "0")
    installer.install("vit-harness", "0.0.1", {"own": "own_plugin"}, own_plugin=SOUND)
    manager = build_manager(extra=[("mine", plugin_with("mine_probe"))])
    assert {"sound_probe", "mine_probe"} <= set(names(manager, "probe"))
    assert status(manager, "own") == ["ok"]


def test_the_builtin_plugin_cannot_be_kept_out_and_the_environment_must_make_sense(
    installer: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="cannot be kept out"):
        build_manager(block=["builtin"])
    monkeypatch.setenv("HARNESS_PLUGIN_AUTOLOAD", "never")
    with pytest.raises(UsageError, match="must be 0 or 1, not 'never'"):
        build_manager()


# --- clashes -----------------------------------------------------------------------------------------------------


def entry_source(name: str, aliases: tuple[str, ...] = ()) -> str:
    return HOOK + f"  yield ProbeEntry(name={name!r}, target='b:c', summary='s', aliases={aliases!r})\n"


def test_a_clash_makes_that_name_alone_ambiguous(installer: Installer) -> None:
    both = "{}\n  yield ProbeEntry(name='only_{}', target='b:c', summary='s')\n"
    installer.install("a-dist", "1.0", {"plug_a": "a_plugin"}, a_plugin=both.format(entry_source("twin"), "a"))
    installer.install("b-dist", "2.0", {"plug_b": "b_plugin"}, b_plugin=both.format(entry_source("twin"), "b"))
    manager = build_manager()
    assert manager.failures == ()
    catalog = build_catalog(manager)
    with pytest.raises(PluginError, match="ambiguous") as caught:
        catalog.resolve("probe", "twin")
    assert "plugin plug_a (a-dist 1.0)" in caught.value.message
    assert "plugin plug_b (b-dist 2.0)" in caught.value.message
    assert caught.value.hint == "write plug_a:twin or plug_b:twin"
    for text, plugin in (
        ("plug_a:twin", "plug_a"),
        ("b-dist:twin", "plug_b"),
        ("only_a", "plug_a"),
        ("only_b", "plug_b"),
    ):
        assert catalog.resolve("probe", text).plugin == plugin
    assert {"plug_a:twin", "plug_b:twin", "only_a"} <= set(catalog.names("probe"))
    keys = {catalog.resolve("probe", text).ref.fingerprint for text in ("plug_a:twin", "plug_b:twin")}
    assert len(keys) == 2, "two components of one name must not share a record"


def test_an_alias_that_is_the_name_of_another_plugin_is_ambiguous(installer: Installer) -> None:
    installer.install("a-dist", "1.0", {"plug_a": "a_plugin"}, a_plugin=entry_source("twin"))
    installer.install("b-dist", "2.0", {"plug_b": "b_plugin"}, b_plugin=entry_source("other", ("twin", "also")))
    catalog = build_catalog(build_manager())
    with pytest.raises(PluginError, match="ambiguous"):
        catalog.resolve("probe", "twin")
    assert catalog.resolve("probe", "plug_a:twin").name == "twin"
    assert catalog.resolve("probe", "plug_b:twin").name == "other"
    assert [catalog.resolve("probe", text).name for text in ("other", "also")] == ["other", "other"]


def test_two_distributions_may_use_one_plugin_name(installer: Installer) -> None:
    installer.install(
        "a-dist",
        "1.0",
        {"plug": "a_plugin"},
        a_plugin=entry_source("twin") + "  yield ProbeEntry(name='x', target='b:c', summary='s')\n",
    )
    installer.install("b-dist", "2.0", {"plug": "b_plugin"}, b_plugin=entry_source("twin"))
    manager = build_manager()
    assert status(manager, "plug") == ["ok", "ok"]
    catalog = build_catalog(manager)
    assert catalog.resolve("probe", "plug:x").entry.name == "x"
    with pytest.raises(PluginError, match="ambiguous") as caught:
        catalog.resolve("probe", "plug:twin")
    assert caught.value.hint == "write a-dist:twin or b-dist:twin"
    assert catalog.resolve("probe", "a-dist:twin").plugin == "plug"
    assert len({catalog.resolve("probe", f"{d}:twin").ref.fingerprint for d in ("a-dist", "b-dist")}) == 2


def test_one_module_under_two_entry_points_fails_the_second(installer: Installer) -> None:
    installer.install("a-dist", "1.0", {"first": "a_plugin", "second": "a_plugin"}, a_plugin=entry_source("twin"))
    manager = build_manager()
    (failure,) = manager.failures
    assert (failure.plugin, failure.stage) == ("second", "register")
    assert "twin" in names(manager, "probe")


# --- plugins of the caller ---------------------------------------------------------------------------------------


def plugin_with(*probe_names: str) -> object:
    class Plugin:
        @hookimpl
        def harness_register_probes(self):
            return [ProbeEntry(name=name, target="b:c", summary="s") for name in probe_names]

    return Plugin()


def test_extras_are_modules_objects_or_named_pairs() -> None:
    module = ModuleType("my_module")
    module.harness_register_perturbations = hookimpl(
        lambda: [PerturbationEntry(name="dim", target="my_module:Dim", summary="s")]
    )
    manager = build_manager(discover=False, extra=[module, plugin_with("a"), ("named", plugin_with("b"))])
    assert [row.name for row in manager.plugins()] == ["builtin", "my_module", "Plugin", "named"]
    assert manager.failures == ()
    assert build_catalog(manager).resolve("perturbation", "my_module:dim").plugin == "my_module"
    assert build_catalog(manager).resolve("probe", "Plugin:a").plugin == "Plugin"


@pytest.mark.parametrize("extra", [None, "my_module", 3, SimpleNamespace(), plugin_with])
def test_an_extra_that_is_no_plugin_is_reported(extra: object) -> None:
    manager = build_manager(discover=False, extra=[("mine", extra)])
    (failure,) = manager.failures
    assert failure.describe().startswith("plugin mine: ")
    assert names(manager, "perturbation") == ["none"]


def test_a_method_without_decorator_is_found_in_an_object_too() -> None:
    class Plugin:
        @hookimpl
        def harness_register_probes(self):
            return []

        @staticmethod
        def harness_register_models():
            return []

    (failure,) = build_manager(discover=False, extra=[Plugin()]).failures
    assert "harness_register_models is not decorated" in failure.error


# --- observers ---------------------------------------------------------------------------------------------------


def test_an_observer_that_raises_is_reported_once_and_left_out() -> None:
    seen: list[tuple[str, object]] = []

    class Watcher:
        def __init__(self, name: str, error: type[BaseException] | None) -> None:
            self.name, self.error = name, error

        @hookimpl
        def harness_register_probes(self):
            return [ProbeEntry(name=f"{self.name}_probe", target="b:c", summary="s")]

        @hookimpl
        def harness_run_started(self):  # an implementation may leave out arguments
            seen.append((self.name, "started"))

        @hookimpl
        def harness_record_written(self, record):
            seen.append((self.name, record))
            if self.error is not None:
                raise self.error("no more")

        @hookimpl
        def harness_run_finished(self, result):
            seen.append((self.name, result))

    watchers = [("bad", RuntimeError), ("quits", SystemExit), ("good", None)]
    manager = build_manager(
        discover=False, strict=True, extra=[(name, Watcher(name, error)) for name, error in watchers]
    )
    assert manager.notify_run_started("plan") == ()
    failed = manager.notify_record_written("record")
    assert [failure.describe() for failure in failed] == [
        "plugin bad: observer: RuntimeError: no more",
        "plugin quits: observer: SystemExit: no more",
    ]
    assert manager.notify_record_written("again") == ()
    assert manager.notify_run_finished("result") == ()
    assert [item for item in seen if item[0] == "bad"] == [("bad", "started"), ("bad", "record")]
    assert [item[1] for item in seen if item[0] == "good"] == ["started", "record", "again", "result"]
    assert manager.failures == failed
    assert "bad_probe" in names(manager, "probe"), "what a plugin offers does not hang on its observers"


def test_an_interrupt_in_an_observer_passes() -> None:
    class Watcher:
        @hookimpl
        def harness_run_started(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_manager(discover=False, extra=[Watcher()]).notify_run_started("plan")
