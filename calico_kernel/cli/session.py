"""What one run of a tool works with: the configuration, the composition, the client. Each is made on first use.

In:    the parsed arguments (``--config``).
Out:   an open ``Client``; closed at the end of the run.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from calico_kernel.errors import CalicoError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calico_kernel.client import Client
    from calico_kernel.compose import Composition
    from calico_kernel.config import Config, PluginChoice


class Failed(Exception):
    """The command has said all there is to say; exit with status 1."""


class Session:
    """``path``: of the configuration file, None for the first of ``usual`` that exists. ``context``: of a kubeconfig,
    in place of its current one. All may be set until the configuration is first used."""

    def __init__(self, config_path: str | None, usual: Sequence[str] = ()) -> None:
        self.path = config_path
        self.usual = usual
        self.context = ""

    @cached_property
    def config(self) -> Config:
        from calico_kernel.config import DEFAULT_PATH, load

        config = load(self.path, usual=(*self.usual, DEFAULT_PATH))
        return _in_context(config, self.context) if self.context else config

    @cached_property
    def composition(self) -> Composition:
        from calico_kernel.compose import compose

        return compose(self.config)

    @cached_property
    def client(self) -> Client:
        from calico_kernel.client import Client

        composition = self.composition
        return Client(
            store=composition.open_datastore(),
            ipam=composition.open_ipam if composition.has_ipam else None,
            validators=composition.validators(),
        )

    def plugins_or_none(self) -> Composition | None:
        """For commands that work without a datastore: the plugins' kinds and checks where the configuration works, a
        word on standard error where it does not."""
        import sys

        try:
            return self.composition
        except CalicoError as exc:
            print(f"plugins are not asked: {exc.what}", file=sys.stderr)
            return None

    def reload(self) -> None:
        """Forget the configuration: the environment has changed."""
        self.close()
        for made in ("config", "composition", "client"):
            self.__dict__.pop(made, None)

    def close(self) -> None:
        if "composition" in self.__dict__:
            self.composition.close()


def _in_context(config: Config, context: str) -> Config:
    """``--context`` wins over the file and the environment; a datastore that is no Kubernetes has no use for it."""
    from msgspec.structs import replace

    from calico_kernel.config import Located, Origin

    origin = Origin("option", "--context")

    def given(choice: PluginChoice) -> PluginChoice:
        if choice.name != "datastore:kdd":
            return choice
        settings = {**choice.settings.value, "context": Located(context, origin)}
        variables = {name: text for name, text in choice.variables.items() if not name.endswith("_CONTEXT")}
        return replace(choice, settings=Located(settings, choice.settings.origin), variables=variables)

    return replace(config, plugins=tuple(given(choice) for choice in config.plugins))


def described(exc: CalicoError, resource: Any = None) -> str:
    """One error in the words of Calico's tools, with what to do where they say nothing; fit for a terminal.
    ``resource``: what was refused; the values of its wrong fields are shown."""
    from calico_kernel.cli.output import visible

    return visible(_described(exc, resource))


def _described(exc: CalicoError, resource: Any) -> str:
    from calico_kernel.cli.files import FileError
    from calico_kernel.client.common import AS_IT_IS
    from calico_kernel.errors import AlreadyExists, NotFound, NotPermitted, RevisionConflict, ValidationError

    if isinstance(exc, ValidationError):
        fields = [f"{_field(path, reason, resource)} ({reason})" if path else reason for path, reason in exc.problems]
        if len(fields) == 1:
            return f"error with field {fields[0]}"
        return "error with the following fields:\n" + "".join(f"-  {field}\n" for field in fields)
    if isinstance(exc, NotFound):
        return f"{exc.what} with error: not found"
    if isinstance(exc, AlreadyExists):
        return f"{exc.what} with error: {exc.todo}"
    if isinstance(exc, RevisionConflict | FileError) or (isinstance(exc, NotPermitted) and exc.todo == AS_IT_IS):
        return exc.what
    return f"{exc.what}; {exc.todo}"


LONGEST_VALUE = 60


def _field(path: str, reason: str, resource: Any) -> str:
    """``spec.order = '5'``; the path alone where there is nothing short to show, or the reason says it."""
    import msgspec

    from calico_kernel.cli.documents import plain

    value: Any = plain(resource) if resource is not None else None
    for step in path.replace("[", ".[").split("."):
        try:
            value = value[int(step[1:-1])] if step.startswith("[") else value[step]
        except (TypeError, KeyError, IndexError, ValueError):
            return path
    if isinstance(value, dict | None):
        return path
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return path if not text or len(text) > LONGEST_VALUE or text in reason else f"{path} = '{text}'"
