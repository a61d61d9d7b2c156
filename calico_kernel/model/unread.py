"""Fields of a stored resource that this version does not know: kept when the resource is edited here.

In:    a resource, and the stored document that it was decoded from.
Out:   a document with what the resource says now, and beside it the fields that nobody here could read; to
       ``calico_kernel.model.codec``. Pure.

Only a read of one record looks for them (``codec.decode(whole=True)``). ``carried`` hands them to the edited resource;
one that is written without is stored as it says, as ``apply`` of a document is.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, cast

import msgspec

from calico_kernel.model.meta import Resource

R = TypeVar("R", bound=Resource)


def remembering(resource: R, document: Any) -> R:
    """The resource; where ``document`` holds fields that it does not, one that remembers them, of a class of its own:
    no other resource pays for room that next to none needs."""
    return _with(resource, document) if _holds_more(resource, document) else resource


def remembered(resource: Any) -> Any:
    """The document, None when every field of it was read."""
    return getattr(resource, "stored_document", None)


def carried(stored: object, edited: R) -> R:
    """``edited``, with what ``stored`` remembers."""
    document = remembered(stored)
    return edited if document is None else _with(edited, document)


def _with(resource: R, document: Any) -> R:
    made: R = _class_for(type(resource))(**{name: getattr(resource, name) for name in resource.__struct_fields__})
    made.__dict__["stored_document"] = document
    return made


@cache
def _class_for(kind: type[R]) -> type[R]:
    if kind.__struct_config__.dict:
        return kind
    config: Any = kind.__struct_config__
    made: Any = msgspec.defstruct(
        kind.__name__, [], bases=(kind,), module=__name__, tag=config.tag, dict=True, gc=True, frozen=True, kw_only=True
    )
    return cast("type[R]", made)


def completed(value: Any, document: Any) -> Any:
    """``value`` as plain objects, with the unread fields of ``document``. Those within an element of a list stay where
    the elements are as many as before, by place; else with the element that is equal in all that is read."""
    if isinstance(value, msgspec.Struct) and isinstance(document, dict):
        plain: dict[str, Any] = msgspec.to_builtins(value)
        for name, written in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
            if written in plain and written in document:
                plain[written] = completed(getattr(value, name), document[written])
        return {**plain, **_unread(value, document)}
    if isinstance(value, tuple) and isinstance(document, list):
        if len(value) == len(document):
            return [completed(one, old) for one, old in zip(value, document, strict=True)]
        left = list(document)
        return [completed(one, _taken(one, left)) for one in value]
    return msgspec.to_builtins(value)


def _unread(value: msgspec.Struct, document: dict[str, Any]) -> dict[str, Any]:
    known = {*value.__struct_encode_fields__, value.__struct_config__.tag_field}
    return {name: item for name, item in document.items() if name not in known}


def _holds_more(value: Any, document: Any) -> bool:
    if isinstance(value, msgspec.Struct) and isinstance(document, dict):
        return bool(_unread(value, document)) or any(
            _holds_more(getattr(value, name), document.get(written))
            for name, written in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
        )
    if isinstance(value, tuple) and isinstance(document, list):
        return any(_holds_more(one, old) for one, old in zip(value, document, strict=False))
    return False


def _taken(value: Any, left: list[Any]) -> Any:
    """The first of ``left`` that reads as ``value``, taken out; None without one."""
    for index, document in enumerate(left):
        try:
            if msgspec.convert(document, type(value)) == value:
                return left.pop(index)
        except msgspec.ValidationError:
            continue
    return None
