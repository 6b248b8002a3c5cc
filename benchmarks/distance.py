"""A server that is further away: a proxy on loopback that forwards everything some time later.

The proxy is `delay.c`, which costs little. Where there is no C compiler, this file is the proxy:
`python -m benchmarks.distance LISTEN TARGET MICROSECONDS`. That one costs much more, and asyncio
waits in whole milliseconds; the page says which one was used, and how much passes through it.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent / "delay.c"
_USAGE = "usage: python -m benchmarks.distance LISTEN TARGET MICROSECONDS"


def proxy(directory: Path) -> list[str]:
    """Return the command that starts the proxy; three arguments follow. Compiles it at first."""
    program, compiler = directory / "delay", shutil.which("cc")
    if compiler is None:
        return [sys.executable, "-m", "benchmarks.distance"]
    if not program.exists():
        subprocess.run([compiler, "-O2", "-o", program, SOURCE], check=True)
    return [str(program)]


async def open_proxy(listen: int, target: int, seconds: float) -> asyncio.Server:
    """Forward every connection of a port, or of a free one (0), to another port of 127.0.0.1.

    ``seconds`` is the time in each direction: half of the round trip.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, to_target = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(
            _forward(reader, to_target, seconds), _forward(answers, writer, seconds)
        )
        to_target.close()
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", listen)


async def _forward(source: asyncio.StreamReader, to: asyncio.StreamWriter, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    while data := await source.read(2**16):
        loop.call_later(seconds, to.write, data)
    await asyncio.sleep(seconds)
    to.write_eof()


async def _main(listen: int, target: int, microseconds: int) -> None:
    server = await open_proxy(listen, target, microseconds / 1e6)
    await server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(_USAGE)
    asyncio.run(_main(*map(int, sys.argv[1:])))
