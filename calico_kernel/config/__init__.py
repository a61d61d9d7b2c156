"""The one configuration file of a node and its tools: read, located, merged with the environment.

In:    a YAML file (``--config``, ``CALICO_CONFIG``, ``/etc/calico/calico.yaml``) and ``CALICO_*`` variables; or the
       file and variables of Calico's own tools.
Out:   ``Config``: the agent's settings, one ``PluginChoice`` for each plugin named, and where every value came from; to
       ``calico_kernel.compose``.
Owns:  nothing. Plugin settings stay undecoded here: only the plugin knows their types.
"""

from __future__ import annotations

from calico_kernel.config.reading import DEFAULT_PATH, Config, PluginChoice, load
from calico_kernel.config.settings import AgentSettings
from calico_kernel.config.source import Located, Origin

__all__ = ["DEFAULT_PATH", "AgentSettings", "Config", "Located", "Origin", "PluginChoice", "load"]
