from __future__ import annotations

from typing import Any

import pytest

from calico_kernel.model import formats, validate
from calico_kernel.model.felix import BPFConntrackTimeouts, FelixConfigurationSpec
from calico_kernel.model.schema import Plan, fields_of
from calico_kernel.model.types import Must

OF_MAPS = {"labels", "annotations", "bpf-log-filters"}
HOSTILE = [
    "9" * 5000,
    "1:" + "9" * 5000,
    "9" * 5000 + ":1",
    "10.0.0.0/" + "9" * 5000,
    "[" + ":" * 500 + "]:" + "1" * 500,
    "m" * 5000 + "!",
    "ms" * 5000 + "!",
    "1.10." * 500,
    "a=" * 3000,
    "a=b," * 3000 + "=",
    "a-" * 3000,
    "a." * 3000 + "_",
    "\x00\n\t",
    "-",
    "%",
    "٣",
    "x" * 100_000 + "\n",
]


@pytest.mark.parametrize("name", sorted(set(formats.CHECKS) - OF_MAPS))
def test_hostile_text_is_refused_quickly_by_every_format(name: str) -> None:
    for text in HOSTILE:
        reason = formats.CHECKS[name](text)
        assert reason is None or isinstance(reason, str)
    assert any(formats.CHECKS[name](text) for text in HOSTILE) or name == "regexp"


@pytest.mark.parametrize("name", sorted(formats.CANONICAL))
def test_hostile_text_has_no_canonical_form_or_a_short_one(name: str) -> None:
    for text in HOSTILE:
        try:
            formats.CANONICAL[name](text)
        except ValueError:
            continue


def patterns() -> list[tuple[str, Must]]:
    found: list[tuple[str, Must]] = []

    def walk(name: str, plan: Plan) -> None:
        found.extend((name, must) for must in plan.musts if must.pattern)
        if plan.item is not None:
            walk(name, plan.item)

    for struct in (FelixConfigurationSpec, BPFConntrackTimeouts):
        for field in fields_of(struct).values():
            walk(field.name, field.plan)
    return found


@pytest.mark.parametrize(("name", "must"), patterns(), ids=lambda value: value if isinstance(value, str) else "")
def test_hostile_text_is_refused_quickly_by_every_pattern(name: str, must: Must) -> None:
    assert len(patterns()) >= 12
    for text in HOSTILE:
        problems: list[tuple[str, str]] = []
        validate.value_problems(text, Plan(scalars=frozenset({str}), musts=(must,)), name, problems)


@pytest.mark.parametrize(
    ("text", "good"),
    [("10s", True), ("1h30m", True), ("1.5ms", True), ("Auto", True), ("s", True), ("10", False), ("10 s", False)],
)
def test_conntrack_timeout_means_what_calicos_pattern_means(text: str, good: bool) -> None:
    plan = fields_of(BPFConntrackTimeouts)["tcpSynSent"].plan
    problems: list[tuple[str, str]] = []
    validate.value_problems(text, plan, "x", problems)
    assert (not problems) == good


VALUES: list[tuple[str, Any, bool]] = [
    ("net", "10.0.0.1", True),
    ("net", "10.0.0.1/8", False),
    ("net", "fe80::1%eth0", False),
    ("cidr", "10.0.0.1/8", True),
    ("netv4", "fd00::/8", False),
    ("ip", "10.0.0.0/8", False),
    ("ip-port", "10.0.0.1:179", True),
    ("ip-port", "[fd00::1]:179", True),
    ("ip-port", "fd00::1", True),
    ("ip-port", "10.0.0.1:", False),
    ("ip-port", "[fd00::1]", False),
    ("ip-port", "10.0.0.1:65536", False),
    ("mac", "ee:ee:ee:ee:ee:ee", True),
    ("mac", "ee-ee-ee-ee-ee-ee", True),
    ("mac", "ee:ee:ee:ee:ee", False),
    ("interface", "*", True),
    ("ignored-interface", "*", False),
    ("ignored-interface", "eth*", True),
    ("port-name", "http-2", True),
    ("port-name", "80", False),
    ("port-name", "a--b", False),
    ("community", "65535:65535", True),
    ("community", "65536:1", False),
    ("community", "4294967295:1:1", True),
    ("dscp", "AF44", False),
    ("wireguard-key", "short", False),
    ("key-value-list", "a=b, c=d,", True),
    ("bpf-log-filters", {"eth0": "tcp"}, True),
    ("bpf-log-filters", {"e h": "tcp"}, False),
]


@pytest.mark.parametrize(("name", "value", "good"), VALUES)
def test_format_takes_what_calico_takes(name: str, value: Any, good: bool) -> None:
    assert (formats.CHECKS[name](value) is None) == good
