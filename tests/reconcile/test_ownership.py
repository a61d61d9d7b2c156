"""What is ours is told from what is not."""

from __future__ import annotations

from calico_kernel.reconcile.ownership import NameMark


def test_marks_tell_ours_from_theirs() -> None:
    chains = NameMark(("cali-",))
    assert list(chains.ours(["cali-pi-x", "KUBE-FORWARD"])) == ["cali-pi-x"]
    assert chains.owns("cali-pi-x") and not chains.owns("calico")
