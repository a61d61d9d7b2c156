"""The order in which tiers and policies are evaluated.

In:   tiers and effective policies, in any order.   Out: sort keys, to ``policy.verdict`` and ``calico_kernel.calc``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from calico_kernel.model.nodestate import PolicyId
from calico_kernel.model.policy import Tier
from calico_kernel.policy.effective import EffectivePolicy


def tier_key(name: str, tier: Tier | None) -> tuple[bool, bool, float, str]:
    """Stored tiers before missing ones, ordered before unordered, then by order, then by name."""
    order = tier.spec.order if tier is not None else None
    return (tier is None, order is None, 0.0 if order is None else order, name)


def policy_key(order: float, policy: PolicyId) -> tuple[float, str]:
    """By order (infinity when none was given), then by ``name/namespace/kind``."""
    return (order, f"{policy.name}/{policy.namespace}/{policy.kind}")


def default_action(tier: Tier | None) -> Literal["Deny", "Pass"]:
    """What happens to packets that no policy of the tier decided. A missing tier denies."""
    return "Pass" if tier is not None and tier.spec.default_action == "Pass" else "Deny"


def ordered_tiers(
    policies: Iterable[EffectivePolicy], tiers: Mapping[str, Tier]
) -> list[tuple[str, list[EffectivePolicy]]]:
    """(tier, its policies), both in evaluation order; tiers without a policy are left out."""
    by_tier: dict[str, list[EffectivePolicy]] = {}
    for policy in policies:
        by_tier.setdefault(policy.tier, []).append(policy)
    return [
        (name, sorted(by_tier[name], key=lambda policy: policy_key(policy.order, policy.id)))
        for name in sorted(by_tier, key=lambda name: tier_key(name, tiers.get(name)))
    ]
