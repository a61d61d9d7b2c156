"""What happens to servers and networks, with the real ones: nothing is lost, doubled or made up."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from calico_datastore_kdd import listing as listing_module
from calico_datastore_kdd import watch as watch_module
from calico_datastore_kdd.collection import CRD_GROUP
from calico_datastore_kdd.settings import KubernetesSettings
from calico_datastore_kdd.store import KubernetesDatastore
from calico_datastore_kdd.testing import KubernetesServer
from calico_kernel.agent.feed import CLUSTER, Feed
from calico_kernel.calc.calculator import Calculator
from calico_kernel.errors import DatastoreUnavailable, NotPermitted, RevisionTooOld
from calico_kernel.hookspecs import Watch
from calico_kernel.model.bgp import BGPFilter
from calico_kernel.model.keys import Key, ResourceKey, ResourceQuery
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import IPPool, IPPoolSpec
from calico_kernel.model.records import Event
from calico_kernel.testing.datastore import collect, mark_of, network_set, read_on, set_key, write_series
from calico_kernel.testing.datastore_load import Seen, feeding
from calico_kernel.testing.faulty_proxy import FaultyProxy
from calico_kernel.testing.patient import PatientDatastore

SETS, POOLS, FILTERS = ResourceQuery("GlobalNetworkSet"), ResourceQuery("IPPool"), ResourceQuery("BGPFilter")
ROLES = "/apis/rbac.authorization.k8s.io/v1"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
BOUND_S = 60.0


def settings_of(server: KubernetesServer, **given: Any) -> KubernetesSettings:
    return KubernetesSettings(**{"kubeconfig": str(server.kubeconfig), "qps": 0, "request_timeout_s": 10} | given)


@pytest.fixture
def store(empty: KubernetesServer) -> Iterator[KubernetesDatastore]:
    with closing(KubernetesDatastore(settings_of(empty))) as opened:
        yield opened


@pytest.fixture
def proxy(kubernetes: KubernetesServer) -> Iterator[FaultyProxy]:
    with closing(FaultyProxy(kubernetes.port)) as made:
        yield made


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pool(name: str) -> tuple[ResourceKey, IPPool]:
    return ResourceKey("IPPool", "", name), IPPool(metadata=ObjectMeta(name=name), spec=IPPoolSpec(cidr="10.0.0.0/16"))


def each_change_once(seen: Seen) -> bool:
    told = [(change.key, change.revision) for change in seen.changes if change.value is not None]
    return len(told) == len(set(told))


# ── servers ──


def end_server(server: KubernetesServer) -> None:
    server.kill_server()
    server.start_server()
    server.wait_ready()


def end_etcd(server: KubernetesServer) -> None:
    server.kill_etcd()
    time.sleep(0.5)
    server.start_etcd()
    server.wait_ready()


@pytest.mark.parametrize("end", [end_server, end_etcd])
def test_agent_view_is_what_is_stored_after_a_restart_under_load(
    end: Callable[[KubernetesServer], None], empty: KubernetesServer, store: KubernetesDatastore
) -> None:
    stop = threading.Event()
    patient = PatientDatastore(store, patience_s=BOUND_S)

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            patient.put(set_key(f"s{number % 7}"), network_set(f"s{number % 7}", number))
            time.sleep(0.005)

    with feeding(store, Calculator.queries()) as (_, seen):
        writer = threading.Thread(target=write)
        writer.start()
        seen.until(lambda: len(seen.changes) > 20)
        end(empty)
        here = len(seen.changes)
        seen.until(lambda: len(seen.changes) > here + 20)
        stop.set()
        writer.join()
        stored = {record.key: record.revision for record in store.list([SETS]).records}
        seen.until(lambda: {k: c.revision for k, c in seen.view.items() if k in stored} == stored)
        assert each_change_once(seen)


def test_server_that_stands_still_is_unavailable_and_nothing_is_missed(
    empty: KubernetesServer, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "IDLE_S", 1.0)
    through = settings_of(empty, api_endpoint=f"https://127.0.0.1:{proxy.port}", request_timeout_s=0.5)
    with closing(KubernetesDatastore(settings_of(empty))) as direct, closing(KubernetesDatastore(through)) as store:
        watch = store.watch([SETS], revision=direct.list([SETS]).revision)
        first = direct.create(set_key("a"), network_set("a", 1))
        events: list[Event] = []
        until(lambda: quietly(watch, events))
        assert [event.record for event in events] == [first]
        proxy.freeze()
        with pytest.raises(DatastoreUnavailable):
            store.list([SETS])
        second = direct.put(set_key("a"), network_set("a", 2))
        with pytest.raises(DatastoreUnavailable):
            read_on(watch, [])
        proxy.thaw()
        proxy.cut()
        events.clear()
        until(lambda: quietly(watch, events))
        assert [event.record for event in events] == [second]
        watch.close()


def test_history_that_was_compacted_while_the_watch_was_broken_is_too_old(empty_uncached: KubernetesServer) -> None:
    with closing(FaultyProxy(empty_uncached.port)) as proxy:
        through = settings_of(empty_uncached, api_endpoint=f"https://127.0.0.1:{proxy.port}")
        direct, store = KubernetesDatastore(settings_of(empty_uncached)), KubernetesDatastore(through)
        watch = store.watch([SETS, POOLS], revision=direct.list([SETS]).revision)
        write_series(direct, "w", 2)
        events = collect(watch, lambda got: len(got) == 4)
        proxy.refuse()
        write_series(direct, "w", 2)
        empty_uncached.compact()
        proxy.accept()
        with pytest.raises(RevisionTooOld) as caught:
            read_on_through_outages(watch, events)
        assert not caught.value.other_history
        assert len(events) == 4
        watch.close()
        direct.close()
        store.close()


def read_on_through_outages(watch: Watch, into: list[Event]) -> None:
    deadline = time.monotonic() + BOUND_S
    while time.monotonic() < deadline:
        with contextlib.suppress(DatastoreUnavailable):
            into.extend(watch.next(0.2))
        time.sleep(0.05)


def test_cluster_restored_from_a_backup_has_another_history(empty_uncached: KubernetesServer, tmp_path: Path) -> None:
    server = empty_uncached
    server.kill()
    shutil.copytree(server.directory / "etcd", tmp_path / "backup")
    server.start()
    with closing(KubernetesDatastore(settings_of(server))) as store:
        write_series(store, "w", 200)
        listing = store.list([SETS])
        watch = store.watch([SETS], revision=listing.revision)
        assert list(watch.next(0.5)) == []
        server.kill()
        shutil.rmtree(server.directory / "etcd")
        shutil.copytree(tmp_path / "backup", server.directory / "etcd")
        server.start()
        with pytest.raises(RevisionTooOld) as caught:
            read_on_through_outages(watch, [])
        assert caught.value.other_history
        watch.close()
        with pytest.raises(RevisionTooOld) as caught:
            store.list([SETS], revision=listing.revision)
        assert caught.value.other_history


def test_quiet_watch_that_breaks_is_not_taken_for_another_history(
    empty: KubernetesServer, store: KubernetesDatastore, proxy: FaultyProxy
) -> None:
    """Revisions go on with what others write, so the server's cache of pools is behind the position all the time."""
    through = settings_of(empty, api_endpoint=f"https://127.0.0.1:{proxy.port}")
    with closing(KubernetesDatastore(through)) as other:
        write_series(store, "w", 5)
        watch = other.watch([POOLS], revision=store.list([SETS]).revision)
        assert list(watch.next(1.5)) == []
        events: list[Event] = []
        for number in range(3):
            write_series(store, "w", 2)
            proxy.cut()
            made = store.create(*pool(f"p{number}"))
            until(lambda: quietly(watch, events))
            assert [event.record for event in events] == [made]
            events.clear()
        watch.close()


