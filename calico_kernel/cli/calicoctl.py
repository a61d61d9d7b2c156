"""``calicoctl``: manage resources through whichever datastore the configuration names.

In:    arguments, flags and files as Calico's own calicoctl takes them.
Out:   text on standard output, errors on standard error, status 0 or 1.

Start-up time is what people feel, so a run imports only what its command needs: the sub-command's module is loaded when
it is chosen, and plugins' commands are looked for only when the word is none of ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from calico_kernel.cli.program import Command, Program

COMMANDS: Mapping[str, Command] = {
    "apply": Command(
        "calico_kernel.cli.write",
        "create resources, or replace those that exist",
        (
            "-f policy.yaml",
            "-f manifests/ -R --atomic",
            "-f - < policy.yaml",
        ),
    ),
    "create": Command(
        "calico_kernel.cli.write",
        "create resources",
        (
            "-f pool.yaml",
            "-f manifests/ --skip-exists",
        ),
    ),
    "replace": Command("calico_kernel.cli.write", "replace resources that exist", ("-f policy.yaml",)),
    "diff": Command(
        "calico_kernel.cli.diff",
        "show what apply would change; status 1 when there is something",
        ("-f manifests/ -R",),
        "0 nothing would change, 1 something would, 2 it could not be told or the arguments make no sense",
    ),
    "delete": Command(
        "calico_kernel.cli.write",
        "delete resources, by file or by kind and name",
        (
            "-f policy.yaml",
            "networkpolicy web -n shop",
            "tiers security --skip-not-exists",
        ),
    ),
    "patch": Command(
        "calico_kernel.cli.edit",
        "change a resource in place",
        (
            "ippool blue -p '{spec: {disabled: true}}'",
            'node n1 --patch \'{"spec": {"bgp": {"asNumber": 64513}}}\'',
        ),
    ),
    "label": Command(
        "calico_kernel.cli.edit",
        "add, change or remove a label of a resource",
        (
            "node n1 rack=a",
            "node n1 rack=b --overwrite",
            "node n1 rack --remove",
        ),
    ),
    "get": Command(
        "calico_kernel.cli.get",
        "show resources as a table, YAML or JSON",
        (
            "networkpolicy -A",
            "np web -n shop -o yaml",
            "nodes -o wide",
            "gnp -o jsonpath='{.items[*].metadata.name}'",
        ),
    ),
    "convert": Command(
        "calico_kernel.cli.convert",
        "make v3 resources of manifests of Calico's first API or of Kubernetes",
        (
            "-f policy-v1.yaml > policy.yaml",
            "-f old/ -R -o json",
            "-f - --from kubernetes < pods.yaml",
        ),
    ),
    "validate": Command(
        "calico_kernel.cli.validate",
        "check resources without a datastore",
        ("-f manifests/ -R", "-f policy.yaml --strict -o json"),
    ),
    "explain": Command(
        "calico_kernel.cli.explain",
        "say what happens to packets between two endpoints, and why",
        (
            "shop/web-1 shop/db-1 --port 5432",
            "203.0.113.9 shop/web-1 --port 443 -f manifests/",
        ),
    ),
    "ipam": Command(
        "calico_kernel.cli.ipam",
        "show, check and release addresses",
        (
            "show --show-blocks",
            "show --ip 10.1.0.7",
            "check --show-problem-ips -o report.json",
            "release --ip 10.1.0.7",
            "release --from-report report.json",
            "configure --strictaffinity true",
            "split 4 --name blue",
            "migrate --dry-run",
        ),
    ),
    "node": Command(
        "calico_kernel.cli.node",
        "status, diagnostics and start of the node agent; what this machine can do",
        (
            "status",
            "diags --log-dir /var/log/calico",
            "checksystem",
            "run --ip autodetect --ip-autodetection-method can-reach=192.0.2.1",
        ),
    ),
    "cluster": Command(
        "calico_kernel.cli.cluster",
        "collect diagnostics of the whole cluster",
        (
            "diags",
            "diags --since 1h --focus-nodes worker-3 --max-logs 10",
        ),
    ),
    "config": Command(
        "calico_kernel.cli.config",
        "check and show the configuration",
        (
            "show",
            "check -c /etc/calico/calicoctl.cfg",
        ),
    ),
    "datastore": Command(
        "calico_kernel.cli.datastore",
        "lock and unlock the datastore, carry its data to another",
        (
            "lock",
            "unlock",
            "migrate copy --from /etc/calico/sqlite.yaml --to /etc/calico/etcd.yaml",
            "migrate copy --from old.yaml --to new.yaml --overwrite -o json",
            "migrate lock",
            "migrate export > cluster.txt",
            "migrate import -f cluster.txt -c new.yaml",
            "migrate unlock",
            "migrate-policy-names",
        ),
    ),
    "crds": Command(
        "calico_kernel.cli.crds",
        "write the definitions of Calico's kinds for a Kubernetes cluster",
        (
            "| kubectl apply --server-side -f -",
            "--kind ippool --kind tier -o json",
            "--group projectcalico.org/v3",
        ),
    ),
    "completion": Command(
        "calico_kernel.cli.completion", "words offered by bash, zsh or fish while a command is typed", ("bash",)
    ),
    "version": Command(
        "calico_kernel.cli.version",
        "versions of this tool and of the cluster",
        (
            "",
            "--client",
            "--poll 5s",
        ),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the ``calicoctl`` executable."""
    return PROGRAM.main(sys.argv[1:] if argv is None else argv)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-l",
        "--log-level",
        default="panic",
        choices=["panic", "fatal", "error", "warn", "info", "debug"],
        metavar="LEVEL",
        help="panic (default), fatal, error, warn, info or debug",
    )
    parser.add_argument(
        "--allow-version-mismatch", action="store_true", help="work on a datastore that another version set up"
    )
    parser.add_argument("--context", default="", metavar="NAME", help="context of the kubeconfig to use")


PROGRAM = Program(
    name="calicoctl",
    about="Manage Calico resources: network policy, endpoints, nodes, addresses.",
    commands=COMMANDS,
    common=_common,
    load=import_module,
    usual=("/etc/calico/calicoctl.cfg",),
)


if __name__ == "__main__":
    sys.exit(main())
