"""The configuration file and its variables: what is read, and what every mistake is answered with."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from calico_kernel.config import Config, load
from calico_kernel.errors import ConfigError


def read(tmp_path: Path, text: str, **environment: str) -> Config:
    path = tmp_path / "calico.yaml"
    path.write_text(text)
    return load(str(path), environment)


WHOLE = """\
node: worker-1
datastore: {plugin: sqlite, path: /var/lib/calico/calico.db}
ipam: blocks
dataplane: iptables
encapsulation:
  - plugin: vxlan
    port: 4790
  - other
routing: []
extensions: [cni]
agent:
  health_port: 9000
  log_format: text
"""


def test_every_shape_is_read_with_its_lines(tmp_path: Path) -> None:
    config = read(tmp_path, WHOLE)
    assert config.node == "worker-1"
    assert [choice.name for choice in config.plugins] == [
        "datastore:sqlite",
        "ipam:blocks",
        "dataplane:iptables",
        "encapsulation:vxlan",
        "encapsulation:other",
        "extension:cni",
    ]
    assert [choice.origin.line for choice in config.plugins] == [2, 3, 4, 6, 8, 10]
    assert config.plugins[3].settings.plain() == {"port": 4790}
    assert config.plugins[3].settings.at(["port"]).line == 7
    assert (config.agent.health_port, config.agent.log_format) == (9000, "text")
    assert str(config.origins["agent.health_port"]).endswith("calico.yaml:12")
    assert config.origins["agent.metrics_port"].kind == "default"


def test_no_file_and_no_variables_give_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calico_kernel.config.reading.DEFAULT_PATH", str(tmp_path / "absent.yaml"))
    config = load(None, {})
    assert config.path == ""
    assert [choice.name for choice in config.plugins] == ["datastore:sqlite", "ipam:blocks"]
    assert config.agent.socket_path == "/var/run/calico/agent.sock"
    assert config.node


def test_file_named_by_variable_is_used_and_must_exist(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("node: here")
    assert load(None, {"CALICO_CONFIG": str(tmp_path / "c.yaml")}).node == "here"
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load(None, {"CALICO_CONFIG": str(tmp_path / "d.yaml")})


def test_variables_win_over_the_file_and_say_so(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        WHOLE,
        CALICO_NODE="n2",
        CALICO_DATASTORE_PATH="/x.db",
        CALICO_ENCAPSULATION="vxlan, third",
        CALICO_ENCAPSULATION_VXLAN_PORT="5000",
        CALICO_EXTENSIONS="",
        CALICO_DATAPLANE="none",
        CALICO_AGENT_HEALTH_PORT="9100",
        CALICO_AGENT_RETRY_MAX_S="2.5",
        OTHER="ignored",
    )
    assert config.node == "n2"
    assert [choice.name for choice in config.plugins] == [
        "datastore:sqlite",
        "ipam:blocks",
        "encapsulation:vxlan",
        "encapsulation:third",
    ]
    assert config.plugins[0].variables == {"CALICO_DATASTORE_PATH": "/x.db"}
    assert config.plugins[2].variables == {"CALICO_ENCAPSULATION_VXLAN_PORT": "5000"}
    assert config.plugins[2].settings.plain() == {"port": 4790}
    assert (config.agent.health_port, config.agent.retry_max_s) == (9100, 2.5)
    assert str(config.origins["agent.health_port"]) == "environment CALICO_AGENT_HEALTH_PORT"


def test_variable_belongs_to_the_plugin_with_the_longest_name(tmp_path: Path) -> None:
    config = read(tmp_path, "extensions: [a, a-b]", CALICO_EXTENSIONS_A_B_X="1", CALICO_EXTENSIONS_A_Y="2")
    owned = {choice.word: dict(choice.variables) for choice in config.chosen("extension")}
    assert owned == {"a": {"CALICO_EXTENSIONS_A_Y": "2"}, "a-b": {"CALICO_EXTENSIONS_A_B_X": "1"}}


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("datastor: sqlite", 1, "unknown key 'datastor'; did you mean 'datastore'?"),
        ("node: a\nnode: b", 2, "key 'node' is given twice, first in line 1"),
        ("agent:\n  health_port: 1\n  health_port: 2", 3, "key 'health_port' is given twice"),
        ("node: a\n\tbad", 2, "is not readable YAML"),
        ("node: [a", 2, "is not readable YAML"),
        ("- a\n- b", 1, "a mapping of settings was expected, found"),
        ("node: 7", 1, "node is 7"),
        ("node: Upper", 1, "node is 'Upper'"),
        ("node: a/b", 1, "node is 'a/b'"),
        ("agent:\n  helth_port: 1", 2, "agent has no setting 'helth_port'; did you mean 'health_port'?"),
        ("agent:\n  health_port: many", 2, "agent.health_port is 'many': Expected `int`"),
        ("agent:\n  health_port: 70000", 2, "agent.health_port is 70000: Expected `int` <= 65535"),
        ("agent:\n\n  log_level: loud", 3, "agent.log_level is 'loud': Invalid enum value"),
        ("agent: 5", 1, "agent must be a mapping of settings, found 5"),
        ("encapsulation: vxlan", 1, "encapsulation must be a list, found 'vxlan'"),
        ("encapsulation:\n- vxlan\n- vxlan", 3, "encapsulation names 'vxlan' twice"),
        ("datastore: {path: /x}", 1, "datastore does not say which plugin"),
        ("datastore: {plugn: sqlite}", 1, "is 'plugn' meant as 'plugin'?"),
        ("datastore: [sqlite]", 1, "datastore must name a plugin"),
        ("datastore:\n  plugin: 5", 2, "datastore must name a plugin, found 5"),
        ("a: &a\n  b: *a", 1, "an anchor contains itself"),
        ("? [x]\n: y", 1, "a key must be plain text"),
    ],
)
def test_mistake_names_file_line_key_and_what_was_found(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)
    assert f"{tmp_path}/calico.yaml:{line}" in str(caught.value)
    assert caught.value.todo


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"CALICO_AGENT_HELTH_PORT": "1"},
            "environment CALICO_AGENT_HELTH_PORT: agent has no setting 'helth_port'; did",
        ),
        ({"CALICO_AGENT_HEALTH_PORT": "x"}, "environment CALICO_AGENT_HEALTH_PORT: agent.health_port is 'x'"),
        ({"CALICO_DATAPLANE_CHAINS": "1"}, "environment CALICO_DATAPLANE_CHAINS: no plugin that reads it is chosen"),
        ({"CALICO_NODE": ""}, "environment CALICO_NODE: node is ''"),
        ({"CALICO_DATASTOR_PATH": "/x"}, "environment CALICO_DATASTOR_PATH: there is no key 'DATASTOR'; did you mean"),
        ({"CALICO_EXTENSION_CNI_MTU": "1"}, "there is no key 'EXTENSION'; did you mean 'EXTENSIONS'?"),
    ],
)
def test_variable_that_nothing_reads_or_that_is_wrong_is_refused(
    tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "node: n", **environment)
    assert said in str(caught.value)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(str(tmp_path / "b.yaml"), {})


@pytest.mark.parametrize(
    "variable", ["CALICO_TYPHA_SERVICE_HOST", "CALICO_NETWORKING_BACKEND", "CALICO_IPV4POOL_CIDR", "CALICO_ROUTER_ID"]
)
def test_a_variable_of_somebody_else_is_left_alone(tmp_path: Path, variable: str) -> None:
    assert read(tmp_path, "node: n", **{variable: "x"}).node == "n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dataplane: [iptables]", "dataplane must name a plugin, found ['iptables']"),
        ("ipam: {plugin: {a: b}}", "ipam must name a plugin, found {'a': 'b'}"),
        ("node: [a]", "node is ['a']"),
    ],
)
def test_a_wrong_shape_is_shown_as_it_was_written(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert said in caught.value.what


MULTIPLIES = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]\n" for below, name in itertools.pairwise("abcdefghi")
)


@pytest.mark.parametrize("text", ["a: " + "[" * 100_000, "- " * 10_000, MULTIPLIES])
def test_a_text_that_stands_for_too_much_is_refused_at_once(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"more than 100000 values, or nested more than 64 deep"):
        read(tmp_path, text)
