"""What is offered while a command is typed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

TIER = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: security}\nspec: {order: 100}\n"


@pytest.mark.parametrize(
    ("words", "some"),
    [
        ([""], {"get", "apply", "ipam", "completion"}),
        (["ge"], {"get"}),
        (["--allow"], {"--allow-version-mismatch"}),
        (["-l", "debug", "ge"], {"get"}),
        (["--log-level", "in"], {"info"}),
        (["get", "globalnetworks"], {"globalnetworkset"}),
        (["get", "--all"], {"--all-namespaces", "--allow-version-mismatch"}),
        (["get", "tiers", "-o", "jsonp"], {"jsonpath=", "jsonpath-file="}),
        (["get", "tiers", "se"], {"security"}),
        (["get", "-n", "x", "tier", "security", "se"], {"security"}),
        (["ipam", "ch"], {"check"}),
        (["ipam", "mi"], {"migrate"}),
        (["node", ""], {"status", "diags", "checksystem", "run"}),
        (["node", "run", "--ip6-"], {"--ip6-autodetection-method"}),
        (["cluster", ""], {"diags"}),
        (["cluster", "diags", "--si"], {"--since"}),
        (["datastore", "migrate-"], {"migrate-policy-names"}),
        (["ipam", "show", "--show-b"], {"--show-blocks", "--show-borrowed"}),
        (["patch", "tier", "sec"], {"security"}),
        (["completion", "f"], {"fish"}),
        (["crds", "--kind", "ippo"], {"ippool"}),
        (["crds", "--group", "proj"], {"projectcalico.org/v3"}),
    ],
)
def test_words_come_from_parsers_kinds_and_store(ctl: Any, words: list[str], some: set[str]) -> None:
    ctl("apply", "-f", "-", text=TIER)
    ran = ctl("completion", "words", "--", *words)
    assert ran.status == 0 and ran.err == ""
    found = set(ran.out.split())
    assert some <= found and all(word.startswith(words[-1]) for word in found)


@pytest.mark.parametrize("words", [["apply", "-f", ""], ["nonsense", ""], ["get", "wall", "x"], ["-c", "/et"]])
def test_nothing_is_offered_where_files_or_nothing_belong(ctl: Any, words: list[str]) -> None:
    assert ctl("completion", "words", "--", *words) == (0, "", "")


def test_unreachable_store_leaves_commands_and_kinds(ctl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALICO_CONFIG", "/nowhere.yaml")
    assert ctl("completion", "words", "--", "get", "tie") == (0, "tier\n", "")
    assert ctl("completion", "words", "--", "get", "tier", "s") == (0, "", "")


def test_every_program_writes_a_script_for_each_shell(ctl: Any, q: Any, calico_program: Any, tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        for run, name in ((ctl, "calicoctl"), (q, "calicoq"), (calico_program, "calico")):
            script = run("completion", shell).out
            assert f"{name} completion words --" in script
            if shutil.which(shell):
                (tmp_path / "script").write_text(script)
                subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)
    assert "plugins" in calico_program("completion", "words", "--", "").out.split()


def test_nodes_and_policies_are_offered_to_queries(ctl: Any, q: Any) -> None:
    named = TIER.replace("Tier", "GlobalNetworkPolicy").replace("{order: 100}", "{selector: all()}")
    placed = named.replace("Global", "").replace("{name: security}", "{name: web, namespace: shop}")
    node = TIER.replace("Tier", "Node").replace("{order: 100}", "{}").replace("security", "n1")
    assert ctl("apply", "-f", "-", text="---\n".join((named, placed, node))).status == 0
    assert q("completion", "words", "--", "policy", "").out.split() == ["security", "shop/web"]
    assert q("completion", "words", "--", "host", "").out.split() == ["n1"]
    assert "--hide-rule-matches" in q("completion", "words", "--", "endpoint", "--hide").out.split()


def test_bash_completes_by_the_script(ctl: Any, config: Path, tmp_path: Path) -> None:
    script = ctl("completion", "bash").out
    stub = "calicoctl() { printf '%s\\n' \"$#\" \"$*\" 'get two'; }\n"
    ask = "COMP_WORDS=(calicoctl -n 'a b' ge); COMP_CWORD=3; _calicoctl; printf '<%s>' \"${COMPREPLY[@]}\""
    done = subprocess.run(["bash", "-c", stub + script + ask], capture_output=True, text=True, check=True)
    assert done.stdout == "<6><completion><words><--><-n><a b><ge><get two>"
