"""Merge the configuration file and the environment into one ``Config``.

In:    the file's tree from ``calico_kernel.config.source`` and the process environment.
Out:   ``Config``, to ``calico_kernel.compose``.

The rule for variables: ``CALICO_`` and the key's path, joined by ``_``, in capitals. It wins over the file.

    node                      CALICO_NODE=worker-1
    datastore                 CALICO_DATASTORE=sqlite            another word drops the settings of the file's plugin
    datastore.path            CALICO_DATASTORE_PATH=/x.db
    encapsulation             CALICO_ENCAPSULATION=vxlan,ipip    a list, comma-separated; empty text means none
    encapsulation vxlan port  CALICO_ENCAPSULATION_VXLAN_PORT=4789
    agent.health_port         CALICO_AGENT_HEALTH_PORT=9099

Where neither names a datastore, the variables of Calico's own tools do (``calico_kernel.config.official``), and a file
of theirs is understood in place of ours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from calico_kernel.config import official
from calico_kernel.config.settings import AgentSettings
from calico_kernel.config.source import DEFAULT, Located, Origin, did_you_mean, parse
from calico_kernel.config.typed import decode
from calico_kernel.errors import ConfigError

DEFAULT_PATH = "/etc/calico/calico.yaml"

SINGLE = ("datastore", "ipam", "dataplane")
"""Families of which one plugin serves."""
MANY = ("encapsulation", "routing", "extensions")
KEYS = ("node", *SINGLE, *MANY, "agent")
DEFAULT_WORDS = {"datastore": "sqlite", "ipam": "blocks"}


class PluginChoice(Struct, frozen=True, kw_only=True):
    """One plugin that the configuration names, with its settings as found.

    family:  "datastore", "ipam", "dataplane", "encapsulation", "routing" or "extension".
    key:     the key of the file, which is ``extensions`` for that last family.
    """

    family: str
    word: str
    settings: Located
    origin: Origin
    key: str
    prefix: str
    """Start of the names of its variables, e.g. ``CALICO_DATASTORE_``."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Those of them that are set."""

    @property
    def name(self) -> str:
        return f"{self.family}:{self.word}"

    @property
    def where(self) -> str:
        return f"{self.origin}: {self.key}"


class Config(Struct, frozen=True, kw_only=True):
    """What one node (or one tool) is composed of. ``path`` is "" when there is no file."""

    path: str
    node: str
    agent: AgentSettings
    plugins: tuple[PluginChoice, ...]
    origins: Mapping[str, Origin]
    """Where the values of ``node`` and of each ``agent`` setting came from, by dotted key."""
    environment: Mapping[str, str]
    """The ``CALICO_*`` variables that were set."""

    def chosen(self, family: str) -> tuple[PluginChoice, ...]:
        return tuple(choice for choice in self.plugins if choice.family == family)


def load(
    path: str | None = None, environment: Mapping[str, str] | None = None, *, usual: Sequence[str] = (DEFAULT_PATH,)
) -> Config:
    """Read the configuration. ``path`` (or ``CALICO_CONFIG``) must exist when given; else the first of ``usual`` that
    exists is read.

    Raises ConfigError naming file, line, key and what was found. Touches nothing.
    """
    environment = os.environ if environment is None else environment
    ours = {
        name: value
        for name, value in environment.items()
        if name.startswith("CALICO_") and name not in official.VARIABLES
    }
    _refuse_misspelt(ours)
    named = path or ours.get("CALICO_CONFIG") or ""
    used, tree = _first((named,) if named else usual, must_exist=bool(named))
    theirs = None
    if tree is not None and official.is_official(tree):
        theirs, tree = official.from_file(tree, environment), None
        ours = {name: value for name, value in ours.items() if not f"{name}_".startswith("CALICO_DATASTORE_")}
    top = _top(tree)
    if theirs is None and "datastore" not in top and "CALICO_DATASTORE" not in ours:
        theirs = official.from_environment(environment)
    if theirs is not None:
        word, settings, origin = theirs
        top = {**top, "datastore": Located({"plugin": Located(word, origin), **settings.value}, origin)}
    agent, origins = _agent(top.get("agent"), ours)
    node, origins["node"] = _node(top.get("node"), ours)
    plugins = [*(_single(key, top.get(key), ours) for key in SINGLE), *_many(top, ours)]
    return Config(
        path=used,
        node=node,
        agent=agent,
        plugins=_with_variables([choice for choice in plugins if choice is not None], ours),
        origins=origins,
        environment=ours,
    )


def _first(paths: Sequence[str], *, must_exist: bool) -> tuple[str, Located | None]:
    for path in paths:
        tree = _read(path, must_exist=must_exist)
        if tree is not None:
            return path, tree
    return "", None


def _refuse_misspelt(environment: Mapping[str, str]) -> None:
    """Variables of other keys than ours are others': Kubernetes makes CALICO_TYPHA_SERVICE_HOST of a service's name."""
    known = [key.upper() for key in KEYS]
    for variable in environment:
        word = variable.removeprefix("CALICO_").partition("_")[0]
        like = [key for key in known if key[:1] == word[:1] and abs(len(key) - len(word)) <= 2]
        close = did_you_mean(word, like, likeness=0.8) if like and word not in known else ""
        if close:
            raise ConfigError(
                what=f"environment {variable}: there is no key {word!r}{close}", todo="rename the variable, or unset it"
            )


