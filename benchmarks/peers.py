"""The table of peers: how each is started, what it needs, and which requests it can answer."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workload import ROUTES, Kind

HERE = Path(__file__).parent
NODE_PACKAGES = HERE / "node" / "node_modules"

READ_ONLY: tuple[Kind, ...] = ("read",)
ALL_KINDS: tuple[Kind, ...] = tuple(ROUTES)


@dataclass(frozen=True, slots=True)
class Peer:
    """One program to compare; `name` is for the command line, `title` is for the page."""

    name: str
    title: str
    command: tuple[str, ...]
    kinds: tuple[Kind, ...] = ALL_KINDS
    programs: tuple[str, ...] = ()
    database: str | None = None  # where it stores its sessions in MongoDB
    distant: bool = False  # whether it is measured with distant databases too

    def missing(self) -> str | None:
        """Return why this peer cannot run on this machine, or None."""
        for program in self.programs:
            if shutil.which(program) is None:
                return f"{program} is not installed"
        if "node" in self.programs and not NODE_PACKAGES.is_dir():
            return "its npm packages are not installed"
        return None


def _python(
    name: str,
    title: str,
    *,
    kinds: tuple[Kind, ...] = ALL_KINDS,
    programs: tuple[str, ...] = (),
    database: str | None = None,
    distant: bool = False,
) -> Peer:
    command = (sys.executable, "-m", "benchmarks.apps", name)
    return Peer(name, title, command, kinds, programs, database, distant)


def _express(variant: str, title: str) -> Peer:
    return Peer(
        f"express-{variant}",
        title,
        ("node", str(HERE / "node" / "server.js"), "--variant", variant),
        programs=("node",),
        database=f"bench_express_{variant}",
    )


OURS = "pymongo"

PEERS: tuple[Peer, ...] = (
    _python("none", "aiohttp without sessions", kinds=READ_ONLY, distant=True),
    _python("find", "one bare `find_one`, no sessions", kinds=READ_ONLY),
    _python("shared", "shared finds, nothing opened", kinds=READ_ONLY, distant=True),
    _python("cookie", "EncryptedCookieStorage"),
    _python("redis", "RedisStorage", programs=("redis-server",), distant=True),
    _python("pymongo", "MongoStorage on PyMongo Async", database="bench_pymongo", distant=True),
    _python("motor", "MongoStorage on Motor", database="bench_motor"),
    _express("plain", "Express, connect-mongo"),
    _express("tuned", "Express, connect-mongo, tuned"),
    _express("crypto", "Express, connect-mongo, `crypto`"),
)


def choose(names: Sequence[str]) -> list[Peer]:
    """Return the peers of these names, or all if there are none, without those that cannot run.

    A peer that cannot run is printed with the reason, so that a missing row is explained.
    """
    chosen = []
    for peer in PEERS:
        if names and peer.name not in names:
            continue
        if reason := peer.missing():
            print(f"left out: {peer.title}: {reason}")
        else:
            chosen.append(peer)
    return chosen
