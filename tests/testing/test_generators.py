"""What the generators make is accepted by validation, unless flaws are asked for, and is the same for one seed."""

from __future__ import annotations

from random import Random

import pytest

from calico_kernel.model.validate import problems
from calico_kernel.selector import parse
from calico_kernel.testing import generators as g


@pytest.mark.parametrize("seed", range(40))
def test_generated_resources_are_acceptable(seed: int) -> None:
    rng = Random(seed)
    resources = [*g.cluster(rng, flaws=False), g.host_endpoint(rng), *(g.host_policy(rng, n) for n in range(3))]
    found = {r.metadata.name: problems(r, selector_check=parse) for r in resources}
    assert {name: found for name, found in found.items() if found} == {}


def test_one_seed_makes_one_cluster() -> None:
    assert g.cluster(Random(5)) == g.cluster(Random(5))
    assert g.cluster(Random(5)) != g.cluster(Random(6))
