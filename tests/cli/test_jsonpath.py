"""JSONPath templates, on their own and in ``calicoctl get``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calico_kernel.cli.jsonpath import TemplateError, compiled

VALUE = {
    "kind": "TierList",
    "items": [
        {"metadata": {"name": "a", "labels": {"x.y/z": "1"}}, "spec": {"order": 5, "types": ["I", "E"]}},
        {"metadata": {"name": "b"}, "spec": {"order": 20, "open": True}},
        {"metadata": {"name": "c}"}, "spec": {"note": "a == b", "none": None}},
    ],
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{.kind}", "TierList"),
        ("{ $.kind }!", "TierList!"),
        ("{.items[*].metadata.name}", "a b c}"),
        ("{.items[0].metadata.name}{.items[-1].metadata.name}{.items[7].metadata.name}", "ac}"),
        ("{.items[0:2].metadata.name}", "a b"),
        ("{.items[::2].metadata.name}", "a c}"),
        ("{.items[0,2].metadata.name}", "a c}"),
        (r"{.items[0].metadata.labels.x\.y/z}", "1"),
        ("{.items[0].metadata['name','labels']}", 'a {"x.y/z":"1"}'),
        ('{.items[0]["metadata"]["name"]}', "a"),
        ("{..name}", "a b c}"),
        ("{.items[0].spec.*}", '5 ["I","E"]'),
        ("{.items[1].spec.open}", "true"),
        ("{.items[2].spec.none}{.nothing.at.all}", ""),
        ("{.items[?(@.spec.order > 10)].metadata.name}", "b"),
        ("{.items[?(@.spec.open)].metadata.name}", "b"),
        ("{.items[?(@.spec.open == true)].metadata.name}", "b"),
        ("{.items[?(@.metadata.name == 'c}')].spec.note}", "a == b"),
        ('{.items[?(@.spec.note=="a == b")].metadata.name}', "c}"),
        ("{.items[?(@.spec.types[0] != 'E')].metadata.name}", "a"),
        ("{.items[0].spec.types[?(@ == 'E')]}", "E"),
        ('{range .items[*]}{.metadata.name}{"\\t"}{.spec.order}{"\\n"}{end}.', "a\t5\nb\t20\nc}\t\n."),
        ("{range .items[0:1]}{range .spec.types[*]}{@}{$.kind};{end}{end}", "ITierList;ETierList;"),
    ],
)
def test_template_gives_what_kubectl_would(template: str, text: str) -> None:
    assert compiled(template)(VALUE) == text


@pytest.mark.parametrize(
    "template",
    ["{.a", "{end}", "{range .a}", "{a.b}", "{.a[}", "{.a[x]}", "{.a['b',1]}", "{.a b}", "{.a[?(b)]}", "{..}", "{}"],
)
def test_template_that_cannot_be_read_is_refused(template: str) -> None:
    with pytest.raises(TemplateError):
        compiled(template)


TIERS = "".join(
    f"---\napiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {{name: {name}}}\nspec: {{order: {order}}}\n"
    for name, order in (("one", 1), ("two", 2))
)


def test_get_writes_by_template_from_argument_and_file(ctl: Any, tmp_path: Path) -> None:
    ctl("apply", "-f", "-", text=TIERS)
    (tmp_path / "t").write_text("{range .items[*]}{.metadata.name}={.spec.order} {end}")
    ran = ctl("get", "tiers", "-o", f"jsonpath-file={tmp_path}/t")
    assert ran.status == 0 and ran.out.startswith("one=1 two=2 ")
    assert ctl("get", "tier", "two", "-o", "jsonpath={.metadata.name}") == (0, "two", "")


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("jsonpath={.a", "error parsing jsonpath {.a: '{.a' is not closed by '}'"),
        ("jsonpath=", "unrecognized output format 'jsonpath='"),
        ("jsonpath-file=/nowhere", "No such file"),
        ("go-template={{.}}", "Go templates are not offered: -o jsonpath="),
    ],
)
def test_output_that_cannot_be_followed_is_refused(ctl: Any, output: str, said: str) -> None:
    ran = ctl("get", "tiers", "-o", output)
    assert ran.status == 1 and said in ran.err and not ran.out
