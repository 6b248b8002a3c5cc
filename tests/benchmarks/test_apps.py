"""The peers written in Python are served as the web app is."""

from __future__ import annotations

import gc

from aiohttp.test_utils import TestServer

from benchmarks.apps.__main__ import make_app


async def test_objects_of_a_started_peer_are_excluded_from_garbage_collection() -> None:
    """They are frozen when a peer has started, and the collector is still on."""
    app = await make_app("none", mongo="", redis="")

    try:
        async with TestServer(app):
            frozen, collects = gc.get_freeze_count(), gc.isenabled()
    finally:
        gc.unfreeze()

    assert frozen > 0
    assert collects
