"""Write docs/config-reference.md from the settings classes of the kernel and of the project's plugins.

    python -m tools.config_reference           write it
    python -m tools.config_reference --check   status 1 when it is not current

A field's description is its ``Meta(description=...)``, or what the class's docstring says behind ``name:``.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import typing
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import msgspec

from calico_kernel.cli.plugins import installed
from calico_kernel.config import AgentSettings
from calico_kernel.config.typed import field_names
from calico_kernel.plugins import SHIPPED

TARGET = Path(__file__).resolve().parent.parent / "docs" / "config-reference.md"

HEAD = """\
# Configuration reference

<!-- Written by `python -m tools.config_reference` from the settings classes; a test keeps it current. Do not edit. -->

One YAML file configures a node and its tools: `--config FILE`, else the variable `CALICO_CONFIG`, else
`/etc/calico/calico.yaml`. Without a file, the defaults are the SQLite datastore and block IPAM.

```yaml
node: worker-1                 # default: the host's name
datastore: {plugin: sqlite, path: /var/lib/calico/calico.db}
ipam: blocks
dataplane: iptables
encapsulation: [vxlan]
routing: []
extensions: [cni]
agent:
  log_format: text
```

A plugin is named by its word, or by a mapping with `plugin` and that plugin's settings. `none` or an empty value turns
`ipam` and `dataplane` off; the other families are lists.

Every value can also come from the environment, which wins over the file: `CALICO_` and the path of the key in capitals,
joined by `_`. `CALICO_DATASTORE=sqlite` chooses a plugin (another word than the file's drops the file's settings for
it), `CALICO_DATASTORE_PATH` sets its `path`, `CALICO_ENCAPSULATION=vxlan` is a comma-separated list, and settings of a
plugin in a list carry its word: `CALICO_ENCAPSULATION_VXLAN_DEVICE_IPV4`. Lists are comma-separated; anything deeper is
YAML.

A key or setting that nothing reads is an error, as is a value of the wrong type; the message names the file and line
(or the variable), what was found and what to do. So is a variable that begins like one of the keys and that nothing
reads; other variables that begin with `CALICO_` are taken for somebody else's. `calico config check` checks without
touching anything, `calico config show` prints every value in force and where it came from.

How policy is enforced (ports, MTU, timers that all nodes share) is not here: that is `FelixConfiguration`, in the
datastore.
"""

KEYS = {
    "datastore": "datastore",
    "ipam": "ipam",
    "dataplane": "dataplane",
    "encapsulation": "encapsulation",
    "routing": "routing",
    "extension": "extensions",
}


def reference() -> str:
    """The whole text."""
    parts = [HEAD, _section("`agent`", "", AgentSettings, "CALICO_AGENT_")]
    for family, word, module in installed():
        if (family, word) not in SHIPPED:
            continue
        plugin: Any = import_module(module)
        info = plugin.calico_plugin()
        key = KEYS[family]
        prefix = f"CALICO_{key.upper()}_"
        if key in {"encapsulation", "routing", "extensions"}:
            prefix += f"{word.upper().replace('-', '_')}_"
        title = f"`{key}`: `{word}`"
        said = f"{info.summary}. Install: `pip install {info.distribution}`."
        if info.settings is None:
            parts.append(f"## {title}\n\n{said} It has no settings.\n")
        else:
            parts.append(_section(title, said, info.settings, prefix))
    return "\n".join(parts)


def _section(title: str, said: str, struct: type[msgspec.Struct], prefix: str) -> str:
    summary, described = _docstring(struct)
    hints = typing.get_type_hints(struct, include_extras=True)
    lines = [f"## {title}", "", *([said, ""] if said else []), *([summary, ""] if summary else [])]
    lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for name, field in zip(field_names(struct), msgspec.structs.fields(struct), strict=True):
        hint = hints[field.name]
        metas = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
        text = next((meta.description for meta in metas if meta.description), described.get(name, ""))
        cells = [f"`{name}`", _type(hint), _default(field), text]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += [
        "",
        f"Variables: `{prefix}` and the setting in capitals, e.g. `{prefix}{field_names(struct)[0].upper()}`.",
    ]
    return "\n".join(lines) + "\n"


def _docstring(struct: type[msgspec.Struct]) -> tuple[str, dict[str, str]]:
    """What it says before the list of settings, and of each setting."""
    text = inspect.cleandoc(struct.__doc__ or "")
    names = "|".join(sorted(struct.__struct_fields__, key=len, reverse=True))
    pieces = re.split(rf"(?m)^({names}):[ \t]+", text)
    described = {name: " ".join(said.split()) for name, said in zip(pieces[1::2], pieces[2::2], strict=True)}
    return " ".join(pieces[0].split()), {
        name: re.sub(r"``([^`]*)``", r"`\1`", f"{said[:1].upper()}{said[1:]}") for name, said in described.items()
    }


def _type(hint: Any) -> str:
    metas = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    bare = hint.__origin__ if metas else hint
    origin = typing.get_origin(bare)
    if origin is Literal:
        return ", ".join(f"`{word}`" if word else "empty" for word in typing.get_args(bare))
    if origin in {tuple, list}:
        return f"list of {_type(typing.get_args(bare)[0])}"
    if origin is dict:
        return "mapping"
    if origin is not None:
        return " or ".join(_type(part) for part in typing.get_args(bare))
    word = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", type(None): "nothing"}.get(
        bare, getattr(bare, "__name__", str(bare))
    )
    bounds = [
        f"{sign} {value:g}"
        for sign, value in ((sign, getattr(meta, name)) for meta in metas for name, sign in _BOUNDS)
        if value is not None
    ]
    return f"{word}, {' and '.join(bounds)}" if bounds else word


_BOUNDS = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))


def _default(field: Any) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    elif field.default is not msgspec.NODEFAULT:
        value = field.default
    else:
        return "required"
    if value in ("", (), {}, None) and value is not False:
        return "empty"
    if isinstance(value, tuple | list):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{str(value).lower() if isinstance(value, bool) else f'{value:g}' if isinstance(value, float) else value}`"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 when the file is not current")
    args = parser.parse_args()
    text = reference()
    if not args.check:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{TARGET} is not current; run python -m tools.config_reference\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
