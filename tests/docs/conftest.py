"""The fixtures of the storage's own tests."""

from __future__ import annotations

from tests.storage.conftest import (
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
