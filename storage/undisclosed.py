"""Values that error trackers, tracebacks with variables and debuggers do not show.

They record ``repr`` of what the frames of an error hold, and Sentry looks into mappings and
sequences unless a class has ``__sentry_repr__``.
"""

from __future__ import annotations

from typing import Any


class Undisclosed:
    """A mixin: neither ``repr`` nor an error tracker shows what the object holds."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Name the type alone."""
        return f"<{type(self).__name__}>"

    def __sentry_repr__(self) -> str:
        """Name it to Sentry as ``repr`` does."""
        return repr(self)


class Held(Undisclosed):
    """Any object, held so that no frame shows it."""

    __slots__ = ("content",)

    def __init__(self, content: Any) -> None:
        """Hold ``content``."""
        self.content: Any = content


class Token(Undisclosed, bytes):
    """A session token. Anyone who has it is signed in."""

    __slots__ = ()


class Owner(Undisclosed, str):
    """An owner's id as text, which is a value of the session."""

    __slots__ = ()
