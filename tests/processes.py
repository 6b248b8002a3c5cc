"""Processes for tests: started, read, and always ended."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATIENCE_SECONDS = 30.0
LISTENING = "listening on"
LOWEST_PORT, PORTS = 20_000, 12_000


class Process:
    """A command whose output is collected; `wait_for` returns once a text appears in it."""

    def __init__(
        self, *command: str, environ: Mapping[str, str], cwd: Path = ROOT, stdin: str | None = None
    ) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            command,
            env={**inherited(), **environ},
            cwd=cwd,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if self._process.stdin:
            self._process.stdin.write(stdin or "")
            self._process.stdin.close()

    @property
    def output(self) -> str:
        """Everything written so far, standard error included."""
        with self._changed:
            return "".join(self._lines)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def wait_for(self, text: str) -> str:
        """Return the output once `text` is in it; fails when the process ends or time is up."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self._changed:
            while text not in "".join(self._lines):
                ended = self._process.poll() is not None and not self._reader.is_alive()
                left = deadline - time.monotonic()
                if ended or left <= 0:
                    raise AssertionError(f"{text!r} did not appear in:\n{''.join(self._lines)}")
                self._changed.wait(min(left, 0.1))
        return self.output

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        self._process.send_signal(number)

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Return the exit code."""
        code = self._process.wait(seconds)
        self._reader.join(seconds)
        if self._process.stdout:
            self._process.stdout.close()
        return code

    def end(self) -> int:
        """End the process and return its exit code; kill it when it does not end."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            return self.wait()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()


@contextmanager
def webapp(
    *arguments: str, environ: Mapping[str, str], cwd: Path = ROOT, stdin: str | None = None
) -> Iterator[Process]:
    """Run `python -m webapp` with these arguments, and end it afterwards."""
    command = (sys.executable, "-m", "webapp", *arguments)
    process = Process(*command, environ=environ, cwd=cwd, stdin=stdin)
    try:
        yield process
    finally:
        process.end()


def run_webapp(
    *arguments: str, environ: Mapping[str, str], cwd: Path = ROOT, stdin: str | None = None
) -> tuple[int, str]:
    """Run `python -m webapp` to its end; return its exit code and output."""
    with webapp(*arguments, environ=environ, cwd=cwd, stdin=stdin) as process:
        return process.wait(), process.output


def inherited() -> dict[str, str]:
    """Return the variables that every child gets: for finding programs, and for coverage."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME") or "COVERAGE" in k}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def free_port() -> int:
    """Return a port of the loopback interface that is not used now.

    Not one of those that the kernel gives to outgoing connections (from 32768 on): a server that
    is killed and started again must find its port free.
    """
    while not is_free(port := LOWEST_PORT + secrets.randbelow(PORTS)):
        pass
    return port


def is_free(port: int) -> bool:
    """Tell whether a server could listen on a port of the loopback interface."""
    with socket.socket() as probe:
        # As servers do: accept a port whose old connections are in TIME_WAIT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def listens(*ports: int) -> bool:
    """Tell whether connections to each of these ports of the loopback interface are accepted."""
    for port in ports:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return False
    return True
