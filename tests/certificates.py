"""A certificate for tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.conftest import missing


def certificate(folder: Path, name: str = "IP:127.0.0.1") -> Path:
    """Create a certificate that nobody trusts; return the file that has its key too.

    Beside it are `cert.pem` and `key.pem`.
    """
    key, cert, both = (folder / f"{part}.pem" for part in ("key", "cert", "both"))
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", f"/CN={name.partition(':')[2]}", "-addext", f"subjectAltName={name}"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    except FileNotFoundError:
        missing("openssl is not installed")
    both.write_text(key.read_text() + cert.read_text())
    return both
