"""How ``calicoq`` says what it found.

In:    what ``calico_kernel.cli.related`` found.
Out:   plain values for JSON and YAML, and from those the text that users of ``calicoq`` know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import TYPE_CHECKING, Any

from calico_kernel.cli.kindtables import go
from calico_kernel.cli.output import visible

if TYPE_CHECKING:
    from calico_kernel.cli.related import Governing, Named, Policy, Reference, Related, Subject

Data = dict[str, Any]

TITLES = {
    "WorkloadEndpoint": "Workload endpoint",
    "HostEndpoint": "Host endpoint",
    "NetworkSet": "Network set",
    "GlobalNetworkSet": "Global network set",
}


# ── plain values ──────────────────────────────────────────────────────────────────────────────────────────────────────


def subject(one: Subject, *, short: bool = False) -> Data:
    """``short``: by its id without the node."""
    return {
        "kind": one.kind,
        **({"namespace": one.namespace} if one.namespace else {}),
        "name": one.name,
        **({"node": one.node} if one.node else {}),
        "id": one.path if short else one.id,
    }


class Endpoints:
    """Endpoints one after the other, each as plain values. What is said of a rule or policy is made once and shared:
    in a large cluster it is said a million times."""

    def __init__(self, related: Related, *, short: bool, hide_selectors: bool, hide_matches: bool) -> None:
        self._related = related
        self._short, self._hide_selectors, self._hide_matches = short, hide_selectors, hide_matches
        self._said: dict[int, Data] = {}

    def __iter__(self) -> Iterator[Data]:
        related = self._related
        every = repeat([]) if self._hide_matches else related.references()
        for one, governing, references in zip(related.subjects, related.governing(), every, strict=False):
            made = subject(one, short=self._short)
            made["policies"] = [_governing(each, self._hide_selectors) for each in governing]
            made["profiles"] = [
                {"name": name, **({} if name in related.profiles else {"missing": True})} for name in one.profiles
            ]
            if not self._hide_matches:
                made["ruleMatches"] = [self._said.get(id(each)) or self._say(each) for each in references]
            yield made

    def _say(self, reference: Reference) -> Data:
        said = self._said[id(reference)] = {**_named(reference.by), **_reference(reference, self._hide_selectors)}
        return said


def _governing(one: Governing, hide_selectors: bool) -> Data:
    effective = one.policy.effective
    made: Data = {
        **_named(one.policy.named),
        **({} if one.tier.order is None else {"tierOrder": _number(one.tier.order)}),
        **({} if one.tier.stored else {"tierMissing": True}),
        **({} if effective.order == float("inf") else {"order": _number(effective.order)}),
        **({} if hide_selectors else {"selector": one.policy.text}),
        "types": [name for name, governs in (("Ingress", effective.ingress), ("Egress", effective.egress)) if governs],
        "hooks": list(one.hooks),
    }
    if effective.failed:
        made["denies"] = effective.failed
    return made


def policy(one: Policy, related: Related, hide_selectors: bool, *, hide_matches: bool) -> Data:
    """The endpoints that a policy governs and those that its rules name."""
    from calico_kernel.cli.related import hooks_at

    selector = {} if hide_selectors else {"selector": one.text}
    made: Data = {
        "policy": _named(one.named),
        "appliesTo": [
            {**subject(each), **selector}
            for each in related.matching(one.effective.selector)
            if hooks_at(one.effective, each)
        ],
    }
    if one.effective.failed:
        made["denies"] = one.effective.failed
    if not hide_matches:
        places: dict[int, list[Reference]] = {}
        for reference in one.references:
            for place in related.places(reference.selector):
                places.setdefault(place, []).append(reference)
        made["ruleMatches"] = [
            {
                **subject(related.subjects[place]),
                "matches": [_reference(each, hide_selectors) for each in places[place]],
            }
            for place in sorted(places)
        ]
    return made


def _named(one: Named) -> Data:
    return {
        "kind": one.kind,
        **({"namespace": one.namespace} if one.namespace else {}),
        "name": one.name,
        **({"tier": one.tier} if one.tier else {}),
        **({"staged": True} if one.staged else {}),
    }


def _reference(one: Reference, hide_selectors: bool) -> Data:
    return {
        "direction": one.direction,
        "rule": one.rule,
        "side": one.side,
        **({"excludes": True} if one.excludes else {}),
        **({} if hide_selectors else {"selector": one.text}),
    }


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value


# ── text ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def text(answer: Data) -> Iterator[str]:
    """Piece by piece, each with whole lines."""
    lines = _of_policy(answer) if "policy" in answer else _of_endpoints(answer)
    return (f"{visible(line)}\n" for line in lines)


def _of_endpoints(answer: Data) -> Iterator[str]:
    yield f"{answer['description']}:"
    matches: dict[int, str] = {}
    """Of the values that endpoints share, by identity."""
    for one in answer["endpoints"]:
        if "policies" not in one:
            yield f"  {_subject_text(one)}"
            continue
        lines = ["", _subject_text(one), "  Policies:"]
        lines += [f"    {_policy_text(each)}" for each in one["policies"]]
        lines.append("  Profiles:")
        for each in one["profiles"]:
            missing = " [does not exist: denies]" if "missing" in each else ""
            lines.append(f'    Profile "{each["name"]}"{missing}')
        if one.get("ruleMatches"):
            lines.append("  Rule matches:")
            for each in one["ruleMatches"]:
                said = matches.get(id(each))
                if said is None:
                    said = matches[id(each)] = f"    {_title(each)} {_match_text(each)}"
                lines.append(said)
        yield "\n".join(lines)


def _policy_text(one: Data) -> str:
    tier = _title(one)
    said = [f"order {go(one['order'])}" if "order" in one else "order default"]
    if "selector" in one:
        said.append(f'selector "{one["selector"]}"')
    marks = [hook for hook in one["hooks"] if hook in ("untracked", "pre-DNAT", "forward")]
    marks += ["staged"] if "staged" in one else []
    marks += ["its tier does not exist"] if "tierMissing" in one else []
    marks += [f"denies: {one['denies']}"] if "denies" in one else []
    return f"{tier} ({'; '.join(said)})" + "".join(f" [{mark}]" for mark in marks)


def _of_policy(answer: Data) -> Iterator[str]:
    title = _title(answer["policy"])
    yield f"{title} applies to these endpoints:"
    if "denies" in answer:
        yield f"  It denies all that it governs, for a rule cannot be understood: {answer['denies']}"
    for one in answer["appliesTo"]:
        yield f"  {_subject_text(one)}" + (f'; selector "{one["selector"]}"' if "selector" in one else "")
    if "ruleMatches" in answer:
        yield ""
        yield f"Endpoints matching {title} rules:"
        for one in answer["ruleMatches"]:
            yield f"  {_subject_text(one)}"
            yield from (f"    {_match_text(match)}" for match in one["matches"])


def _subject_text(one: Mapping[str, Any]) -> str:
    return f"{TITLES[one['kind']]} {one['id']}"


def _title(one: Mapping[str, Any]) -> str:
    """A policy of the default tier goes without it."""
    if one["kind"] == "Profile":
        return f'Profile "{one["name"]}"'
    tier = f'Tier "{one["tier"]}" ' if one["tier"] != "default" else ""
    place = f"{one['namespace']}/" if "namespace" in one else ""
    return f'{tier}Policy "{"staged:" if "staged" in one else ""}{place}{one["name"]}"'


def _match_text(one: Mapping[str, Any]) -> str:
    how = "exclusion" if "excludes" in one else "match"
    selector = f'; selector "{one["selector"]}"' if "selector" in one else ""
    return f"{one['direction']} rule {one['rule']} {one['side']} {how}{selector}"
