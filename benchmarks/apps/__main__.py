"""Serve one Python peer: `python -m benchmarks.apps pymongo --port 8001 --mongo … --redis …`."""

from __future__ import annotations

import argparse
import asyncio
import gc

import uvloop
from aiohttp import web

from benchmarks.apps.storages import STORAGES


async def make_app(name: str, mongo: str, redis: str) -> web.Application:
    """Build the app of one peer."""
    app = web.Application()
    await STORAGES[name](app, mongo, redis)
    app.on_startup.append(freeze_startup_objects)
    return app


async def freeze_startup_objects(_app: web.Application) -> None:
    """Exclude the objects that the start has created from garbage collection.

    Every Python peer does so, as the web app does. Otherwise the collector stops a peer now and
    then for 20 to 50 ms, mostly to walk through the modules of the libraries, and the 99th
    percentile shows how often that happens, and not the storage.
    """
    gc.collect()
    gc.freeze()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=STORAGES)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mongo", required=True)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--uvloop", action="store_true")
    given = parser.parse_args()
    web.run_app(
        make_app(given.name, given.mongo, given.redis),
        host="127.0.0.1",
        port=given.port,
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop() if given.uvloop else asyncio.new_event_loop(),
    )


if __name__ == "__main__":
    main()
