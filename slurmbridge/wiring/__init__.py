"""The composition root: from Settings to working objects. Nobody else sees Settings whole."""

from slurmbridge.wiring.site import PREVIEW_ID, Site

__all__ = ["PREVIEW_ID", "Site"]
