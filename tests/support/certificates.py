"""Certificates for tests of TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def certify(folder: Path, *names: str) -> tuple[Path, Path]:
    """Make a certificate that vouches for itself; return the files of it and of its key.

    Parameters
    ----------
    folder : Path
    *names : str
        Whom it is for: ``DNS:localhost``, ``IP:127.0.0.1`` ...
    """
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = [
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
        *("-subj", "/CN=localhost", "-addext", f"subjectAltName={','.join(names)}"),
        *("-keyout", str(key), "-out", str(certificate)),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("the program openssl is not installed")
    return certificate, key
