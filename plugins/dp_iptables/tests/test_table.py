"""Planning of one table: the smallest text, in an order in which nothing is ever half-made."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_dp_iptables import rules as r
from calico_dp_iptables.rules import Rule, rule
from calico_dp_iptables.static_chains import Hook
from calico_dp_iptables.table import Observed, Table, Transaction, parse_save

HOOK = {"FORWARD": Hook(top=(rule(r.Jump("cali-a")),), bottom=(rule(r.ACCEPT, note="end"),))}


class Kernel:
    """Carries out restore text; refuses what the kernel would refuse."""

    def __init__(self) -> None:
        self.chains: dict[str, list[str]] = {"FORWARD": ["-j THEIRS"]}

    def run(self, transaction: Transaction) -> None:
        chains = {name: list(rules) for name, rules in self.chains.items()}
        for line in transaction.lines:
            if line.startswith(":"):
                chains[line[1:].split()[0]] = []
                continue
            command, chain, rest = (*line.split(" ", 2), "")[:3]
            assert chain in chains, f"no chain {chain}"
            if command == "-A":
                chains[chain].append(rest)
            elif command == "-F":
                chains[chain].clear()
            elif command == "-X":
                assert not chains[chain], "not empty"
                del chains[chain]
            elif command == "-D" and rest.isdigit():
                del chains[chain][int(rest) - 1]
            elif command == "-D":
                chains[chain].remove(rest)
            else:
                position, text = rest.split(" ", 1)
                assert 1 <= int(position) <= len(chains[chain]) + 1
                chains[chain][int(position) - 1 : int(position) - (command == "-I")] = [text]
        for rules in chains.values():
            for text in rules:
                target = text.rsplit(" ", 1)[-1]
                assert not target.startswith("cali-") or target in chains, f"refers to {target}, which is not there"
        self.chains = chains

    def save(self) -> Observed:
        lines = ["*filter"]
        lines += [f":{name} {'ACCEPT' if name == 'FORWARD' else '-'} [0:0]" for name in self.chains]
        lines += [f"-A {name} {text}" for name, rules in self.chains.items() for text in rules]
        return parse_save("\n".join([*lines, "COMMIT"]))["filter"]


def apply(table: Table, kernel: Kernel, limit: int = 0, fail_after: int = 1000) -> int:
    lines = 0
    for number, transaction in enumerate(table.plan(limit=limit)):
        if number == fail_after:  # as the driver does after a failure: read, and plan again
            table.observe(kernel.save())
            return lines + apply(table, kernel, limit)
        assert not limit or len(transaction.lines) <= limit * 2 + 10
        kernel.run(transaction)
        table.written(transaction)
        lines += len(transaction.lines)
    return lines


NAMES = [f"cali-{letter}" for letter in "abcde"]
TARGETS = st.one_of(st.just(r.DROP), st.just(r.ACCEPT))


def rules_of(name: str) -> st.SearchStrategy[list[Rule]]:
    """Rules that jump only to later chains, so that there is no loop."""
    later = [r.Jump(other) for other in NAMES if other > name]
    target = st.one_of(TARGETS, st.sampled_from(later)) if later else TARGETS
    return st.lists(st.builds(lambda p, t: rule(r.Protocol(p), t), st.integers(1, 4), target), max_size=6)


STATES = st.dictionaries(st.sampled_from(NAMES), st.none(), max_size=5).flatmap(
    lambda names: st.fixed_dictionaries({name: rules_of(name) for name in names})
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(STATES, st.sampled_from(["", "restart", "flush", "meddle"])), max_size=6), st.integers(0, 6))
def test_any_history_converges_with_every_step_complete(
    history: list[tuple[dict[str, list[Rule]], str]], limit: int
) -> None:
    kernel, table = Kernel(), Table("filter")
    rng = random.Random(1)
    for state, event in history:
        if event == "restart":
            table = Table("filter")
        table.set_hooks(HOOK, insert=True)
        for name in NAMES:
            if name in state:
                table.set_chain(name, state[name])
            else:
                table.remove_chain(name)
        if event == "flush":
            for rules in kernel.chains.values():
                rules.clear()
        if event == "meddle" and len(kernel.chains) > 1:
            kernel.chains[rng.choice(sorted(kernel.chains))].insert(0, "-j ACCEPT")
        if event:
            table.observe(kernel.save())
        apply(table, kernel, limit, fail_after=rng.randrange(4))
        again = Table("filter")
        again.set_hooks(HOOK, insert=True)
        for name, rules in state.items():
            again.set_chain(name, rules)
        again.observe(kernel.save())
        assert again.plan() == [], "a restart would write"
    if history:
        empty = Table("filter")
        empty.observe(kernel.save())
        apply(empty, kernel)
        assert list(kernel.chains) == ["FORWARD"]
        assert not any("cali" in text for text in kernel.chains["FORWARD"])


def test_one_more_jump_in_a_long_chain_is_one_line() -> None:
    kernel, table = Kernel(), Table("filter")
    table.set_hooks(HOOK, insert=True)
    jumps = [rule(r.Protocol(number % 200 + 1), r.Jump(f"cali-pi-{number}")) for number in range(300)]
    for number in range(301):
        table.set_chain(f"cali-pi-{number}", [rule(r.DROP)])
    table.set_chain("cali-a", jumps)
    apply(table, kernel)
    table.set_chain("cali-a", [*jumps[:150], rule(r.Jump("cali-pi-300")), *jumps[150:]])
    assert apply(table, kernel) == 3  # the new chain, its rule, and the jump
    assert len(kernel.chains["cali-a"]) == 301


def test_chain_that_nothing_leads_to_is_not_programmed() -> None:
    kernel, table = Kernel(), Table("filter")
    table.set_chain("cali-b", [rule(r.DROP)])
    assert apply(table, kernel) == 0


def test_chain_that_is_referred_to_but_unknown_denies() -> None:
    kernel, table = Kernel(), Table("filter")
    table.set_hooks(HOOK, insert=True)
    apply(table, kernel)
    assert "-j DROP" in kernel.chains["cali-a"][0]


@pytest.mark.parametrize("insert", [True, False])
def test_rules_of_others_keep_their_place(insert: bool) -> None:
    kernel, table = Kernel(), Table("filter")
    kernel.chains["FORWARD"] = ["-j ONE", "-j TWO"]
    table.observe(kernel.save())
    table.set_hooks(HOOK, insert=insert)
    apply(table, kernel)
    theirs = [text for text in kernel.chains["FORWARD"] if "cali" not in text]
    assert theirs == ["-j ONE", "-j TWO"]
    assert ("cali-a" in kernel.chains["FORWARD"][0]) == insert