def test_two_clusters_in_one_process_do_not_meet(empty: KubernetesServer, empty_uncached: KubernetesServer) -> None:
    one, two = KubernetesDatastore(settings_of(empty)), KubernetesDatastore(settings_of(empty_uncached))
    one.create(set_key("a"), network_set("a", "one"))
    two.create(set_key("a"), network_set("a", "two"))
    assert (mark_of(one.get(set_key("a"))), mark_of(two.get(set_key("a")))) == ("one", "two")
    one.close()
    assert mark_of(two.get(set_key("a"))) == "two"
    two.close()


# ── watches ──


def test_watches_that_the_server_ends_in_turn_have_neither_gap_nor_repeat(
    store: KubernetesDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "WATCH_S", (1, 1))
    watch = store.watch([SETS], revision=store.list([SETS]).revision)
    made = []
    for number in range(25):
        made.append(store.put(set_key("a"), network_set("a", number)))
        time.sleep(0.1)
    assert [event.record for event in collect(watch, lambda got: len(got) >= 25)] == made
    assert list(watch.next(0.2)) == []
    watch.close()


def test_slow_reader_holds_up_the_server_and_loses_nothing(
    store: KubernetesDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "BUFFERED_EVENTS", 5)
    watch = store.watch([SETS], revision=store.list([SETS]).revision)
    write_series(store, "w", 50)
    events: list[Event] = []
    while len(events) < 100:
        found = watch.next(5)
        assert found
        events += found
        time.sleep(0.005)
    assert [mark_of(event.record) for event in events[::2]] == [str(n) for n in range(50)]
    watch.close()


