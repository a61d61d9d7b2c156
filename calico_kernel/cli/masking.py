"""Text without its secrets, for what leaves the machine: configuration, resources, logs.

Pure. A value is hidden by the name it has (``password``, ``token``, ``etcdKey``, ``client-key-data`` ...), in YAML,
JSON, INI and shell assignments alike; a private key and the password of a URL are hidden wherever they stand. What
names a file, not its content, stays.
"""

from __future__ import annotations

import re

HIDDEN = "(hidden)"

_NAME = (
    r"[\w.\-]*(?:passw(?:or)?d|passphrase|secret|token|credential|psk|private[_\-]?key|key[_\-]?data|inline)[\w.\-]*"
    r"|(?:etcd|client|tls|typha)[_\-.]?key"
)
_BLOCK = re.compile(
    rf"^([ \t]*)(- )?[\"']?(?:{_NAME})[\"']?[ \t]*:[ \t]*[|>][+\-\d]*[ \t]*\n"
    r"(?:(?(2)\1  [ \t]+|\1[ \t]+).*\n?|[ \t]*\n)+",
    re.IGNORECASE | re.MULTILINE,
)
_VALUE = re.compile(
    rf"(?P<name>(?<![\w.\-])(?:{_NAME}))(?P<between>\\?[\"']?[ \t]*[:=][ \t]*)"
    r"(?P<value>\\\"[^\"]*?\\\"|\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,}\]\"'|>{\[][^\s,}\]]*)",
    re.IGNORECASE,
)
_PAIR = re.compile(
    rf"(?P<before>\bname\\?[\"']?[ \t]*:[ \t]*\\?[\"']?(?P<name>{_NAME})\\?[\"']?,?\s*(?:- )?"
    r"\\?[\"']?value\\?[\"']?[ \t]*:[ \t]*)"
    r"(?P<value>\\\"[^\"]*?\\\"|\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\n,}]+)",
    re.IGNORECASE,
)
"""Variables of a container: ``name: ETCD_PASSWORD``, and in the next line ``value``."""
_FLAG = re.compile(rf"(?P<before>--(?P<name>{_NAME})[ \t]+)(?P<value>[^\s-][^\s\"',]*)", re.IGNORECASE)
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
_URL = re.compile(r"(?P<before>\w://[^\s/:@\"']*:)[^\s/@\"']+@")
_FILE = re.compile(r"(?:file|path|dir|name|namespace|ref|ttl|url|uri)s?$", re.IGNORECASE)
_HARMLESS = frozenset({"true", "false", "null", "~", '""', "''", "none"})


LONG = 1 << 20
_HINT = re.compile(r"passw|passphrase|secret|token|credential|psk|key|inline|://", re.IGNORECASE)


def masked(text: str) -> str:
    """In long text, a log or a listing, single values are looked for line by line, and only where a line has a word to
    look for."""
    text = _PAIR.sub(_behind, _BLOCK.sub(_block, _PEM.sub(HIDDEN, text)))
    if len(text) < LONG:
        return _masked(text)
    return "\n".join(_masked(line) if _HINT.search(line) else line for line in text.split("\n"))


def _masked(text: str) -> str:
    text = _FLAG.sub(_behind, _VALUE.sub(_value, text))
    return _URL.sub(rf"\g<before>{HIDDEN}@", text)


def _behind(found: re.Match[str]) -> str:
    if _FILE.search(found["name"]):
        return found[0]
    return f"{found['before']}{_hidden(found['value'])}"


def _hidden(value: str) -> str:
    """In the quotes of the value, so that what was JSON or YAML still is."""
    quote = re.match(r"\\?[\"']", value)
    return f"{quote[0]}{HIDDEN}{quote[0]}" if quote else HIDDEN


def _block(found: re.Match[str]) -> str:
    head = found[0].partition("\n")[0]
    return f"{head[: head.rindex(':') + 1]} {HIDDEN}\n"


def _value(found: re.Match[str]) -> str:
    name, value = found["name"], found["value"]
    if _FILE.search(name) or value.lower() in _HARMLESS:
        return found[0]
    return f"{name}{found['between']}{_hidden(value)}"
