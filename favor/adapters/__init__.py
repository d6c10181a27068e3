"""Adapters: small trained modules that let two frozen encoders tell each other what they perceive.

contract   what an adapter is
"""

from favor.adapters.contract import (
    AdapterLayer,
    AdapterOptions,
    Additions,
    Cost,
    Prompts,
    Site,
    StreamShape,
)

__all__ = ["AdapterLayer", "AdapterOptions", "Additions", "Cost", "Prompts", "Site", "StreamShape"]
