"""TLS contexts for both ends. Standard library only, so that a daemon loads no cryptography."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

from mycelial.kernel.errors import OperationFailed


def client_context(*, cert: Path | None, key: Path | None, ca: Path | str) -> ssl.SSLContext:
    """Return the context of a daemon: TLS 1.3, our CA only, the host name checked.

    `ca` is a file, or PEM text. Without `cert` and `key` it serves enrolment only.
    Raises: OperationFailed (MYC-SEC-001) when a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        if isinstance(ca, Path):
            context.load_verify_locations(cafile=str(ca))
        else:
            context.load_verify_locations(cadata=ca)
        if cert is not None:
            context.load_cert_chain(str(cert), str(key) if key else None, password=_no_password)
    except (OSError, ValueError) as error:
        raise _unusable(error, cert, key) from error
    return context


def server_context(*, cert: Path, key: Path, ca: Path, client_required: bool) -> ssl.SSLContext:
    """Return the context of a listener: TLS 1.3; `ca` signs the clients that may come in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED if client_required else ssl.CERT_OPTIONAL
    try:
        context.load_verify_locations(cafile=str(ca))
        context.load_cert_chain(str(cert), str(key), password=_no_password)
    except (OSError, ValueError) as error:
        raise _unusable(error, cert, key) from error
    return context


def ca_pin(ca_pem: str) -> str:
    """Return the hex SHA-256 of the CA certificate's DER: what a join token carries.

    Raises: OperationFailed (MYC-SEC-001) unless the text is exactly one certificate.
    """
    try:
        if ca_pem.count("-----BEGIN ") != 1:
            raise ValueError("it is not exactly one certificate")
        der = ssl.PEM_cert_to_DER_cert(ca_pem[ca_pem.index("-----BEGIN ") :])
    except ValueError as error:
        raise OperationFailed(
            "MYC-SEC-001",
            "the CA certificate cannot be read",
            fix="fetch it from the control plane again",
        ) from error
    return hashlib.sha256(der).hexdigest()


def _no_password() -> str:
    # Without a callback OpenSSL would ask on the terminal and block a service for ever.
    return ""


def _unusable(error: Exception, *paths: Path | None) -> OperationFailed:
    shown = ", ".join(str(path) for path in paths if path is not None) or "the CA"
    return OperationFailed(
        "MYC-SEC-001",
        f"TLS files cannot be used ({shown}): {error}",
        fix="check that the files exist, are readable by this user and belong together; "
        "a daemon gets new ones by joining again",
    )