def test_rotated_token_is_used_when_a_watch_is_opened_again(
    empty: KubernetesServer, proxy: FaultyProxy, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("token-of-admin")
    endpoint = f"https://127.0.0.1:{proxy.port}"
    with closing(KubernetesDatastore(settings_of(empty, api_endpoint=endpoint, token_file=str(token)))) as store:
        watch = store.watch([SETS], revision=store.list([SETS]).revision)
        token.write_text("of-nobody")
        proxy.cut()
        with pytest.raises(DatastoreUnavailable, match="does not take the credentials"):
            read_on(watch, [])
        token.write_text("token-of-admin")
        made = store.create(set_key("a"), network_set("a"))
        events: list[Event] = []
        until(lambda: quietly(watch, events))
        assert [event.record for event in events] == [made]
        watch.close()


def quietly(watch: Watch, into: list[Event]) -> bool:
    """Whether something came by now."""
    with contextlib.suppress(DatastoreUnavailable):
        into.extend(watch.next(0.2))
    return bool(into)


# ── one kind in trouble ──


def permit(server: KubernetesServer, *plurals: str) -> None:
    """What ``somebody`` may read."""
    rules = [{"apiGroups": ["crd.projectcalico.org"], "resources": list(plurals), "verbs": ["get", "list", "watch"]}]
    role = {"metadata": {"name": "somebody"}, "rules": rules}
    server.request("PUT", f"{ROLES}/clusterroles/somebody", role)
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "somebody"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "somebody"}
    binding = {"metadata": {"name": "somebody"}, "roleRef": reference, "subjects": [subject]}
    server.request("PUT", f"{ROLES}/clusterrolebindings/somebody", binding)


def may_list(store: KubernetesDatastore, query: ResourceQuery) -> bool:
    try:
        store.list([query])
    except NotPermitted:
        return False
    return True


def test_permission_taken_for_one_kind_stops_no_other_and_is_made_up_for_when_given_back(
    empty: KubernetesServer, store: KubernetesDatastore, proxy: FaultyProxy
) -> None:
    permit(empty, "globalnetworksets", "ippools")
    mine = settings_of(
        empty, kubeconfig=str(empty.kubeconfig_for("somebody")), api_endpoint=f"https://127.0.0.1:{proxy.port}"
    )
    with closing(KubernetesDatastore(mine)) as limited:
        until(lambda: may_list(limited, POOLS) and may_list(limited, SETS))
        watch = limited.watch([SETS, POOLS], revision=store.list([SETS]).revision)
        seen = [store.create(set_key("a"), network_set("a")), store.create(*pool("p1"))]
        assert {event.key for event in collect(watch, lambda got: len(got) == 2)} == {one.key for one in seen}
        permit(empty, "globalnetworksets")
        until(lambda: not may_list(limited, POOLS))
        with pytest.raises(NotPermitted, match=r'"resources": \["ippools"\], "verbs": \["list"\]'):
            limited.list([SETS, POOLS])
        proxy.cut()  # a watch that runs is not asked again
        missed = store.create(*pool("p2"))
        written = store.create(set_key("b"), network_set("b"))
        assert [event.record for event in collect(watch, bool)] == [written]
        assert list(watch.next(0.3)) == []
        permit(empty, "globalnetworksets", "ippools")
        assert [event.record for event in collect(watch, bool, BOUND_S)] == [missed]
        watch.close()


def test_agent_without_a_right_says_which_and_goes_on_when_it_has_it(empty: KubernetesServer) -> None:
    permit(empty, "globalnetworksets")
    mine = settings_of(empty, kubeconfig=str(empty.kubeconfig_for("somebody")))
    seen = Seen()
    with closing(KubernetesDatastore(mine)) as limited:
        until(lambda: may_list(limited, SETS) and not may_list(limited, POOLS))
        feed = Feed(limited, [SETS, POOLS, CLUSTER], seen.sink, retry_min_s=0.05, retry_max_s=0.2)
        feed.start()
        until(lambda: '"resources": ["ippools"], "verbs": ["list"]' in feed.state.trouble)
        assert not feed.state.in_sync
        permit(empty, "globalnetworksets", "ippools", "clusterinformations")
        seen.until(lambda: seen.in_syncs == 1)
        assert not feed.state.trouble
        feed.stop()
        feed.join()


