"""Names of models in paths: they may hold slashes (`acme/bert`), and end before our own paths begin.

With Starlette's own `path`, PUT /v1/models/bert/rollback would be a model `bert/rollback`."""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor

OIP_RESERVED = ("versions", "ready", "config", "stats", "infer", "load", "unload")
RESERVED = ("versions", "traffic", "rollback", "pause", "resume", "purge")


class _AsItIs(Convertor[str]):
    """What matches, as it is."""

    def convert(self, value: str) -> str:
        """As it is."""
        return value

    def to_string(self, value: str) -> str:
        """As it is."""
        return value


class ModelPath(_AsItIs):
    """One or more segments, up to the first that is reserved."""

    regex = rf"(?:(?!/(?:{'|'.join(RESERVED)})(?:/|$)).)+"


class OipModel(_AsItIs):
    """A model of /v2: one or more segments, up to the first that is the protocol's own."""

    regex = rf"(?:(?!/(?:{'|'.join(OIP_RESERVED)})(?:/|$)).)+"


class LetterId(_AsItIs):
    """One segment, but for the word that is a call of its own."""

    regex = r"(?!requeue(?:/|$))[^/]+"


# Starlette looks it up where routes are declared, which is at import: `{model:model}`.
register_url_convertor("model", ModelPath())
register_url_convertor("letter", LetterId())
register_url_convertor("oip", OipModel())

MODEL, OIP_MODEL, LETTER = "{model:model}", "{model:oip}", "{letter:letter}"  # in a route's path
