"""Secrets do not leave the machine; what else a configuration says does."""

from __future__ import annotations

import json

import pytest

from calico_kernel.cli.masking import HIDDEN, LONG, masked

PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\nhush\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize(
    "text",
    [
        "password: hush",
        "etcdPassword: 'hush, with a comma'",
        '{"token": "hush", "name": "x"}',
        '{"token":"hush \\" quoted"}',
        "{plugin: etcd, username: u, password: hush, endpoints: x}",
        "ETCD_PASSWORD=hush",
        "export CALICO_DATASTORE_PASSWORD=hush",
        "etcdKey: |\n  hush\n  hush\nnext: 1\n",
        "    - etcd_key: |-\n        hush\n",
        f"key: {json.dumps(PEM)}",
        "client-key-data: aHVzaA==hush",
        "kubeconfig_inline: hush",
        "bearerToken = hush",
        "aws_secret_access_key: hush",
        "endpoints: https://user:hush@etcd:2379",
        f"cert: |\n  {PEM}\n",
        f"some log line with {PEM} in it",
        "env:\n- name: ETCD_PASSWORD\n  value: hush\n- name: A\n  value: b\n",
        "    - name: API_TOKEN\n      value: 'hush hush'\n",
        '[{"name": "DB_PASSWORD", "value": "hush"}]',
        'last: |\n  {"env":[{"name":"DB_PASSWORD","value":"hush"},{"name":"a","value":"b"}]}\n',
        'x: "{\\"name\\":\\"DB_PASSWORD\\",\\"value\\":\\"hush\\"}"',
        "command: etcd --user-password hush --name a",
        "spec: {password: {secretKeyRef: {name: n, key: k}}, authToken: hush}",
    ],
)
def test_secret_is_hidden(text: str) -> None:
    assert "hush" not in masked(text) and HIDDEN in masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "- name: ETCD_KEY_FILE\n  value: /etc/key.pem\n",
        "- name: NODENAME\n  value: n1\n",
        "run --key-file /etc/key.pem --password-file x",
        "keyFile: /etc/calico/key.pem",
        "key_file: /etc/calico/key.pem",
        "etcdKeyFile: /x",
        "username: calico\nendpoints: https://etcd:2379",
        "password:\n",
        'password: ""',
        "automountServiceAccountToken: false",
        "secretName: bgp-secrets",
        "tokenTTL: 1h",
        '-A cali-FORWARD -m comment --comment "cali:abc" -j ACCEPT',
        "monkey: banana\nkeys: [a]",
        "selector: all()",
        "matchExpressions: [{key: app, operator: Exists}]",
        "tolerations:\n- key: node-role.kubernetes.io/control-plane\n",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "password=hush",
        "- name: A_TOKEN\n  value: hush",
        "tls.key: |\n  hush",
        '{"token": "hush"}',
        "https://u:hush@h",
        PEM,
        "a\nTOKEN: hush\nb",
    ],
)
def test_secret_in_a_long_log_is_hidden(text: str) -> None:
    line = "2026-11-21 INFO endpoint shop/web-1 changed\n"
    log = line * (LONG // len(line)) + text + "\n" + line
    assert "hush" not in masked(log) and masked(log).endswith(f"\n{line}") and masked(log).startswith(line)


def test_json_in_json_stays_json() -> None:
    inner = {"token": "hush", "env": [{"name": "A_TOKEN", "value": "hush"}], "b": 1}
    found = json.loads(masked(json.dumps({"x": json.dumps(inner), "password": "hush", "c": 2})))
    hidden = {"token": HIDDEN, "env": [{"name": "A_TOKEN", "value": HIDDEN}], "b": 1}
    assert found == {"x": json.dumps(hidden), "password": HIDDEN, "c": 2}


def test_neighbours_of_a_secret_stay() -> None:
    text = "a: 1\netcdKey: |\n  hush\n\n  hush\nb: 2\n"
    assert masked(text) == f"a: 1\netcdKey: {HIDDEN}\nb: 2\n"
    assert masked("- tls-key: |-\n    hush\n  other: 1\n") == f"- tls-key: {HIDDEN}\n  other: 1\n"
    assert masked('{"token": "hush", "b": 2}') == f'{{"token": "{HIDDEN}", "b": 2}}'
