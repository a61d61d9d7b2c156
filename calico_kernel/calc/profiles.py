"""Profiles that local endpoints refer to.

In:   profiles as stored; how often each is referred to.   Out: ``ActiveProfile`` values and uses of IP sets.

A profile that is missing, or of which a rule does not parse, denies both ways: no endpoint gets more than is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from calico_kernel.calc.ipsets import IpSets, SetSpec
from calico_kernel.calc.outbox import Outbox
from calico_kernel.calc.packing import Packer
from calico_kernel.calc.rules import ALLOW, DENY, RuleParser
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.nodestate import ActiveProfile
from calico_kernel.model.policy import Profile, ProfileSpec
from calico_kernel.model.wellknown import DEFAULT_ALLOW_PROFILE
from calico_kernel.policy.effective import effective_profile


class Profiles:
    """``known``: whether a profile exists; kept elsewhere, with the labels that it gives (``calc.labels``)."""

    def __init__(self, ip_sets: IpSets, known: Callable[[str], bool]) -> None:
        self._known = known
        self._ip_sets = ip_sets
        self.out: Outbox[str, ActiveProfile] = Outbox()
        self.failed: dict[str, str] = {}
        """Active profiles that deny because a rule does not parse, and why."""
        self._stored: dict[str, bytes] = {}
        self._uses: dict[str, int] = {}
        self._sets: dict[str, tuple[SetSpec, ...]] = {}
        self._dirty: set[str] = set()
        self._packer = Packer()

    def put(self, name: str, spec: ProfileSpec | None) -> None:
        """Store, replace or (None) forget the rules; call it after ``known`` has the news."""
        stored = b""
        if spec is not None and (spec.ingress or spec.egress):
            stored = self._packer.pack(ProfileSpec(ingress=spec.ingress, egress=spec.egress))
        if stored:
            self._stored[name] = stored
        else:
            self._stored.pop(name, None)
        if name in self._uses:
            self._dirty.add(name)

    def use(self, names: Iterable[str]) -> None:
        """One more local endpoint refers to these."""
        for name in names:
            uses = self._uses.get(name, 0)
            self._uses[name] = uses + 1
            if not uses:
                self._dirty.add(name)

    def unuse(self, names: Iterable[str]) -> None:
        """One local endpoint less refers to these."""
        for name in names:
            self._uses[name] -= 1
            if not self._uses[name]:
                del self._uses[name]
                self._dirty.add(name)

    def resolve(self) -> None:
        for name in self._dirty:
            old = self._sets.pop(name, ())
            if name in self._uses:
                active, sets, failed = self._active(name)
                self._ip_sets.use(sets)
                self._sets[name] = sets
                self.out.set(name, active)
            else:
                failed = ""
                self.out.set(name, None)
            self._ip_sets.unuse(old)
            if failed:
                self.failed[name] = failed
            else:
                self.failed.pop(name, None)
        self._dirty.clear()

    def _active(self, name: str) -> tuple[ActiveProfile, tuple[SetSpec, ...], str]:
        if not self._known(name):
            rules = ALLOW if name == DEFAULT_ALLOW_PROFILE else DENY
            return ActiveProfile(name=name, inbound=rules, outbound=rules), (), ""
        stored = self._stored.get(name)
        spec = self._packer.unpack(stored, ProfileSpec) if stored else ProfileSpec()
        effective = effective_profile(Profile(metadata=ObjectMeta(name=name), spec=spec))
        if effective.failed:
            return ActiveProfile(name=name, inbound=DENY, outbound=DENY), (), effective.failed
        parser = RuleParser()
        inbound = parser.parse(effective.inbound, spec.ingress)
        outbound = parser.parse(effective.outbound, spec.egress)
        return ActiveProfile(name=name, inbound=inbound, outbound=outbound), parser.sets, ""
