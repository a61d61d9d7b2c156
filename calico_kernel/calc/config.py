"""The FelixConfiguration that holds for this node.

In:   all stored documents, labels of this node, the environment.   Out: ``ResolvedConfig``.
"""

from __future__ import annotations

from collections.abc import Mapping

from calico_kernel.model.felix import FelixConfiguration
from calico_kernel.model.felix_resolve import choose, resolve
from calico_kernel.model.nodestate import ResolvedConfig
from calico_kernel.selector import parse

GLOBAL = "default"


class Configuration:
    """problems: name of a document (or "environment") -> what in it is not used."""

    def __init__(self, node: str, environment: Mapping[str, str]) -> None:
        self.problems: dict[str, str] = {}
        self._own = f"node.{node}"
        self._environment = dict(environment)
        self._documents: dict[str, FelixConfiguration] = {}
        self._labels: Mapping[str, str] | None = None
        self._resolved: ResolvedConfig | None = None

    def put(self, name: str, document: FelixConfiguration | None) -> None:
        """Store, replace or (None) forget. Raises SelectorError, and changes nothing, for an unusable nodeSelector."""
        if document is None:
            if self._documents.pop(name, None) is not None:
                self._resolved = None
            return
        if document.spec.node_selector:
            parse(document.spec.node_selector)
        if self._documents.get(name) != document:
            self._documents[name] = document
            self._resolved = None

    def put_labels(self, labels: Mapping[str, str] | None) -> None:
        """Labels of this node; None while it is unknown, when no selector chooses it."""
        if self._labels != labels:
            self._labels = labels
            self._resolved = None

    def resolve(self) -> ResolvedConfig:
        """The configuration as of now; the same object for as long as nothing was put."""
        if self._resolved is None:
            found = resolve(
                self._documents.get(GLOBAL), self._selected(), self._documents.get(self._own), self._environment
            )
            self._resolved = found.config
            self.problems = {}
            for parameter, reason in found.problems:
                source, _, why = reason.partition(": ")
                name = {"global": GLOBAL, "node": self._own}.get(source, source.removeprefix("selector:"))
                before = f"{self.problems[name]}; " if name in self.problems else ""
                self.problems[name] = f"{before}{parameter}: {why}"
        return self._resolved

    def _selected(self) -> FelixConfiguration | None:
        """Of the documents whose selector chooses this node, the oldest. Those with a name of their own meaning are
        never chosen."""
        labels = self._labels
        if labels is None:
            return None
        return choose(
            document
            for name, document in self._documents.items()
            if name != GLOBAL
            and not name.startswith("node.")
            and document.spec.node_selector
            and parse(document.spec.node_selector).matches(labels)
        )
