"""The commands of ``calicoq``: ``endpoint``, ``eval``, ``host`` and ``policy``.

In:    what is asked about; the stored resources, or with ``-f`` those of manifests alone (no datastore is opened).
Out:   text as users of ``calicoq`` know it, YAML or JSON. Status 0, also when nothing matches.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from calico_kernel.cli.output import visible

if TYPE_CHECKING:
    from calico_kernel.cli.related import Related, Subject, Wanted
    from calico_kernel.cli.session import Session


def configure(name: str, parser: argparse.ArgumentParser) -> None:
    if name == "endpoint":
        parser.add_argument("substring", help="part of NODE/ORCHESTRATOR/NAMESPACE.WORKLOAD/ENDPOINT, or of NODE/NAME")
    elif name == "eval":
        parser.add_argument("selector", help="e.g. \"app == 'web' && has(tier)\"")
    elif name == "host":
        parser.add_argument("node", metavar="NODE", help="name of a node")
    else:
        parser.add_argument("policy", metavar="POLICY", help="NAMESPACE/NAME, or NAME of a global policy; staged:...")
    if name != "eval":
        parser.add_argument(
            "-r", "--hide-rule-matches", action="store_true", help="leave out what the selectors of rules match"
        )
        parser.add_argument("-s", "--hide-selectors", action="store_true", help="leave out the selectors")
    parser.add_argument("-f", "--filename", help="ask these manifests instead of what is stored; file or directory")
    parser.add_argument("-R", "--recursive", action="store_true", help="go into directories below")
    if name in {"endpoint", "host"}:
        parser.add_argument("--staged", action="store_true", help="show staged policies too, marked as such")
    parser.add_argument("-o", "--output", choices=["ps", "yaml", "json"], default="ps", help="default: ps")


def run(name: str, args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli import querytext
    from calico_kernel.cli.output import json_text, yaml_text

    answer = {"endpoint": _endpoints, "host": _host, "policy": _policy, "eval": _eval}[name](args, session)
    if args.output == "ps":
        sys.stdout.writelines(querytext.text(answer))
    else:
        answer = {name: list(value) if name == "endpoints" else value for name, value in answer.items()}
        sys.stdout.write(json_text(answer) + "\n" if args.output == "json" else yaml_text(answer))
    return 0


def _eval(args: argparse.Namespace, session: Session) -> dict[str, Any]:
    from calico_kernel.cli import querytext
    from calico_kernel.cli.common import Refused
    from calico_kernel.selector import SelectorError, parse

    try:
        selector = parse(args.selector)
    except SelectorError as exc:
        raise Refused(f"{args.selector!r} is not a selector: {exc.what}") from exc
    related = _related(args, session, lambda _: True, policies=False)
    return {
        "description": f"Endpoints matching selector {args.selector}",
        "endpoints": [querytext.subject(one) for one in related.matching(selector)],
    }


def _endpoints(args: argparse.Namespace, session: Session) -> dict[str, Any]:
    asked = args.substring

    def wanted(subject: Subject) -> bool:
        """In the full id, in the same with ``NAMESPACE/WORKLOAD``, or in the name of the resource."""
        if not subject.node:
            return False
        dotted = f"/{subject.namespace}."
        return (
            asked in subject.id
            or asked in subject.id.replace(dotted, dotted[:-1] + "/", 1)
            or asked in f"{subject.namespace}/{subject.name}"
        )

    related = _related(args, session, wanted)
    return _described(f'Policies and profiles for endpoints matching "{asked}"', related, args)


def _host(args: argparse.Namespace, session: Session) -> dict[str, Any]:
    related = _related(args, session, lambda subject: subject.node == args.node)
    if args.node not in related.nodes:
        from calico_kernel.config.source import did_you_mean

        near = did_you_mean(args.node, {node: "" for node in related.nodes if node})
        print(visible(f"no endpoint is on a node {args.node!r}{near}"), file=sys.stderr)
    return _described(f'Policies and profiles for each endpoint on host "{args.node}"', related, args, short=True)


def _described(description: str, related: Related, args: argparse.Namespace, *, short: bool = False) -> dict[str, Any]:
    from calico_kernel.cli.querytext import Endpoints

    endpoints = Endpoints(related, short=short, hide_selectors=args.hide_selectors, hide_matches=args.hide_rule_matches)
    return {"description": description, "endpoints": endpoints}


def _policy(args: argparse.Namespace, session: Session) -> dict[str, Any]:
    from calico_kernel.cli import querytext
    from calico_kernel.cli.common import Refused

    related = _related(args, session, lambda _: True, staged=args.policy.startswith("staged:"))
    policy = related.named(args.policy)
    if policy is None:
        raise Refused(f"there is no policy {args.policy!r}{_meant(args.policy, related)}")
    return querytext.policy(policy, related, args.hide_selectors, hide_matches=args.hide_rule_matches)


def _meant(asked: str, related: Related) -> str:
    """The same name elsewhere, else a similar one."""
    from calico_kernel.config.source import did_you_mean

    titles = [policy.named.title for _, policy in related.policies()]
    short = asked.rpartition("/")[2]
    same = [title for title in titles if title.rpartition("/")[2] == short][:3]
    return f"; there is {', '.join(same)}" if same else did_you_mean(asked, dict.fromkeys(titles, ""))


def _related(
    args: argparse.Namespace, session: Session, wanted: Wanted, *, policies: bool = True, staged: bool = False
) -> Related:
    from calico_kernel.cli.related import KINDS, POLICIES, STAGED, Related
    from calico_kernel.cli.sources import offline, stored

    kinds: Iterable[str] = (*KINDS, *STAGED) if staged or getattr(args, "staged", False) else KINDS
    if not policies:
        kinds = [kind for kind in kinds if kind not in POLICIES and kind != "Tier"]
    if args.filename:
        session.plugins_or_none()
        found = offline(args.filename, recursive=args.recursive)
        related = Related((one for one in found if one.kind in kinds), wanted)
    else:
        related = Related(stored(session.composition, kinds), wanted)
    for subject, reason in related.rejected:
        print(visible(f"{subject} counts as absent: {reason}"), file=sys.stderr)
    return related
