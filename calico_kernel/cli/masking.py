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
    r"|(?:etcd|client|tls|typha)?[_\-.]?key"
)
_BLOCK = re.compile(
    rf"^([ \t]*)(- )?[\"']?(?:{_NAME})[\"']?[ \t]*:[ \t]*[|>][+\-\d]*[ \t]*\n"
    r"(?:(?(2)\1  [ \t]+|\1[ \t]+).*\n?|[ \t]*\n)+",
    re.IGNORECASE | re.MULTILINE,
)
_VALUE = re.compile(
    rf"(?P<name>(?<![\w.\-])(?:{_NAME}))(?P<between>\\?[\"']?[ \t]*[:=][ \t]*)"
    r"(?P<value>\\?\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,}\]\"'|>{\[][^\s,}\]]*)",
    re.IGNORECASE,
)
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
_URL = re.compile(r"(?P<before>\w://[^\s/:@\"']*:)[^\s/@\"']+@")
_FILE = re.compile(r"(?:file|path|dir|name|namespace|ref|ttl|url|uri)s?$", re.IGNORECASE)
_HARMLESS = frozenset({"true", "false", "null", "~", '""', "''", "none"})


LONG = 1 << 20
_HINT = re.compile(r"passw|passphrase|secret|token|credential|psk|key|inline|://", re.IGNORECASE)


def masked(text: str) -> str:
    """Long text, which is a log or a table and no configuration, is looked at line by line, and only where a line has
    a word to look for."""
    text = _PEM.sub(HIDDEN, text)
    if len(text) < LONG:
        return _masked(_BLOCK.sub(_block, text))
    return "\n".join(_masked(line) if _HINT.search(line) else line for line in text.split("\n"))


def _masked(text: str) -> str:
    return _URL.sub(rf"\g<before>{HIDDEN}@", _VALUE.sub(_value, text))


def _block(found: re.Match[str]) -> str:
    head = found[0].partition("\n")[0]
    return f"{head[: head.rindex(':') + 1]} {HIDDEN}\n"


def _value(found: re.Match[str]) -> str:
    name, value = found["name"], found["value"]
    if _FILE.search(name) or value.lower() in _HARMLESS:
        return found[0]
    quote = '"' if value.startswith('"') else "'" if value.startswith("'") else ""
    return f"{name}{found['between']}{quote}{HIDDEN}{quote}"
