"""The messages of etcd's v3 API that we use, built when this module is imported.

In:    the field numbers of etcd's rpc.proto and kv.proto.
Out:   message classes of the protobuf library, whichever release is installed.
Owns:  a descriptor pool of its own, so that another library's etcd messages in the same process never clash with these.

Generated modules are bound to the protobuf release whose compiler made them; descriptors are not. Enums are written as
the integers that they are on the wire.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "etcdserverpb"

_INT64, _UINT64, _INT32, _BOOL, _STRING, _MESSAGE, _BYTES = 3, 4, 5, 8, 9, 11, 12
_SCALARS = {"int64": _INT64, "uint64": _UINT64, "int32": _INT32, "bool": _BOOL, "string": _STRING, "bytes": _BYTES}

# message -> field -> (number, type); a type in brackets is repeated. Members of a oneof are plain
# fields here: we set one of them, and on the wire that is the same.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "ResponseHeader": {"cluster_id": (1, "uint64"), "member_id": (2, "uint64"), "revision": (3, "int64")},
    "KeyValue": {"key": (1, "bytes"), "mod_revision": (3, "int64"), "value": (5, "bytes")},
    "Event": {"type": (1, "int32"), "kv": (2, "KeyValue")},
    "RangeRequest": {"key": (1, "bytes"), "range_end": (2, "bytes"), "limit": (3, "int64"), "revision": (4, "int64")},
    "RangeResponse": {"header": (1, "ResponseHeader"), "kvs": (2, "[KeyValue]"), "more": (3, "bool")},
    "PutRequest": {"key": (1, "bytes"), "value": (2, "bytes"), "lease": (3, "int64")},
    "PutResponse": {"header": (1, "ResponseHeader")},
    "DeleteRangeRequest": {"key": (1, "bytes"), "range_end": (2, "bytes"), "prev_kv": (3, "bool")},
    "DeleteRangeResponse": {"header": (1, "ResponseHeader"), "deleted": (2, "int64"), "prev_kvs": (3, "[KeyValue]")},
    "Compare": {"target": (2, "int32"), "key": (3, "bytes"), "version": (4, "int64"), "mod_revision": (6, "int64")},
    "RequestOp": {
        "request_range": (1, "RangeRequest"),
        "request_put": (2, "PutRequest"),
        "request_delete_range": (3, "DeleteRangeRequest"),
    },
    "ResponseOp": {
        "response_range": (1, "RangeResponse"),
        "response_put": (2, "PutResponse"),
        "response_delete_range": (3, "DeleteRangeResponse"),
    },
    "TxnRequest": {"compare": (1, "[Compare]"), "success": (2, "[RequestOp]"), "failure": (3, "[RequestOp]")},
    "TxnResponse": {"header": (1, "ResponseHeader"), "succeeded": (2, "bool"), "responses": (3, "[ResponseOp]")},
    "CompactionRequest": {"revision": (1, "int64"), "physical": (2, "bool")},
    "CompactionResponse": {"header": (1, "ResponseHeader")},
    "LeaseGrantRequest": {"TTL": (1, "int64")},
    "LeaseGrantResponse": {"header": (1, "ResponseHeader"), "ID": (2, "int64"), "error": (4, "string")},
    "WatchCreateRequest": {
        "key": (1, "bytes"),
        "range_end": (2, "bytes"),
        "start_revision": (3, "int64"),
        "progress_notify": (4, "bool"),
    },
    "WatchRequest": {"create_request": (1, "WatchCreateRequest")},
    "WatchResponse": {
        "header": (1, "ResponseHeader"),
        "created": (3, "bool"),
        "canceled": (4, "bool"),
        "compact_revision": (5, "int64"),
        "cancel_reason": (6, "string"),
        "events": (11, "[Event]"),
    },
    "AuthenticateRequest": {"name": (1, "string"), "password": (2, "string")},
    "AuthenticateResponse": {"header": (1, "ResponseHeader"), "token": (2, "string")},
}

DELETED = 1
"""``Event.type`` of a deletion; 0 is a put."""
TARGET_VERSION, TARGET_MOD_REVISION = 0, 2
"""``Compare.target``. Its result is left out, which means "equal"."""


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="calico/etcd.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, given) in fields.items():
            kind = given.strip("[]")
            made = message.field.add(
                name=field,
                number=number,
                type=_SCALARS.get(kind, _MESSAGE),
                label=3 if given.startswith("[") else 1,
            )
            if kind not in _SCALARS:
                made.type_name = f".{PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES
    }


_classes = _build()
RangeRequest = _classes["RangeRequest"]
PutRequest = _classes["PutRequest"]
DeleteRangeRequest = _classes["DeleteRangeRequest"]
Compare = _classes["Compare"]
RequestOp = _classes["RequestOp"]
TxnRequest = _classes["TxnRequest"]
CompactionRequest = _classes["CompactionRequest"]
LeaseGrantRequest = _classes["LeaseGrantRequest"]
WatchCreateRequest = _classes["WatchCreateRequest"]
WatchRequest = _classes["WatchRequest"]
WatchResponse = _classes["WatchResponse"]
AuthenticateRequest = _classes["AuthenticateRequest"]

METHODS = {
    "Range": ("KV", "RangeRequest", "RangeResponse"),
    "Txn": ("KV", "TxnRequest", "TxnResponse"),
    "Put": ("KV", "PutRequest", "PutResponse"),
    "DeleteRange": ("KV", "DeleteRangeRequest", "DeleteRangeResponse"),
    "Compact": ("KV", "CompactionRequest", "CompactionResponse"),
    "LeaseGrant": ("Lease", "LeaseGrantRequest", "LeaseGrantResponse"),
    "Authenticate": ("Auth", "AuthenticateRequest", "AuthenticateResponse"),
}
"""Calls with one answer: method -> (service, request, response)."""
WATCH_METHOD = f"/{PACKAGE}.Watch/Watch"


def response_class(method: str) -> Any:
    return _classes[METHODS[method][2]]


def method_path(method: str) -> str:
    return f"/{PACKAGE}.{METHODS[method][0]}/{method}"


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range that holds every key with ``prefix`` (which is no run of 0xff)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
