"""The machine and the versions; without them a figure means nothing."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from pymongo import MongoClient

from benchmarks.peers import NODE_PACKAGES

PYTHON_PACKAGES = ("aiohttp", "aiohttp-session", "cryptography", "pymongo", "motor", "redis")
NPM_PACKAGES = ("express", "express-session", "connect-mongo", "mongodb")


def describe(mongo_uri: str) -> dict[str, str]:
    """Return the machine and the versions of all programs in the run."""
    with MongoClient[dict[str, object]](mongo_uri) as client:
        mongod = str(client.server_info()["version"])
    versions = {
        "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {_kernel()}",
        "Load average at the start": f"{os.getloadavg()[0]:.2f}",
        "Python": platform.python_version(),
        "mongod": mongod,
        "redis-server": _version("redis-server", "--version"),
        "Node.js": _version("node", "--version"),
        "wrk": _version("wrk", "-v"),
    }
    versions |= {name: metadata.version(name) for name in PYTHON_PACKAGES}
    versions |= {f"{name} (npm)": _npm_version(name) for name in NPM_PACKAGES}
    return versions


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _kernel() -> str:
    return platform.release().partition("-")[0]


def _version(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "not installed"
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def _npm_version(name: str) -> str:
    try:
        return str(json.loads((NODE_PACKAGES / name / "package.json").read_text())["version"])
    except FileNotFoundError:
        return "not installed"
