"""Settings: a YAML file, the environment and flags become one frozen value, or a list of faults.

Each fault is one line that names the key's path. The unit of a number is in its name. Only
``__main__``, ``demo`` and ``app`` read this package; everyone else gets plain values.

``model`` has the keys, their defaults and bounds; ``values`` and ``files`` say what a value may
look like, ``rules`` what does not go together; ``sources`` reads what was written, ``faults`` words
what is wrong with it; ``loading`` is the way through all of them.
"""

from proxy.settings.faults import SettingsError
from proxy.settings.loading import load
from proxy.settings.model import Settings, UpstreamSettings

__all__ = ["Settings", "SettingsError", "UpstreamSettings", "load"]
