"""What this node should enforce: deltas in, desired chains of one family out.

In:   ``Delta`` (by way of the driver).   Out: ``set_chain`` and ``set_hooks`` on the family's tables.
Owns: nothing outside memory. Cost follows the change: a policy renders its own chains, a list its own, a workload one
line of dispatch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import attrs

from calico_dp_iptables import names
from calico_dp_iptables import rules as r
from calico_dp_iptables import static_chains as static
from calico_dp_iptables.endpoint_chains import (
    Chains,
    EndpointChains,
    dispatch,
    failsafe_chains,
    mark_chains,
)
from calico_dp_iptables.options import Options
from calico_dp_iptables.policy_rules import Renderer
from calico_dp_iptables.rules import Rule, rule
from calico_dp_iptables.static_chains import Needs, StaticChains
from calico_dp_iptables.table import Table
from calico_kernel.model.nodestate import (
    ActivePolicy,
    ActiveProfile,
    LocalHostEndpoint,
    LocalWorkload,
    PolicyId,
    PolicyList,
    WorkloadEndpointId,
)

TABLES = ("raw", "mangle", "nat", "filter")


@attrs.define
class State:
    """The desired state of the node, both families. Changed by the driver only."""

    options: Options = attrs.field(factory=lambda: Options.from_config(None))
    policies: dict[PolicyId, ActivePolicy] = attrs.field(factory=dict)
    profiles: dict[str, ActiveProfile] = attrs.field(factory=dict)
    workloads: dict[WorkloadEndpointId, LocalWorkload] = attrs.field(factory=dict)
    host_endpoints: dict[str, LocalHostEndpoint] = attrs.field(factory=dict)
    needs: dict[int, Needs] = attrs.field(factory=lambda: {4: Needs(), 6: Needs()})
    host_interfaces: Mapping[str, Sequence[str]] = attrs.field(factory=dict)
    """For host endpoints that name addresses instead of an interface: endpoint -> interfaces that have one of them."""


class Family:
    """Desired chains of one family."""

    def __init__(self, version: int, state: State) -> None:
        self.version = version
        self.state = state
        self.tables = {name: Table(name) for name in TABLES}
        self.lacking: frozenset[str] = frozenset()
        self.lacks: dict[str, list[str]] = {}
        self.drop: r.Target = r.DROP
        self._lists: Counter[PolicyList] = Counter()
        self._digests: dict[PolicyList, str] = {}
        self._left: list[PolicyList] = []
        self._list_of: dict[WorkloadEndpointId, PolicyList] = {}
        self._list_chains: dict[PolicyList, set[str]] = {}
        self._run_users: Counter[str] = Counter()
        self._owned: dict[str, set[tuple[str, str]]] = {}

    # ── rendering ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _deny(self) -> r.Target:
        rejects = self.state.options.deny == "reject" and self.drop == r.DROP
        return r.Reject() if rejects and "target REJECT" not in self.lacking else self.drop

    def _renderer(self, *, early: bool) -> Renderer:
        """``early``: raw or mangle, where a packet can only be dropped."""
        options = self.state.options
        return Renderer(
            version=self.version,
            marks=options.marks,
            deny=self.drop if early else self._deny(),
            lacking=self.lacking,
            log_prefix=options.log_prefix,
            log_rate=options.log_rate,
            log_burst=options.log_burst,
        )

    def _endpoint_chains(self, *, early: bool = False) -> EndpointChains:
        return EndpointChains(
            version=self.version, options=self.state.options, deny=self.drop if early else self._deny()
        )

    def render_all(self) -> None:
        """Everything anew: options or the host's capabilities changed."""
        for policy in self.state.policies.values():
            self.policy(policy)
        for name, profile in self.state.profiles.items():
            self.profile(name, profile)
        for listed in list(self._lists):
            self._render_list(listed, anew=True)
        self.render_dispatch()
        self.render_static()
        self.render_host_endpoints()

    def policy(self, policy: ActivePolicy) -> None:
        table = "raw" if policy.untracked else "mangle" if policy.pre_dnat else "filter"
        renderer = self._renderer(early=table != "filter")
        made: Chains = {}
        said: list[str] = []
        for inbound, parsed in ((True, policy.inbound), (False, policy.outbound)):
            chain, lacks = renderer.chain(parsed, owner=policy.id, tier=policy.tier)
            made[names.policy_chain(policy.id, inbound=inbound)] = chain
            said += lacks
        self._put(f"policy {policy.id}", table, made)
        self._note_lacks(str(policy.id), said)

    def policy_gone(self, policy: PolicyId) -> None:
        self._drop_owned(f"policy {policy}")
        self._note_lacks(str(policy), [])

    def profile(self, name: str, profile: ActiveProfile) -> None:
        renderer = self._renderer(early=False)
        inbound, said_in = renderer.chain(profile.inbound, owner=name)
        outbound, said_out = renderer.chain(profile.outbound, owner=name)
        made = {
            names.profile_chain(name, inbound=True): inbound,
            names.profile_chain(name, inbound=False): outbound,
        }
        self._put(f"profile {name}", "filter", made)
        self._note_lacks(f"profile {name}", [*said_in, *said_out])

    def profile_gone(self, name: str) -> None:
        self._drop_owned(f"profile {name}")
        self._note_lacks(f"profile {name}", [])

    def _note_lacks(self, subject: str, said: list[str]) -> None:
        if said:
            self.lacks[subject] = said
        else:
            self.lacks.pop(subject, None)

    # ── workloads ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def workload(self, workload: LocalWorkload) -> None:
        """Counts its list; the caller renders the dispatch once for all."""
        old = self._list_of.get(workload.id)
        if old is workload.policies or (hash(old) == hash(workload.policies) and old == workload.policies):
            return  # lists are long and keep their hash, so unequal ones are told apart at once
        self._list_of[workload.id] = workload.policies
        self._lists[workload.policies] += 1
        if self._lists[workload.policies] == 1:
            self._render_list(workload.policies)
        if old is not None:
            self._left.append(old)

    def workload_gone(self, workload: WorkloadEndpointId) -> None:
        old = self._list_of.pop(workload, None)
        if old is not None:
            self._left.append(old)

    def _render_list(self, listed: PolicyList, *, anew: bool = False) -> None:
        chains = self._endpoint_chains()
        if not anew:
            chains = attrs.evolve(chains, known=self._run_users)
        digest = self._digests.get(listed)
        if digest is None:
            digest = self._digests[listed] = names.list_digest(listed)
        made = {
            **chains.workload(listed, digest, to_workload=True),
            **chains.workload(listed, digest, to_workload=False),
        }
        old = self._list_chains.get(listed, set())
        self._list_chains[listed] = set(made)
        for name in made:
            if name not in old:
                self._run_users[name] += 1
        for name, content in made.items():
            if content:
                self.tables["filter"].set_chain(name, self._able(content))
        self._release_chains(old - made.keys())

    def _release_list(self, listed: PolicyList) -> None:
        self._lists[listed] -= 1
        if not self._lists[listed]:
            del self._lists[listed], self._digests[listed]
            self._release_chains(self._list_chains.pop(listed, set()))

    def _release_chains(self, gone: Iterable[str]) -> None:
        for name in gone:
            self._run_users[name] -= 1
            if not self._run_users[name]:
                del self._run_users[name]
                self.tables["filter"].remove_chain(name)

    def render_dispatch(self) -> None:
        to_workload: dict[str, str] = {}
        from_workload: dict[str, str] = {}
        spoofing: list[Rule] = []
        unknown = (rule(self._deny(), note="Unknown interface"),)
        for workload in self.state.workloads.values():
            if not (workload.active and names.is_usable_interface(workload.interface)):
                continue  # falls to the end of the dispatch, which denies
            digest = self._digests[workload.policies]
            to_workload[workload.interface] = names.workload_chain(digest, to_workload=True)
            from_workload[workload.interface] = names.workload_chain(digest, to_workload=False)
            for prefix in workload.spoofable_prefixes:
                if (6 if ":" in prefix else 4) == self.version:
                    spoofing.append(rule(r.Interface(True, workload.interface), r.Net(True, prefix), r.ACCEPT))
        made = {
            **dispatch(static.TO_WORKLOAD, to_workload, incoming=False, end=unknown, marker="cali-to-wl"),
            **dispatch(static.FROM_WORKLOAD, from_workload, incoming=True, end=unknown, marker="cali-from-wl"),
        }
        self._put("workload dispatch", "filter", made)
        spoofing.sort(key=lambda item: item.text())
        self._put("spoofing", "raw", {static.RPF_SKIP: spoofing, static.SOURCE_CHECK: self._source_check()})
        self._put("spoofing", "filter", {static.SOURCE_CHECK: self._source_check()})
        self._put("floating", "nat", self._floating())
        for listed in self._left:  # not before the dispatch leads elsewhere: chains they share stay untouched
            self._release_list(listed)
        self._left.clear()

    def _source_check(self) -> list[Rule]:
        """For a host without the reverse path match or the raw table: each workload's own addresses, by interface."""
        if self.lacking.isdisjoint(("match rpfilter", "table raw")):
            return []
        own = [
            rule(r.Interface(True, workload.interface), r.Net(True, address), r.RETURN)
            for workload in sorted(self.state.workloads.values(), key=lambda item: item.id)
            if workload.active and names.is_usable_interface(workload.interface)
            for address in (*workload.addresses, *workload.spoofable_prefixes)
            if (6 if ":" in address else 4) == self.version
        ]
        if self.version == 6:
            own += [rule(r.Net(True, net), r.RETURN) for net in ("fe80::/10", "::/128")]  # to find neighbours
        return [*own, rule(self.drop, note="Forged source address")]

    def _floating(self) -> Chains:
        dnat: list[Rule] = []
        snat: list[Rule] = []
        for workload in sorted(self.state.workloads.values(), key=lambda item: item.id):
            for pair in workload.nats:
                if (6 if ":" in pair.internal else 4) != self.version:
                    continue
                dnat.append(rule(r.Net(False, pair.external), r.DestinationNat(pair.internal)))
                hairpin = (r.Net(True, pair.internal), r.Net(False, pair.internal))
                snat.append(rule(*hairpin, r.SourceNat(pair.external, random_fully=False)))
        return {static.FLOATING_DNAT: dnat, static.FLOATING_SNAT: snat}

    # ── the rest ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def render_static(self) -> None:
        options = self.state.options
        random_fully = "target MASQUERADE --random-fully" not in self.lacking
        made = StaticChains(
            version=self.version,
            options=options,
            needs=self.state.needs[self.version],
            deny=self._deny(),
            drop=self.drop,
            random_fully=random_fully,
            reverse_path="match rpfilter" not in self.lacking,
            early_tables="table raw" not in self.lacking,
            check_source=not options.any_source,
        ).tables()
        for name, content in made.items():
            if f"table {name}" in self.lacking:
                content = static.EMPTY  # noqa: PLW2901 -- nothing leads into a table that does not exist
            self._put("static", name, content.chains)
            self.tables[name].set_hooks(content.hooks, insert=options.insert)
        for name in ("raw", "mangle", "filter"):
            self._put("marks", name, {**mark_chains(options), **self._drop_chain()})
        for name in ("raw", "mangle", "filter"):
            self._put("failsafe", name, failsafe_chains(options, version=self.version, raw=name == "raw"))

    def _drop_chain(self) -> Chains:
        if not isinstance(self.drop, r.Goto):
            return {}
        verdict = r.ACCEPT if "accept" in self.drop.to else r.DROP
        log = [rule(r.Log("calico-drop: "))] if "log" in self.drop.to else []
        return {self.drop.to: [*log, rule(verdict)]}

    def render_host_endpoints(self) -> None:
        """Few on a node, so they are rendered together."""
        filters: Chains = {}
        raws: Chains = {}
        mangles: Chains = {}
        tables: Sequence[tuple[str, Chains, str, str, bool, str]] = (
            # dispatch chain, where, prefix, policy kind, inbound, field
            (static.FROM_HOST_ENDPOINT, filters, "cali-fh-", "normal", True, "normal"),
            (static.TO_HOST_ENDPOINT, filters, "cali-th-", "normal", False, "normal"),
            (static.FROM_HOST_FORWARD, filters, "cali-fhfw-", "forward", True, "forward"),
            (static.TO_HOST_FORWARD, filters, "cali-thfw-", "forward", False, "forward"),
            (static.FROM_HOST_ENDPOINT, raws, "cali-fh-", "untracked", True, "untracked"),
            (static.TO_HOST_ENDPOINT, raws, "cali-th-", "untracked", False, "untracked"),
            (static.FROM_HOST_ENDPOINT, mangles, "cali-fh-", "pre_dnat", True, "pre_dnat"),
            (static.TO_HOST_ENDPOINT, mangles, "cali-th-", "normal", False, "normal"),
        )
        governed = self._governed_interfaces()
        for root, into, prefix, kind, inbound, field in tables:
            chains = self._endpoint_chains(early=into is not filters)
            targets: dict[str, str] = {}
            end: list[Rule] = []
            for interface, endpoint in governed.items():
                if interface == "*" and kind == "untracked":
                    continue  # as in Calico: it would judge the replies of every tracked flow
                listed: PolicyList = getattr(endpoint, field)
                if kind in ("untracked", "pre_dnat") and not _has_policies(listed, inbound=inbound):
                    continue
                chain = names.host_chain(prefix, interface)
                failsafe = kind != "forward"
                into.update(chains.host(chain, listed, inbound=inbound, kind=kind, failsafe=failsafe))
                if interface == "*":
                    end = [*self._spare(kind, inbound=inbound), rule(r.Goto(chain))]
                else:
                    targets[interface] = chain
            into.update(dispatch(root, targets, incoming=inbound, end=end, marker=prefix[:-1] + "d"))
        self._put("host endpoints", "filter", filters)
        self._put("host endpoints", "raw", raws)
        self._put("host endpoints", "mangle", mangles)

    def _governed_interfaces(self) -> dict[str, LocalHostEndpoint]:
        """Interface, or "*", -> its endpoint. Where several claim one, the first by name has it, as in Calico."""
        governed: dict[str, LocalHostEndpoint] = {}
        for name, endpoint in sorted(self.state.host_endpoints.items()):
            for interface in (endpoint.interface,) if endpoint.interface else self.state.host_interfaces.get(name, ()):
                if interface == "*" or names.is_usable_interface(interface):
                    governed.setdefault(interface, endpoint)
        return governed

    def _spare(self, kind: str, *, inbound: bool) -> list[Rule]:
        """A wildcard endpoint does not stand for workloads' interfaces."""
        if kind == "normal" and not inbound:
            return [rule(r.Interface(False, f"{prefix}+"), r.RETURN) for prefix in self.state.options.workload_prefixes]
        if kind in ("forward", "pre_dnat", "untracked"):
            return [
                rule(r.Interface(inbound, f"{prefix}+"), r.RETURN) for prefix in self.state.options.workload_prefixes
            ]
        return []

    # ── who made which chain ──────────────────────────────────────────────────────────────────────────────────────────

    def _put(self, owner: str, table: str, made: Mapping[str, Sequence[Rule]]) -> None:
        """Set an owner's chains in one table and remove those that it no longer makes."""
        key = f"{owner} in {table}"
        old = self._owned.get(key, set())
        new = {(table, name) for name in made}
        for name, content in made.items():
            self.tables[table].set_chain(name, self._able(content))
        for where, name in old - new:
            self.tables[where].remove_chain(name)
        self._owned[key] = new

    def _able(self, rules: Sequence[Rule]) -> Sequence[Rule]:
        """Without the rules that this host cannot express; those of policies have been made to deny before."""
        if not self.lacking:
            return rules
        return [item for item in rules if self.lacking.isdisjoint(item.features())]

    def _drop_owned(self, owner: str) -> None:
        for table in TABLES:
            for where, name in self._owned.pop(f"{owner} in {table}", ()):
                self.tables[where].remove_chain(name)


def _has_policies(listed: PolicyList, *, inbound: bool) -> bool:
    return any(tier.ingress if inbound else tier.egress for tier in listed.tiers)
