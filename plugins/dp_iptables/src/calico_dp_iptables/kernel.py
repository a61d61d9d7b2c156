"""Writing to the kernel: the order of one apply, what to do when a part of it fails, and when to look again.

In:    desired tables and sets.   Out: processes run, sockets written, an ``Outcome``.
Order: sets that rules will use, then rules of both families at a time, then sets that no rule uses any more. Inside a
family raw and mangle and nat come before filter.

A failed part keeps its desired state and does not stop the others. What the kernel holds is then read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from calico_dp_iptables import backend as xtables
from calico_dp_iptables import ipsets
from calico_dp_iptables.backend import Iptables
from calico_dp_iptables.contain import effect_of, is_table_missing, missing_features, refused_rules
from calico_dp_iptables.desired import TABLES, Family, State
from calico_dp_iptables.ipsets import IpSets
from calico_dp_iptables.links import Links, interfaces_of
from calico_dp_iptables.names import OUR_SETS
from calico_dp_iptables.programs import ProgramFailed, Programs, Run
from calico_dp_iptables.settings import Settings
from calico_dp_iptables.table import Observed, Table, Transaction, parse_save
from calico_dp_iptables.watch import Suspicion, Watch
from calico_kernel.errors import CalicoError, UnsupportedError
from calico_kernel.hookspecs import Failure, Lack, Services
from calico_kernel.reconcile.resync import ResyncTimer, SettlingCheck

LINE_BYTES = 1000
"""What one rule takes in an nft transaction at most, where the kernel limits the size of one."""

MOST_LACKS = 20
MOST_REFUSED_MEMBERS = 50


@attrs.frozen(kw_only=True)
class Outcome:
    """``blocked``: rules of the filter or raw table may not be in place."""

    failures: Sequence[Failure] = ()
    lacks: Sequence[Lack] = ()
    blocked: bool = False
    next_check_s: float | None = None
    changes: int = 0


class Kernel:
    def __init__(self, settings: Settings, services: Services, families: Mapping[int, Family]) -> None:
        self._settings = settings
        self._services = services
        self._log = services.log
        self._families = families
        self._programs = Programs(timeout_s=settings.timeout_s, paths=settings.programs)
        self.sets = IpSets()
        self.links = Links(self._programs)
        self.watch = Watch(services.log, services.request_apply, settings.drift_poll_s)
        self.tables: dict[int, Iptables] = {}
        self.backend = ""
        self._started_for: tuple[str, bool, bool] | None = None
        self._lacks: dict[str, Lack] = {}
        self._read: set[object] = set()
        self._limit = 0
        self._unused_cleaned = False
        self._tables_timer = ResyncTimer(0.0)
        self._sets_timer = ResyncTimer(0.0)
        self._routes_timer = ResyncTimer(0.0)
        self._settling = SettlingCheck(0.0)

    # ── when to read ──────────────────────────────────────────────────────────────────────────────────────────────────

    def distrust(self) -> None:
        """Read everything again at the next apply."""
        self._read.clear()
        self._routes_timer.demand()

    def _start(self, state: State) -> None:
        wanted = self._settings.backend or state.options.backend
        has_ipset = bool(self._programs.find("ipset"))
        if self._started_for == (wanted, state.options.ipv6, has_ipset):
            return
        backend = xtables.detect(self._programs, wanted)
        if not Iptables(self._programs, backend, 4).available():
            raise UnsupportedError(what=f"iptables ({backend}) is not installed", todo="apt-get install iptables ipset")
        self.backend = backend
        self._started_for = (wanted, state.options.ipv6, has_ipset)
        self.tables = {}
        self._unused_cleaned = False
        self._limit = xtables.nft_limit_bytes() // LINE_BYTES if self.backend == "nft" else 0
        for version in (4, 6) if state.options.ipv6 else (4,):
            family = Iptables(self._programs, self.backend, version, self._settings.lock_wait_s)
            if family.available() and xtables.kernel_has(version):
                self.tables[version] = family
            else:
                self._do_without(version)
        if not has_ipset:
            self._lacks["ipset"] = Lack(capability="ipset", effect=effect_of("match set"))
            for owner in self._families.values():
                owner.lacking |= {"match set"}
                owner.render_all()
        elif self._lacks.pop("ipset", None) is not None:  # installed meanwhile
            for owner in self._families.values():
                owner.lacking -= {"match set"}
                owner.render_all()
        self.distrust()

    def _do_without(self, version: int) -> None:
        self.tables.pop(version, None)
        name = "iptables" if version == 4 else "ip6tables"
        effect = f"nothing is enforced for IPv{version}; the host must not forward it"
        self._lacks[name] = Lack(capability=f"{name} ({self.backend})", effect=effect)

    # ── apply ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def apply(self, state: State, now: float) -> Outcome:
        failures: list[Failure] = []
        changes = 0
        try:
            self._start(state)
        except CalicoError as exc:
            return Outcome(failures=[Failure(subject="iptables", reason=str(exc))], blocked=True)
        self.watch.start()
        suspicion = self.watch.take()
        try:
            self._heed(state, suspicion, now)
            self._find_host_interfaces(state, failures)
            failures += self._observe(now, suspicion)
            changes += self._write_sets(failures)
            blocked, written = self._write_tables(failures)
            changes += written + self._destroy_sets(failures)
            changes += self.links.apply(state.options, failures, self.tables)
            if not (blocked or self._unused_cleaned):
                self._clean_unused(failures)
        finally:
            legacy = self.backend == "legacy"
            self.watch.settled(
                backend=self.backend,
                versions=self.tables.keys(),
                tables=[key for key in self._tables_in_use() if legacy],
                sets=bool(self.sets.names()),
                prefixes=state.options.workload_prefixes,
                addresses=any(not endpoint.interface for endpoint in state.host_endpoints.values()),
            )
        return Outcome(
            failures=failures,
            lacks=(*self._lacks.values(), *self._denied()),
            blocked=blocked,
            next_check_s=self._schedule(state, now, changes),
            changes=changes,
        )

    def _denied(self) -> Iterable[Lack]:
        """Rules that deny because this host cannot have them, at most so many that people still read them."""
        said: list[Lack] = []
        for version in self.tables:
            owner = self._families[version]
            texts = [text for texts in owner.lacks.values() for text in texts]
            said += [Lack(capability=text, effect=f"it denies (IPv{version})") for text in texts]
            for table in owner.tables.values():
                said += [Lack(capability=f"rule {item.text()}", effect="it denies") for item in table.refused()]
        more = len(said) - MOST_LACKS
        rest = [Lack(capability=f"{more} more rules", effect="they deny")] if more > 0 else []
        return [*said[:MOST_LACKS], *rest]

    def _tables_in_use(self) -> Iterable[tuple[int, str]]:
        for version in self.tables:
            for name, table in self._families[version].tables.items():
                if table.in_use():
                    yield version, name

    def _find_host_interfaces(self, state: State, failures: list[Failure]) -> None:
        """Host endpoints may name addresses instead of an interface."""
        nameless = {name: endpoint for name, endpoint in state.host_endpoints.items() if not endpoint.interface}
        found: Mapping[str, Sequence[str]] = {}
        if nameless:
            try:
                found = interfaces_of(nameless)
            except OSError as exc:
                failures.append(Failure(subject="host endpoints without interface name", reason=str(exc)))
                return
        if found != state.host_interfaces:
            state.host_interfaces = found
            for owner in self._families.values():
                owner.render_host_endpoints()

    def _heed(self, state: State, suspicion: Suspicion, now: float) -> None:
        """Decide what of the kernel's state must be read again."""
        options = state.options
        self._tables_timer.set_interval(options.refresh_s, now)
        self._sets_timer.set_interval(options.sets_refresh_s, now)
        self._routes_timer.set_interval(options.routes_refresh_s, now)
        if self._tables_timer.is_due(now) or self._settling.is_due(now):
            self._read -= {4, 6}
            self._forget_refusals()
        if self._sets_timer.is_due(now):
            self._read -= {"sets"}
        self._settling.looked(now)
        self._read -= suspicion.parts
        if suspicion.all_interfaces or self._routes_timer.is_due(now):
            self.links.touched_all()
            self._routes_timer.done(now)
        self.links.touched(suspicion.interfaces)

    def _schedule(self, state: State, now: float, changes: int) -> float | None:
        if changes:
            self._settling.wrote(now, state.options.post_write_check_s)
        timers = (self._tables_timer, self._sets_timer, self._routes_timer, self._settling)
        waits = [wait for timer in timers if (wait := timer.wait_s(now)) is not None]
        return max(min(waits), 0.05) if waits else None

    def _observe(self, now: float, suspicion: Suspicion) -> list[Failure]:
        failures: list[Failure] = []
        different = False
        runs: list[tuple[object, Run]] = []
        for version, family in self.tables.items():
            if version not in self._read:
                runs.append((version, family.start_save()))
        if "sets" not in self._read and "ipset" not in self._lacks:
            runs.append(("sets", self._programs.start([self._programs.find("ipset"), "save"])))
        for what, run in runs:
            try:
                text = run.finish()
            except ProgramFailed as exc:
                failures.append(Failure(subject=f"reading {what}", reason=exc.reason))
                continue
            self._read.add(what)
            if isinstance(what, int):
                saved = parse_save(text)
                for name, table in self._families[what].tables.items():
                    different |= table.observe(saved.get(name, Observed.empty()))
            else:
                different |= self.sets.observe(ipsets.parse_save(text))
        if suspicion.parts:
            self.watch.found(different)
        for timer, part in ((self._tables_timer, 4), (self._sets_timer, "sets")):
            if part in (what for what, _ in runs) or timer.is_due(now):
                timer.done(now)
        return failures

    # ── sets ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _restore_sets(self, lines: Iterable[str]) -> None:
        self._programs.run([self._programs.find("ipset"), "-exist", "restore"], "\n".join((*lines, "")))

    def _write_sets(self, failures: list[Failure]) -> int:
        lines, touched = self.sets.plan_upserts()
        if not lines or "ipset" in self._lacks:
            return 0
        try:
            self._restore_sets(lines)
        except ProgramFailed as exc:
            if exc.unknown:  # it hangs: the next apply tries again, with everything read anew
                self.sets.forget_real(touched)
                self._read.discard("sets")
                failures.append(Failure(subject="ip sets", reason=exc.reason))
                return 0
            self._log.warning("ipset restore failed, writing set by set: %s", exc.reason)
            return self._write_sets_singly(touched, failures)
        self.sets.upserts_written(touched)
        self._forget_refusals()
        return len(lines)

    def _forget_refusals(self) -> None:
        """What was refused may be taken now, if it was for want of a set."""
        for owner in self._families.values():
            for table in owner.tables.values():
                table.forget_refusals()

    def _write_sets_singly(self, touched: Iterable[str], failures: list[Failure]) -> int:
        """One bad member or set must not keep the others out."""
        self._read.discard("sets")
        written = 0
        try:
            self.sets.observe(ipsets.parse_save(self._programs.run([self._programs.find("ipset"), "save"])))
            self._read.add("sets")
        except ProgramFailed:
            self.sets.forget_real(touched)
        for name in touched:
            lines = self.sets.plan_one(name)
            refused = 0
            while lines:
                try:
                    self._restore_sets(lines)
                except ProgramFailed as exc:
                    line = lines[exc.line - 1] if 0 < exc.line <= len(lines) else ""
                    failures.append(Failure(subject=f"ip set {name}", reason=f"{exc.reason} ({line})"))
                    refused += 1
                    if not line.startswith("add ") or refused > MOST_REFUSED_MEMBERS:
                        self.sets.forget_real([name])
                        self._read.discard("sets")
                        break
                    del lines[exc.line - 1]  # lines before it may not have been carried out; repeating them is harmless
                    continue
                written += len(lines)
                self.sets.upserts_written([name])
                break
        return written

    def _destroy_sets(self, failures: list[Failure]) -> int:
        names = self.sets.plan_removes()
        if not names or "ipset" in self._lacks:
            return 0
        try:
            self._restore_sets(f"destroy {name}" for name in names)
        except ProgramFailed:
            destroyed = 0
            for name in names:
                try:
                    self._restore_sets([f"destroy {name}"])
                except ProgramFailed as exc:
                    if "does not exist" not in exc.reason:
                        failures.append(Failure(subject=f"ip set {name}", reason=exc.reason))
                        continue
                self.sets.removed(name)
                destroyed += 1
            return destroyed
        for name in names:
            self.sets.removed(name)
        return len(names)

    # ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _plan(self, version: int) -> list[tuple[Table, Transaction]]:
        tables = self._families[version].tables
        return [(tables[name], transaction) for name in TABLES for transaction in tables[name].plan(limit=self._limit)]

    def _write_tables(self, failures: list[Failure]) -> tuple[bool, int]:
        """(whether filter or raw rules may be missing, writes made)."""
        blocked, written = False, 0
        under_way: list[tuple[int, list[tuple[Table, Transaction]], Run | ProgramFailed]] = []
        for version, family in self.tables.items():
            if version not in self._read:
                blocked = True
                continue
            planned = self._plan(version)
            if not planned:
                continue
            try:
                run: Run | ProgramFailed = family.start_restore([transaction for _, transaction in planned])
            except ProgramFailed as exc:
                run = exc
            under_way.append((version, planned, run))
        for version, planned, started in under_way:
            try:
                if isinstance(started, ProgramFailed):
                    raise started
                started.finish()
            except ProgramFailed as exc:
                failed, count = self._recover(version, exc, failures)
                blocked = blocked or failed
                written += count
                continue
            for table, transaction in planned:
                table.written(transaction)
                written += len(transaction.lines)
        return blocked, written

    def _recover(self, version: int, first: ProgramFailed, failures: list[Failure]) -> tuple[bool, int]:
        """A restore failed: find out what is there, then write table by table so that one does not stop the others."""
        family = self.tables[version]
        program = "iptables" if version == 4 else "ip6tables"
        self._log.warning("%s-restore failed (%s); writing table by table", program, first.reason)
        if first.unknown:  # it hangs: the next apply tries again, with everything read anew
            self._read.discard(version)
            failures.append(Failure(subject=f"{program} rules", reason=first.reason))
            return True, 0
        if _is_too_long(first):
            self._limit = (self._limit or xtables.nft_limit_bytes() // LINE_BYTES) // 2
        try:
            saved = family.save()
        except ProgramFailed as exc:
            self._read.discard(version)
            failures.append(Failure(subject=f"reading {program} rules", reason=exc.reason))
            return True, 0
        blocked, written = False, 0
        for name in TABLES:
            table = self._families[version].tables[name]
            table.observe(saved.get(name, Observed.empty()))
            try:
                written += self._write_table(family, table)
            except ProgramFailed as exc:
                try:
                    written += self._contain(version, name, exc)
                except ProgramFailed as again:
                    self._read.discard(version)
                    blocked = blocked or name in ("raw", "filter")
                    failures.append(Failure(subject=f"{program} table {name}", reason=again.reason))
        return blocked, written

    def _contain(self, version: int, name: str, refusal: ProgramFailed) -> int:
        """Write the table without what the host cannot do or will not take; that denies. Raises ProgramFailed."""
        owner, family = self._families[version], self.tables[version]
        table = owner.tables[name]
        if refusal.unknown:
            raise refusal
        if name == "filter" and version == 6 and is_table_missing(refusal):
            self._do_without(6)
            return 0
        if name != "filter" and is_table_missing(refusal):
            missing = {f"table {name}"}
        else:
            missing = missing_features(family, name, table.dirty_rules()) - owner.lacking
        if missing:
            for feature in sorted(missing):
                self._log.warning("this host has no %s for IPv%d: %s", feature, version, effect_of(feature))
                self._lacks[f"{feature} {version}"] = Lack(
                    capability=f"{feature} (IPv{version})", effect=effect_of(feature)
                )
            owner.lacking |= missing
            owner.render_all()
            try:
                return self._write_table(family, table)
            except ProgramFailed as exc:
                refusal = exc
        refused = refused_rules(family, name, table.dirty_rules())
        if not refused:
            raise refusal
        table.refuse(refused)
        return self._write_table(family, table)

    def _write_table(self, family: Iptables, table: Table) -> int:
        written = 0
        while True:
            try:
                for transaction in table.plan(limit=self._limit):
                    family.start_restore([transaction]).finish()
                    table.written(transaction)
                    written += len(transaction.lines)
            except ProgramFailed as exc:
                if _is_too_long(exc) and self._limit > 20:
                    self._limit //= 2
                    continue
                raise
            return written

    def _clean_unused(self, failures: list[Failure]) -> None:
        """After a change of back end, or with IPv6 switched off, old rules would still judge packets."""
        try:
            for family in self._all_backends():
                if family.backend != self.backend or family.version not in self.tables:
                    _clean(family)
        except ProgramFailed as exc:
            failures.append(Failure(subject="rules of a back end or family no longer used", reason=exc.reason))
            return
        self._unused_cleaned = True

    def _all_backends(self) -> Iterable[Iptables]:
        """Every back end and family of this host; legacy ones only where they are loaded: looking would load them."""
        for backend in ("legacy", "nft"):
            for version in (4, 6):
                family = Iptables(self._programs, backend, version, self._settings.lock_wait_s)
                if family.is_exactly() and (backend == "nft" or xtables.legacy_tables(version)):
                    yield family

    # ── end ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def uninstall(self) -> None:
        """Take our rules and sets out, of both back ends. Raises ProgramFailed when something stays."""
        for family in self._all_backends():
            _clean(family)
        ipset = self._programs.find("ipset")
        if ipset:
            listed = self._programs.run([ipset, "list", "-name"]).split()
            ours = list(OUR_SETS.ours(listed))
            if ours:
                self._restore_sets(f"destroy {name}" for name in ours)
        self.links.uninstall()
        self.distrust()

    def close(self) -> None:
        self.watch.close()


def _clean(family: Iptables) -> None:
    for name, observed in family.save().items():
        table = Table(name)
        table.observe(observed)
        limit = xtables.nft_limit_bytes() // LINE_BYTES if family.backend == "nft" else 0
        for transaction in table.plan(limit=limit):
            family.start_restore([transaction]).finish()


def _is_too_long(exc: ProgramFailed) -> bool:
    return "Message too long" in exc.reason