def test_definition_removed_and_made_again_stops_no_other_kind(
    empty: KubernetesServer, store: KubernetesDatastore, install: Callable[..., None]
) -> None:
    one, two = (ResourceKey("BGPFilter", "", name) for name in ("one", "two"))
    store.create(one, BGPFilter(metadata=ObjectMeta(name="one")))

    def there(seen: Seen, *keys: Key) -> bool:
        return {key for key in seen.view if isinstance(key, ResourceKey) and key.kind == "BGPFilter"} == set(keys)

    with feeding(store, [SETS, FILTERS]) as (_, seen):
        seen.until(lambda: there(seen, one))
        empty.request("DELETE", f"{DEFINITIONS}/bgpfilters.crd.projectcalico.org")
        seen.until(lambda: there(seen))
        made = store.create(set_key("a"), network_set("a"))
        seen.until(lambda: made.key in seen.view)
        assert list(store.list([FILTERS]).records) == []
        install(empty, CRD_GROUP, {"bgpfilters"})
        store.create(two, BGPFilter(metadata=ObjectMeta(name="two")))
        seen.until(lambda: there(seen, two))
        assert each_change_once(seen)


# ── lists ──


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "PAGE_OBJECTS", 3)


@pytest.mark.usefixtures("small_pages")
def test_pages_show_one_moment_of_all_collections(store: KubernetesDatastore) -> None:
    """Pool and set of a pair are written one after the other: a listing never shows a newer set with an older pool."""
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            store.put(*pool(f"p{number % 10:02}-{number}"))
            store.put(set_key(f"s{number}"), network_set(f"s{number}", number))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(10):
            for queries in ([SETS, POOLS], [POOLS, SETS]):
                listing = store.list(queries)
                found = [record.key.name for record in listing.records if isinstance(record.key, ResourceKey)]
                pools = {int(name.partition("-")[2]) for name in found if name.startswith("p")}
                sets = {int(name[1:]) for name in found if name.startswith("s")}
                assert pools - sets <= {max(pools, default=0)}
                assert sets <= pools
                assert listing.revision.isdecimal()
    finally:
        stop.set()
        writer.join()


@pytest.mark.usefixtures("small_pages")
def test_list_starts_again_when_its_moment_is_compacted_between_pages(
    empty_uncached: KubernetesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(KubernetesDatastore(settings_of(empty_uncached))) as store:
        for number in range(10):
            store.create(set_key(f"s{number}"), network_set(f"s{number}", 0))
        call, pages = store._api.call, []

        def compacting(method: str, target: str, *rest: Any) -> bytes:
            if "continue" in target and len(pages) < 2:
                pages.append(target)
                store._api.call = call  # type: ignore[method-assign]
                store.put(set_key("s9"), network_set("s9", len(pages)))
                empty_uncached.compact()
                store._api.call = compacting  # type: ignore[method-assign]
            return call(method, target, *rest)

        monkeypatch.setattr(store._api, "call", compacting)
        records = store.list([SETS]).records
        assert len(records) == 10
        assert mark_of(records[-1]) == "2"


def test_collection_that_cannot_be_read_at_the_moment_of_another_has_its_own_position(
    store: KubernetesDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when pods and custom resources are kept in two etcds."""
    store.create(set_key("a"), network_set("a"))
    call = store._api.call

    def apart(method: str, target: str, *rest: Any) -> bytes:
        if "resourceVersionMatch=Exact" in target and "globalnetworksets" in target and "shared" not in marks:
            target = target.replace("resourceVersion=", "resourceVersion=99")
        return call(method, target, *rest)

    marks: set[str] = set()
    monkeypatch.setattr(store._api, "call", apart)
    store.create(*pool("p"))
    before = store.list([POOLS])
    later = store.create(set_key("b"), network_set("b"))
    listing = store.list([POOLS, SETS])
    assert len(listing.records) == 3
    marks.add("shared")
    position = listing.revision if listing.revision.isdecimal() else listing.revision.split(",")[0]
    assert int(position) >= int(before.revision)
    watch = store.watch([POOLS, SETS], revision=listing.revision)
    made = store.put(set_key("b"), network_set("b", "new"))
    assert int(made.revision) > int(later.revision)
    assert [event.record for event in collect(watch, bool)] == [made]
    assert list(store.list([POOLS, SETS], revision=listing.revision).records) == list(listing.records)
    watch.close()


def test_a_datastore_that_is_closed_under_its_watch_is_reported_as_nothing_broken(
    store: KubernetesDatastore, caplog: pytest.LogCaptureFixture
) -> None:
    watch = store.watch([SETS, POOLS], revision=store.list([SETS, POOLS]).revision)
    watch.next(0.2)
    store.close()
    until(lambda: not any(thread.name.startswith("calico-kdd-") for thread in threading.enumerate()))
    assert "watching" not in caplog.text
    watch.close()
