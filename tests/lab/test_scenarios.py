from __future__ import annotations

from pathlib import Path

import pytest

from calico_kernel.errors import ConfigError
from calico_kernel.lab import scenarios

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"


def test_shipped_recipes_each_have_a_title_a_description_and_policy() -> None:
    found = scenarios.load(RECIPES)
    assert len(found) >= 20
    for each in found:
        assert each.title != each.name
        assert len(each.description) > 40
        assert "kind: " in each.manifest or each.name == "00-no-policy"
    probed = {protocol for each in found for protocol, _ in each.services}
    assert probed == {"tcp", "udp", "sctp", "icmp"}


def test_opening_comment_gives_title_description_and_probes() -> None:
    parsed = scenarios.parse(
        "x",
        "# The title\n#\n# Some\n# text.\n#\n# probe: tcp/8080 icmp\n# places: node1 node2\nkind: Tier\n# not this\n",
    )
    assert (parsed.title, parsed.description) == ("The title", "Some text.")
    assert parsed.services == (("tcp", 8080), ("icmp", 0))
    assert parsed.nodes == ("node1", "node2")


def test_manifest_without_comment_is_named_by_its_file_and_probed_by_tcp_and_udp() -> None:
    parsed = scenarios.parse("plain", "kind: Tier\n")
    assert parsed.title == "plain"
    assert parsed.services == scenarios.DEFAULT_SERVICES


def test_directory_is_one_scenario_of_joined_files(tmp_path: Path) -> None:
    (tmp_path / "02-two").mkdir()
    (tmp_path / "02-two" / "a.yaml").write_text("# Title of two\nkind: Tier\n")
    (tmp_path / "02-two" / "b.yml").write_text("kind: NetworkPolicy\n")
    (tmp_path / "01-one.yaml").write_text("kind: Tier\n")
    (tmp_path / "README.md").write_text("not a scenario")
    found = scenarios.load(tmp_path)
    assert [each.name for each in found] == ["01-one", "02-two"]
    assert found[1].title == "Title of two"
    assert found[1].manifest.count("kind:") == 2


@pytest.mark.parametrize("word", ["tcp", "tcp/0", "udp/65536", "http/80", "icmp/8"])
def test_unknown_probe_is_refused_with_the_scenario(word: str) -> None:
    with pytest.raises(ConfigError, match=f"scenario x: cannot probe '{word}'"):
        scenarios.parse("x", f"# t\n# probe: {word}\n")


def test_only_keeps_what_is_named_and_refuses_what_nothing_is_called() -> None:
    assert [each.name for each in scenarios.load(RECIPES, only=("tier", "icmp"))] == ["21-tier-with-pass", "23-icmp"]
    with pytest.raises(ConfigError, match=r"no scenario is called nothing.*01-deny-all-to-an-app"):
        scenarios.load(RECIPES, only=("nothing",))


def test_empty_or_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no scenario"):
        scenarios.load(tmp_path)
    with pytest.raises(ConfigError, match="is not a directory"):
        scenarios.load(tmp_path / "absent")
