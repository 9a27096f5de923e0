"""Imported by workers alone: clients have no class for this."""


class ElsewhereError(Exception):
    """Nobody has heard of it."""
