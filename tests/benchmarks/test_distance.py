"""The proxies that put a server further away."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from benchmarks import distance
from benchmarks.servers import free_port

ONE_WAY_SECONDS = 0.02
ROUNDS = 5


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(2**16):
        writer.write(data)
    writer.close()


async def _connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(10):
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("compiled", [True, False], ids=["delay.c", "in Python"])
async def test_proxy_forwards_everything_in_order_and_one_round_trip_later(
    compiled: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Many chunks at once, and the end of the connection."""
    if not compiled:
        monkeypatch.setattr(shutil, "which", lambda _name: None)
    elif shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    echo = await asyncio.start_server(_echo, "127.0.0.1", 0)
    target, port = echo.sockets[0].getsockname()[1], free_port()
    microseconds = int(ONE_WAY_SECONDS * 1e6)
    proxy = await asyncio.create_subprocess_exec(
        *distance.proxy(tmp_path), str(port), str(target), str(microseconds)
    )
    sent = [os.urandom(50_000) for _ in range(ROUNDS)]
    loop = asyncio.get_running_loop()
    try:
        reader, writer = await _connected(port)
        begun_at = loop.time()
        writer.writelines(sent)
        writer.write_eof()
        async with asyncio.timeout(10):
            received = await reader.read(-1)
        took = loop.time() - begun_at
        writer.close()
    finally:
        proxy.terminate()
        await proxy.wait()
        echo.close()

    assert received == b"".join(sent)
    assert took >= 2 * ONE_WAY_SECONDS
