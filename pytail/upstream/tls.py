"""The certificates to trust, and the client certificate of upstream."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from urllib3.util.ssl_ import create_urllib3_context

from pytail.errors import Remedy, SettingError


def trust(environ: Mapping[str, str], ca: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the authorities of the system, SSL_CERT_FILE and `ca`.

    Raises SettingError.
    """
    context = create_urllib3_context()
    # The defaults of OpenSSL include SSL_CERT_FILE, but hide an error in reading it.
    context.load_default_certs()
    file = environ.get("SSL_CERT_FILE")
    for name, path in (("SSL_CERT_FILE", Path(file) if file else None), ("upstream CA", ca)):
        if path is not None:
            _add(context, name, path)
    return context


def _add(context: ssl.SSLContext, name: str, path: Path) -> None:
    tried = path
    try:
        for tried in _pem_files(path):
            context.load_verify_locations(tried)
    except (OSError, ValueError) as error:
        remedy = Remedy.CA_NOT_USABLE.format(reason=_reason(error))
        raise SettingError(name, tried, remedy) from error


def _pem_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    # OpenSSL itself would read only files with a name given by `c_rehash`.
    files = [file for file in sorted(path.iterdir()) if file.is_file()]
    found = [file for file in files if b"CERTIFICATE-----" in file.read_bytes()]
    if not found:
        raise ValueError("no PEM file in this directory")
    return found


def certified(context: ssl.SSLContext, path: Path) -> ssl.SSLContext:
    """Return `context` with the client certificate and key at `path`. Raises SettingError."""
    try:
        # Without a passphrase, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(path, password=lambda: "")
    except (OSError, ValueError) as error:
        remedy = Remedy.CLIENT_CERT_NOT_USABLE.format(reason=_reason(error))
        raise SettingError("upstream client certificate", path, remedy) from error
    return context


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
