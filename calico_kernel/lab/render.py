"""Tables of a lab run: the expected matrix beside the measured one, and the summary. Pure.

In:    ``Outcome`` values of calico_kernel.lab.runner.   Out: text, coloured only if asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from calico_kernel.lab.prober import Probe
from calico_kernel.lab.scenarios import Scenario, Service

_DIFFERENCES_MOST = 20
_HOST_NAME_MOST = 7


@attrs.frozen(kw_only=True)
class Difference:
    """A cell whose packet did not get the verdict of the reference evaluator. ``reason``: how that came to its own."""

    probe: Probe
    expected: bool
    measured: bool
    reason: str
    trace: str = ""


@attrs.frozen(kw_only=True)
class Outcome:
    """``enforced_ms``: from the datastore's acknowledgement to the last new flow with the old verdict; None when the
    scenario changes no cell. ``apply_ms``: the calicoctl command up to that acknowledgement. ``unsuited``: why it means
    nothing on this datastore; nothing was measured then."""

    scenario: Scenario
    probes: Sequence[Probe]
    expected: Sequence[bool]
    measured: Sequence[bool]
    differences: Sequence[Difference] = ()
    changed: int = 0
    apply_ms: float = 0.0
    enforced_ms: float | None = None
    seconds: float = 0.0
    unsuited: str = ""


class Style:
    """Escape sequences, or nothing. ``symbols``: allowed, denied, not applicable, and the mark of a difference."""

    def __init__(self, *, colour: bool, unicode: bool) -> None:
        self._colour = colour
        self.yes, self.no, self.none = ("✓", "✗", "·") if unicode else ("+", "-", ".")

    def paint(self, text: str, *codes: int) -> str:
        return f"\033[{';'.join(map(str, codes))}m{text}\033[0m" if self._colour else text

    def bold(self, text: str) -> str:
        return self.paint(text, 1)

    def dim(self, text: str) -> str:
        return self.paint(text, 2)

    def cell(self, value: bool | None, *, differs: bool = False) -> str:
        if value is None:
            return self.dim(self.none) + " "
        mark = self.yes if value else self.no
        if differs:
            return self.paint(mark, 1, 30, 43) + self.paint("!", 1, 33)
        return self.paint(mark, 32 if value else 31) + " "


def heading(number: int, count: int, scenario: Scenario, style: Style) -> str:
    lines = [style.bold(f"{number}/{count}  {scenario.title}") + style.dim(f"  ({scenario.name})")]
    lines += [f"    {line}" for line in _wrapped(scenario.description, 100)]
    return "\n".join(lines)


def matrices(outcome: Outcome, style: Style) -> str:
    """One block for each group of services and IP versions that share both matrices."""
    blocks: dict[tuple[tuple[tuple[str, str], bool, bool], ...], list[tuple[Service, int]]] = {}
    services = list(dict.fromkeys((probe.protocol, probe.port, probe.version) for probe in outcome.probes))
    for protocol, port, version in services:
        cells = tuple(
            ((probe.source, probe.target), expected, measured)
            for probe, expected, measured in zip(outcome.probes, outcome.expected, outcome.measured, strict=True)
            if (probe.protocol, probe.port, probe.version) == (protocol, port, version)
        )
        blocks.setdefault(cells, []).append(((protocol, port), version))
    return "\n".join(_block(cells, carriers, style) for cells, carriers in blocks.items())


def _block(
    cells: Sequence[tuple[tuple[str, str], bool, bool]], carriers: Sequence[tuple[Service, int]], style: Style
) -> str:
    expected = {pair: value for pair, value, _ in cells}
    measured = {pair: value for pair, _, value in cells}
    sources = list(dict.fromkeys(source for source, _ in expected))
    targets = list(dict.fromkeys([*sources, *(target for _, target in expected)]))
    groups = _grouped(targets)
    margin = max(len(source) for source in sources) + 2
    head = "".join(_head(name, members) for name, members in groups)
    initials = "".join(_initials(name, members) for name, members in groups)
    lines = [
        f"    {style.bold(_carriers(carriers))}",
        f"    {'':{margin}}{'expected':{len(head)}}  measured",
        style.dim(f"    {'':{margin}}{head}  {head}".rstrip()),
        style.dim(f"    {'':{margin}}{initials}  {initials}".rstrip()),
    ]
    previous = ""
    for source in sources:
        group = source.partition("/")[0]
        label = source if group != previous else f"{'':{len(group)}}/{_short(source)}"
        previous = group
        left, right = [], []
        for name, members in groups:
            for target in members:
                want, got = expected.get((source, target)), measured.get((source, target))
                left.append(style.cell(want))
                right.append(style.cell(got, differs=want != got))
            gap = " " * (_width(name, members) - 2 * len(members) + 1)
            left.append(gap)
            right.append(gap)
        lines.append(f"    {label:{margin}}{''.join(left)}  {''.join(right)}".rstrip())
    return "\n".join(lines)


def _grouped(places: Iterable[str]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for place in places:
        groups.setdefault(place.partition("/")[0], []).append(place)
    return list(groups.items())


def _width(name: str, members: Sequence[str]) -> int:
    """A namespace's name is cut to the width of its workloads; a host's name stands whole, as far as it is short."""
    return 2 * len(members) if "/" in members[0] else max(2, min(len(name), _HOST_NAME_MOST))


def _head(name: str, members: Sequence[str]) -> str:
    width = _width(name, members)
    return f"{name[:width]:{width}} "


def _initials(name: str, members: Sequence[str]) -> str:
    letters = "".join(f"{_short(member)[0]} " if "/" in member else "" for member in members)
    return letters.ljust(_width(name, members) + 1)


def _short(place: str) -> str:
    return place.rpartition("/")[2]


def _carriers(carriers: Sequence[tuple[Service, int]]) -> str:
    versions: dict[Service, list[int]] = {}
    for service, version in carriers:
        versions.setdefault(service, []).append(version)
    same: dict[tuple[int, ...], list[str]] = {}
    for service, found in versions.items():
        same.setdefault(tuple(found), []).append(service_name(service))
    return "; ".join(
        f"{', '.join(names)} over {' and '.join(f'IPv{version}' for version in found)}" for found, names in same.items()
    )


def service_name(service: Service) -> str:
    protocol, port = service
    return "ping" if protocol == "icmp" else f"{protocol.upper()} {port}"


def verdict_line(outcome: Outcome, style: Style) -> str:
    if outcome.unsuited:
        return f"    {style.paint('not applicable', 33)} on this datastore: {outcome.unsuited}"
    cells, differ = len(outcome.probes), len(outcome.differences)
    if outcome.enforced_ms is None:
        enforced = "no cell changes"
    else:
        enforced = f"{outcome.changed} changed, enforced {outcome.enforced_ms:.0f} ms after the write"
    said = f"    {cells} cells, {enforced}"
    if not differ:
        return f"{said}, {style.paint('all agree', 32)}"
    lines = [f"{said}, {style.paint(f'{differ} differ', 1, 31)}"]
    for each in outcome.differences[:_DIFFERENCES_MOST]:
        words = {True: "allowed", False: "denied"}
        what = f"{each.probe.source} -> {each.probe.target} {service_name((each.probe.protocol, each.probe.port))}"
        lines.append(
            f"      {what} over IPv{each.probe.version}: expected {words[each.expected]}, measured "
            f"{words[each.measured]}: {each.reason}"
        )
    if differ > _DIFFERENCES_MOST:
        lines.append(f"      and {differ - _DIFFERENCES_MOST} more: --json names them all")
    traced = next((each for each in outcome.differences if each.trace), None)
    if traced is not None:
        lines += [f"        {line}" for line in traced.trace.splitlines()]
    return "\n".join(lines)


def summary(outcomes: Sequence[Outcome], *, seconds: float, style: Style) -> str:
    width = max(len(each.scenario.name) for each in outcomes)
    lines = [
        style.bold(f"{'SCENARIO':{width}}  {'CELLS':>6}  {'DIFFER':>6}  {'CHANGED':>7}  {'APPLY':>8}  {'ENFORCED':>8}")
    ]
    for each in outcomes:
        if each.unsuited:
            lines.append(f"{each.scenario.name:{width}}  {style.paint('not applicable', 33)}: {each.unsuited}")
            continue
        differ = f"{len(each.differences):>6}"
        applied = f"{each.apply_ms:.0f} ms" if each.apply_ms else "-"
        enforced = "-" if each.enforced_ms is None else f"{each.enforced_ms:.0f} ms"
        lines.append(
            f"{each.scenario.name:{width}}  {len(each.probes):>6}  "
            f"{style.paint(differ, 1, 31) if each.differences else style.paint(differ, 32)}  {each.changed:>7}  "
            f"{applied:>8}  {enforced:>8}"
        )
    cells = sum(len(each.probes) for each in outcomes)
    differ_all = sum(len(each.differences) for each in outcomes)
    times = sorted(each.enforced_ms for each in outcomes if each.enforced_ms is not None)
    lines.append("")
    words = f"{len(outcomes)} scenarios, {cells} cells measured with real packets, "
    words += style.paint(f"{differ_all} differ", 1, 31 if differ_all else 32)
    unsuited = sum(bool(each.unsuited) for each in outcomes)
    if unsuited:
        words += f", {style.paint(f'{unsuited} scenarios not applicable', 33)}"
    if times:
        words += f"; enforced after {times[len(times) // 2]:.0f} ms (median), {times[-1]:.0f} ms (slowest)"
    lines.append(f"{words}; {seconds:.1f} s in all")
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)
