"""The vocabulary of field types: what a field holds, beside how it is stored.

A field is annotated ``Annotated[str, Must(...)]``. Decoding ignores ``Must`` (readers are lenient, as Calico's are);
``documents`` uses it to bring what people write to its canonical form, ``validate`` to refuse what is wrong. The limits
are those of Calico's client validator and of its CRD schemas.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct


class Must(Struct, frozen=True, kw_only=True):
    """What one value must be. Empty text and None pass every check but ``required``, as in Calico.

    format:     a name in ``formats.CHECKS``, e.g. "net"; some formats also have a canonical form.
    one_of:     the values allowed; ``any_case`` ignores case.
    pattern:    a regular expression that the whole value must match.
    ge, le:     bounds of a number.
    max_len:    characters of text; max_items, min_items: entries of a list or map (an absent list passes min_items).
    unique:     no entry twice.
    omit_empty: an object without any field counts as absent (Go: ``omitzero``).
    """

    format: str = ""
    one_of: tuple[str, ...] = ()
    any_case: bool = False
    pattern: str = ""
    ge: int | None = None
    le: int | None = None
    max_len: int = 0
    max_items: int = 0
    min_items: int = 0
    unique: bool = False
    required: bool = False
    omit_empty: bool = False


Name = Annotated[str, Must(format="name")]
Selector = Annotated[str, Must(format="selector", max_len=1024)]
FreeSelector = Annotated[str, Must(format="selector")]
"""Without the limit on its length that the CRD schemas set elsewhere."""
Net = Annotated[str, Must(format="net")]
Cidr = Annotated[str, Must(format="cidr")]
WITH_LENGTH = Must(format="with-length")
"""Beside another format: a bare address is refused (``format: cidr`` of the CRD schemas)."""
Ip = Annotated[str, Must(format="ip")]
Ipv4 = Annotated[str, Must(format="ipv4")]
Ipv6 = Annotated[str, Must(format="ipv6")]
Cidrv4 = Annotated[str, Must(format="cidrv4")]
Cidrv6 = Annotated[str, Must(format="cidrv6")]
Mac = Annotated[str, Must(format="mac")]
Interface = Annotated[str, Must(format="interface")]
PortName = Annotated[str, Must(format="port-name")]
Duration = Annotated[str, Must(format="duration")]
"""Go's form: ``1m30s``. Whatever way it is written, it is stored in the canonical one."""
Regexp = Annotated[str, Must(format="regexp")]
AsNumber = Annotated[int | str, Must(format="asn")]
"""Stored as a number; people may write ``"1.10"``."""
Dscp = Annotated[int | str, Must(format="dscp")]
Protocol = Annotated[str | int, Must(format="protocol")]
"""``TCP`` ``UDP`` ``ICMP`` ``ICMPv6`` ``SCTP`` ``UDPLite`` or 1-255."""
EndpointProtocol = Annotated[str | int, Must(format="endpoint-protocol")]
Port = Annotated[int | str, Must(format="port")]
"""A number, ``"80:90"`` (inclusive), or the name of an endpoint's port."""
PortNumber = Annotated[int, Must(ge=1, le=65535)]
Switch = Annotated[str, Must(one_of=("Enabled", "Disabled"))]
RoutePriority = Annotated[int, Must(ge=1, le=2147483646)]
Labels = Annotated[dict[str, str], Must(format="labels")]
Annotations = Annotated[dict[str, str], Must(format="annotations")]
