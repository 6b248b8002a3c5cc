"""The fixtures of the storage's own tests."""

from __future__ import annotations

from tests.storage.conftest import (
    _fixed_mongomock,
    clock,
    collection,
    driver,
    log,
    make_storage,
    open_site,
    site,
    storage,
    visitor,
)

__all__ = [
    "_fixed_mongomock",
    "clock",
    "collection",
    "driver",
    "log",
    "make_storage",
    "open_site",
    "site",
    "storage",
    "visitor",
]
