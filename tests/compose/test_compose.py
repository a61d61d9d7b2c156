"""Every way in which a composition can be wrong is refused before a factory runs, with words that help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calico_kernel import hookspecs
from calico_kernel.compose import Composition, compose
from calico_kernel.config import load
from calico_kernel.errors import CalicoError, ConfigError, PluginError, UnsupportedError

STORE = """
class Store(Datastore):
    def __init__(self, settings, services): self.settings, self.services, self.closed = settings, services, 0
    def create(self, key, value): ...
    def update(self, key, value, *, revision): ...
    def put(self, key, value): ...
    def delete(self, key, *, revision=None): ...
    def get(self, key): ...
    def list(self, queries, *, revision=None): ...
    def watch(self, queries, *, revision): ...
    def close(self): self.closed += 1

class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: str = "/nowhere"
    sync: bool = True
    sizes: tuple[int, ...] = ()

@hookimpl
def calico_datastore(settings, services):
    return Store(settings, services)
"""

DRIVER = """
class Pipe(EncapsulationDriver):
    modes = frozenset({MODES})
    def update(self, delta): ...
    def apply(self): ...
    def overhead_bytes(self, version): return 50

@hookimpl
def calico_encapsulation(services):
    return Pipe()
"""


@pytest.fixture
def composed(tmp_path: Path) -> Any:
    def build(text: str, **environment: str) -> Composition:
        path = tmp_path / "calico.yaml"
        path.write_text(text)
        return compose(load(str(path), {"CALICO_IPAM": "none", **environment}))

    return build


def test_datastore_named_is_opened_once_with_its_settings(make_plugin: Any, composed: Any) -> None:
    make_plugin("datastore", "teststore", STORE)
    composition = composed("node: n1\ndatastore: {plugin: teststore, path: /x}\n", CALICO_DATASTORE_SIZES="1,2")
    store = composition.open_datastore()
    assert store is composition.open_datastore()
    assert (store.settings.path, store.settings.sync, store.settings.sizes) == ("/x", True, (1, 2))
    assert store.services.node == "n1" and store.services.datastore is None
    composition.close()
    composition.close()
    assert store.closed == 1


def test_plugin_not_named_is_not_imported(make_plugin: Any, composed: Any) -> None:
    make_plugin("datastore", "teststore", STORE)
    make_plugin("datastore", "explosive", "raise RuntimeError('imported')")
    assert composed("datastore: teststore").open_datastore()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dataplane: ebpf", "pip install calico-dp-ebpf"),
        ("datastore: teststore\nrouting: [bird]", "pip install calico-bgp-bird"),
        ("datastore: teststore\ndataplane: hns", "pip install calico-windows-hns"),
    ],
)
def test_shipped_plugin_not_installed_gives_the_pip_line(make_plugin: Any, composed: Any, text: str, said: str) -> None:
    make_plugin("datastore", "teststore", STORE)
    with pytest.raises(PluginError, match=said) as caught:
        composed(text)
    assert f"calico.yaml:{text.count(chr(10)) + 1}: " in str(caught.value)


def test_unknown_word_names_what_is_installed_and_the_nearest(make_plugin: Any, composed: Any) -> None:
    make_plugin("datastore", "teststore", STORE)
    with pytest.raises(ConfigError, match="did you mean 'teststore'") as caught:
        composed("datastore: tetstore")
    assert "installed for datastore:" in str(caught.value)


def test_default_that_is_not_installed_is_missed_only_when_opened(make_plugin: Any, tmp_path: Path) -> None:
    from calico_kernel.config import Located, Origin, PluginChoice
    from calico_kernel.plugins import load_plugins

    choice = PluginChoice(
        family="ipam",
        word="gone",
        settings=Located({}, Origin("default")),
        origin=Origin("default"),
        key="ipam",
        prefix="X",
    )
    plugins = load_plugins([choice])
    assert plugins.loaded == () and "gone" in str(plugins.absent["ipam"])


def test_nothing_configured_says_which_line_to_add(make_plugin: Any, composed: Any) -> None:
    make_plugin("datastore", "teststore", STORE)
    with pytest.raises(ConfigError, match=r"names no ipam.*ipam: blocks"):
        composed("datastore: teststore").open_ipam()


def test_two_entry_points_with_one_name_are_refused_naming_both(make_plugin: Any, composed: Any) -> None:
    first, second = make_plugin("datastore", "teststore", STORE), make_plugin("datastore", "teststore", STORE)
    with pytest.raises(PluginError, match="two installed plugins are called 'teststore'") as caught:
        composed("datastore: teststore")
    assert first in str(caught.value) and second in str(caught.value)


def test_two_plugins_for_an_exclusive_capability_are_refused_and_the_chosen_factory_never_ran(
    make_plugin: Any, composed: Any
) -> None:
    make_plugin("datastore", "teststore", STORE + "    \nran = []\n")
    make_plugin("extension", "intruder", STORE)
    composition = composed("datastore: teststore\nextensions: [intruder]")
    with pytest.raises(PluginError, match="'datastore' is claimed by two plugins: extension:intruder and datastore:"):
        composition.open_datastore()


def test_plugin_that_leaves_the_capability_to_another_is_no_conflict(make_plugin: Any, composed: Any) -> None:
    make_plugin("datastore", "teststore", STORE)
    make_plugin("extension", "polite", "@hookimpl\ndef calico_datastore(settings, services):\n    return None\n")
    assert composed("datastore: teststore\nextensions: [polite]").open_datastore()


def test_two_drivers_for_one_mode_are_refused(make_plugin: Any, composed: Any) -> None:
    make_plugin("datastore", "teststore", STORE)
    make_plugin("encapsulation", "one", DRIVER.replace("MODES", "'vxlan', 'none'"))
    make_plugin("encapsulation", "two", DRIVER.replace("MODES", "'vxlan'"))
    composition = composed("datastore: teststore\nencapsulation: [one, two]")
    with pytest.raises(PluginError, match="mode 'vxlan' is claimed by two plugins: encapsulation:one and"):
        composition.open_drivers()
    assert [opened.plugin for opened in composed("datastore: teststore\nencapsulation: [two]").open_drivers()] == [
        "encapsulation:two"
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "@hookimpl\ndef calico_datastroe(settings, services): ...",
            "hook 'calico_datastroe' that does not exist; did",
        ),
        ("@hookimpl\ndef my_hook(): ...", "hook 'my_hook' that does not exist"),
        ("def calico_health_check(): ...", "'calico_health_check' that does not exist; did you mean 'calico_health_ch"),
        ("def calico_validators(): ...", "'calico_validators' without @hookimpl"),
        ("@hookimpl\ndef calico_datastore(settings, wishes): ...", "does not fit the hook"),
        ("def _calico_private(): ...\nclass Other: ...", "has no calico_datastore hook"),
        ("import no_such_module_anywhere", "cannot be imported: ModuleNotFoundError"),
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
    ],
)
def test_plugin_whose_hooks_do_not_fit_is_refused(make_plugin: Any, composed: Any, body: str, said: str) -> None:
    make_plugin("datastore", "teststore", body)
    with pytest.raises(PluginError) as caught:
        composed("datastore: teststore")
    assert said in str(caught.value)


@pytest.mark.parametrize("api", [(2, 0), (0, 9), (1, 99)])
def test_other_hook_api_is_refused_naming_both_versions(
    make_plugin: Any, composed: Any, monkeypatch: pytest.MonkeyPatch, api: tuple[int, int]
) -> None:
    make_plugin(
        "datastore",
        "teststore",
        STORE + f"    \n@hookimpl\ndef calico_plugin():\n    return PluginInfo(summary='', hook_api={api})\n",
    )
    ours = ".".join(map(str, hookspecs.HOOK_API))
    with pytest.raises(PluginError, match=rf"hook API {api[0]}\.{api[1]}; this kernel has {ours}"):
        composed("datastore: teststore")


@pytest.mark.parametrize(
    ("head", "said"),
    [("", "no calico_plugin"), ("def calico_plugin():\n    return {}\n", "returned dict, not PluginInfo")],
)
def test_plugin_that_does_not_describe_itself_is_refused(make_plugin: Any, composed: Any, head: str, said: str) -> None:
    make_plugin("datastore", "teststore", "", head=head)
    with pytest.raises(PluginError, match=said):
        composed("datastore: teststore")


@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        (
            "datastore:\n  plugin: teststore\n  pth: /x",
            {},
            "calico.yaml:3: plugin datastore:teststore has no setting 'pth'; did you mean 'path'?",
        ),
        ("datastore: {plugin: teststore, sync: 7}", {}, "datastore:teststore.sync is 7: Expected `bool`, got `int`"),
        ("datastore: teststore", {"CALICO_DATASTORE_PTH": "/x"}, "environment CALICO_DATASTORE_PTH: plugin datastore"),
        ("datastore: teststore", {"CALICO_DATASTORE_SYNC": "perhaps"}, "environment CALICO_DATASTORE_SYNC: plugin"),
        ("datastore: teststore", {"CALICO_ROUTING_BIRD_X": "1"}, "CALICO_ROUTING_BIRD_X: no plugin that reads it"),
        (
            "datastore: teststore\nextensions: [{plugin: bare, speed: 1}]",
            {},
            "calico.yaml:2: plugin extension:bare has no setting 'speed'. Kept: everything is as it was. To do: remove "
            "or rename it; it has no settings at all",
        ),
    ],
)
def test_setting_that_no_plugin_reads_is_refused(
    make_plugin: Any, composed: Any, text: str, environment: dict[str, str], said: str
) -> None:
    make_plugin("datastore", "teststore", STORE)
    make_plugin("extension", "bare", "")
    with pytest.raises(ConfigError) as caught:
        composed(text, **environment)
    assert said in str(caught.value)


def test_environment_that_chooses_another_plugin_drops_the_settings_of_the_first(
    make_plugin: Any, composed: Any
) -> None:
    make_plugin("datastore", "teststore", STORE)
    make_plugin("datastore", "other", STORE)
    text = "datastore: {plugin: teststore, path: /x}"
    assert composed(text, CALICO_DATASTORE="other").open_datastore().settings.path == "/nowhere"
    assert composed(text, CALICO_DATASTORE="teststore").open_datastore().settings.path == "/x"


def test_one_module_may_serve_several_families(make_plugin: Any, composed: Any) -> None:
    body = STORE + "    \n@hookimpl\ndef calico_validators():\n    return [Validator(name='v', check=lambda r: ())]\n"
    make_plugin("datastore", "vendor", body, also=(("extension", "vendor"),))
    composition = composed("datastore: {plugin: vendor, path: /v}\nextensions: [vendor]")
    assert len(composition.plugins.loaded) == 1
    assert composition.plugins.loaded[0].names == ["datastore:vendor", "extension:vendor"]
    assert [v.name for v in composition.validators()] == ["v"]
    assert composition.open_datastore().settings.path == "/v"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "@hookimpl\ndef calico_validators():\n    return [Validator(name='v', check=None)]\n",
            "validator 'v' is claimed",
        ),
        (
            "@hookimpl\ndef calico_cli_commands():\n    return [CliCommand(program='calico', name='c', help='', "
            "configure=None, run=None)]\n",
            "calico command 'c' is claimed",
        ),
        (
            "from calico_kernel.model.meta import Resource\nclass Thing(Resource, tag='Thing'):\n"
            "    plural = 'things'\n"
            "@hookimpl\ndef calico_resource_kinds():\n    return [Thing]\n",
            "resource kind Thing is claimed",
        ),
    ],
)
def test_extension_claimed_twice_is_refused(make_plugin: Any, composed: Any, body: str, said: str) -> None:
    make_plugin("datastore", "teststore", STORE)
    make_plugin("extension", "one", body)
    make_plugin("extension", "two", body)
    with pytest.raises(PluginError, match=said + ".*extension:one and extension:two"):
        composed("datastore: teststore\nextensions: [one, two]")


def test_factory_that_breaks_is_reported_as_the_plugins_bug(make_plugin: Any, composed: Any) -> None:
    make_plugin("datastore", "teststore", "@hookimpl\ndef calico_datastore(settings): return {}[1]")
    with pytest.raises(PluginError, match=r"datastore:teststore .* failed in calico_datastore: KeyError: 1"):
        composed("datastore: teststore").open_datastore()


def test_factory_with_a_wrong_answer_is_reported(make_plugin: Any, composed: Any) -> None:
    make_plugin("datastore", "teststore", "@hookimpl\ndef calico_datastore(settings): return 5")
    with pytest.raises(PluginError, match="answered calico_datastore with int, which is no Datastore"):
        composed("datastore: teststore").open_datastore()


def test_deliberate_error_of_a_factory_passes_unchanged(make_plugin: Any, composed: Any) -> None:
    make_plugin(
        "datastore",
        "teststore",
        "from calico_kernel.errors import UnsupportedError\n"
        "@hookimpl\ndef calico_datastore(settings): raise UnsupportedError(what='no disk', todo='add one')",
    )
    with pytest.raises(UnsupportedError, match="no disk"):
        composed("datastore: teststore").open_datastore()


def test_metrics_of_a_broken_plugin_cost_only_its_own(make_plugin: Any, composed: Any) -> None:
    make_plugin("datastore", "teststore", STORE)
    make_plugin("extension", "bad", "@hookimpl\ndef calico_metrics(services):\n    yield 1 / 0\n")
    make_plugin(
        "extension",
        "good",
        "@hookimpl\ndef calico_metrics(services):\n    yield Metric(name='m', help='', kind='gauge', value=1)\n",
    )
    composition = composed("datastore: teststore\nextensions: [bad, good]")
    assert [sample.name for sample in composition.metrics()] == ["m"]


def test_errors_are_calico_errors_that_say_what_kept_and_todo(composed: Any) -> None:
    with pytest.raises(CalicoError) as caught:
        composed("datastore: nothing-like-it")
    assert caught.value.kept == "everything is as it was" and caught.value.todo