def _with_variables(choices: Sequence[PluginChoice], environment: Mapping[str, str]) -> tuple[PluginChoice, ...]:
    """Hand each variable to the plugin it belongs to; one that belongs to none is refused."""
    owned: dict[str, dict[str, str]] = {choice.prefix: {} for choice in choices}
    for variable, text in environment.items():
        if not variable.startswith(tuple(f"CALICO_{key.upper()}_" for key in (*SINGLE, *MANY))):
            continue
        prefix = max((prefix for prefix in owned if variable.startswith(prefix)), key=len, default="")
        if not prefix:
            raise ConfigError(
                what=f"environment {variable}: no plugin that reads it is chosen",
                todo="unset it, or choose the plugin it is meant for",
            )
        owned[prefix][variable] = text
    return tuple(replace(choice, variables=owned[choice.prefix]) for choice in choices)


def _read(path: str, *, must_exist: bool) -> Located | None:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError as exc:
        if not must_exist:
            return None
        raise ConfigError(
            what=f"there is no configuration file {path}", todo="correct --config or CALICO_CONFIG, or write the file"
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(what=f"{path} cannot be read: {exc}", todo="make it a text file this user may read") from exc
    return parse(text, path)


def _top(tree: Located | None) -> dict[str, Located]:
    if tree is None:
        return {}
    if not isinstance(tree.value, dict):
        raise ConfigError(
            what=f"{tree.origin}: a mapping of settings was expected, found {_shown(tree.plain())}",
            todo="write lines such as `datastore: sqlite`",
        )
    top: dict[str, Located] = tree.value
    for key, value in top.items():
        if key not in KEYS:
            raise ConfigError(
                what=f"{value.origin}: unknown key {key!r}{did_you_mean(key, KEYS)}",
                todo=f"use one of: {', '.join(KEYS)}",
            )
    return top


def _node(given: Located | None, environment: Mapping[str, str]) -> tuple[str, Origin]:
    if "CALICO_NODE" in environment:
        given = Located(environment["CALICO_NODE"], Origin("environment", "CALICO_NODE"))
    if given is None:
        return os.uname().nodename.lower(), DEFAULT
    name = given.value
    if not isinstance(name, str) or not name or name != name.strip().lower() or "/" in name:
        raise ConfigError(
            what=f"{given.origin}: node is {_shown(given.plain())}",
            todo="give the node's name: lower-case text without slashes",
        )
    return name, given.origin


def _agent(given: Located | None, environment: Mapping[str, str]) -> tuple[AgentSettings, dict[str, Origin]]:
    given = given if given is not None else Located({}, DEFAULT)
    settings, origins = decode(AgentSettings, given, environment, "CALICO_AGENT_", where="agent")
    return settings, {f"agent.{name}": origin for name, origin in origins.items()}


def _single(key: str, given: Located | None, environment: Mapping[str, str]) -> PluginChoice | None:
    variable = f"CALICO_{key.upper()}"
    if given is None and key in DEFAULT_WORDS:
        given = Located(DEFAULT_WORDS[key], DEFAULT)
    word, settings, origin = _plugin(key, given) if given is not None else ("", Located({}, DEFAULT), DEFAULT)
    if variable in environment:
        chosen = environment[variable].strip()
        origin = Origin("environment", variable)
        if chosen != word:
            word, settings = chosen, Located({}, origin)
    if word in {"", "none"}:
        return None
    return PluginChoice(family=key, word=word, settings=settings, origin=origin, key=key, prefix=f"{variable}_")


def _many(top: Mapping[str, Located], environment: Mapping[str, str]) -> Sequence[PluginChoice]:
    choices = []
    for key in MANY:
        given = top.get(key)
        named = [_plugin(key, item) for item in _items(key, given)] if given is not None else []
        variable = f"CALICO_{key.upper()}"
        if variable in environment:
            origin = Origin("environment", variable)
            words = [word.strip() for word in environment[variable].split(",") if word.strip() not in {"", "none"}]
            known = {word: settings for word, settings, _ in named}
            named = [(word, known.get(word, Located({}, origin)), origin) for word in words]
        seen: dict[str, Origin] = {}
        for word, settings, origin in named:
            if word in seen:
                raise ConfigError(
                    what=f"{origin}: {key} names {word!r} twice, first at {seen[word]}", todo="keep one of the two"
                )
            seen[word] = origin
            choices.append(
                PluginChoice(
                    family="extension" if key == "extensions" else key,
                    word=word,
                    settings=settings,
                    origin=origin,
                    key=key,
                    prefix=f"{variable}_{word.upper().replace('-', '_')}_",
                )
            )
    return choices


def _items(key: str, given: Located) -> list[Located]:
    if given.value is None:
        return []
    if not isinstance(given.value, list):
        raise ConfigError(
            what=f"{given.origin}: {key} must be a list, found {_shown(given.plain())}",
            todo=f"write `{key}: [one, two]`, or `{key}: []` for none",
        )
    items: list[Located] = given.value
    return items


def _plugin(key: str, given: Located) -> tuple[str, Located, Origin]:
    """A word, or a mapping with ``plugin`` and that plugin's settings."""
    value, origin = given.value, given.origin
    if value is None or value == "":
        return "", Located({}, origin), origin
    if isinstance(value, str):
        return value, Located({}, origin), origin
    if isinstance(value, dict):
        word = value.get("plugin")
        if word is None:
            close = next((f"; is {name!r} meant as 'plugin'?" for name in value if did_you_mean(name, ["plugin"])), "")
            raise ConfigError(
                what=f"{origin}: {key} does not say which plugin{close}", todo=f"write `{key}: {{plugin: WORD, ...}}`"
            )
        if isinstance(word.value, str) and word.value:
            rest = {name: item for name, item in value.items() if name != "plugin"}
            return word.value, Located(rest, origin), word.origin
        origin, given = word.origin, word
    raise ConfigError(
        what=f"{origin}: {key} must name a plugin, found {_shown(given.plain())}",
        todo="write the plugin's word, or `{plugin: WORD, setting: value}`",
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
