"""The control plane's certificate authority.

A request to sign proves possession of a key and nothing else: subject, names and extensions of
every certificate are ours, whatever the request asks for. Loads X.509 only when called.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from mycelial.kernel.clock import Clock, SystemClock
from mycelial.kernel.errors import NotAllowed, OperationFailed, StateCorrupt
from mycelial.kernel.files import make_private_dir, write_durable
from mycelial.security import tls
from mycelial.security.keyfiles import check_private

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

CSR_BYTES_MAX = 8 * 1024
DAEMON_DAYS = 90
SERVER_DAYS = 398
CA_DAYS = 3650
RENEW_AT = 0.5  # of a certificate's life
_URN = "urn:mycelial:daemon:"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62})")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
# Clocks of edge machines are off by minutes; a certificate valid from this instant would fail.
_BACKDATE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """Paths for the HTTP server; `ca` is also what verifies daemons."""

    cert: Path
    key: Path
    ca: Path


class CertificateAuthority:
    """Signs with a P-256 key that never leaves its directory (0700, files 0600)."""

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._files = ServerFiles(
            directory / "server.pem", directory / "server.key", directory / "ca.pem"
        )
        self._key_path = directory / "ca.key"
        self._key, self._certificate = self._load()

    @classmethod
    def create_or_load(cls, directory: Path, *, clock: Clock | None = None) -> CertificateAuthority:
        """Open the authority of a directory, making it on first use.

        Raises: StateCorrupt (MYC-SEC-002) when the certificate has lost its key: a new pair would
        lock every daemon out.
        """
        make_private_dir(directory)
        if os.name != "nt":
            directory.chmod(0o700)
        key, cert = directory / "ca.key", directory / "ca.pem"
        if not cert.exists():
            _create(key, cert, clock or SystemClock())
        return cls(directory, clock)

    @property
    def ca_pem(self) -> str:
        """The CA certificate, for daemons to trust."""
        return self._files.ca.read_text(encoding="ascii")

    def pin(self) -> str:
        """Return what join tokens carry."""
        return tls.ca_pin(self.ca_pem)

    def server_context_files(self, names: Iterable[str] = ()) -> ServerFiles:
        """Return paths of a server certificate for localhost, this host and `names`.

        It is made anew when it lacks a name or is past half its life.
        """
        import socket

        wanted = tuple(dict.fromkeys((*_LOCAL_NAMES, socket.gethostname(), *names)))
        if not self._server_is_good(wanted):
            self._issue_server(wanted)
        return self._files

    def sign_daemon(self, csr_pem: str, *, daemon_id: str, name: str) -> str:
        """Return a 90-day client certificate (PEM) for the key in a request.

        Raises: NotAllowed (MYC-SEC-003) for a request that is too large, malformed, not signed by
        its own key, or of a weak key.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding
        from cryptography.x509.oid import ExtendedKeyUsageOID

        if not _UUID.fullmatch(daemon_id) or not _NAME.fullmatch(name):
            raise _refuse_csr("the daemon's id or name is malformed")
        request = _load_csr(csr_pem)
        builder = self._builder(name, request.public_key(), days=DAEMON_DAYS)
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(_URN + daemon_id)]),
            critical=False,
        ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
        return self._sign(builder).public_bytes(Encoding.PEM).decode("ascii")

    def _load(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        from cryptography import x509

        if not self._key_path.exists():
            raise _corrupt(self._key_path, "the key is gone")
        key = _load_key(self._key_path)
        try:
            certificate = x509.load_pem_x509_certificate(self._files.ca.read_bytes())
        except (OSError, ValueError) as error:
            raise _corrupt(self._files.ca, type(error).__name__) from error
        if certificate.public_key() != key.public_key():
            raise _corrupt(self._files.ca, "key and certificate do not belong together")
        return key, certificate

    def _builder(self, name: str, key: object, *, days: int) -> x509.CertificateBuilder:
        from cryptography import x509

        now = datetime.fromtimestamp(self._clock.now(), UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._certificate.subject)
            .public_key(key)  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_ca=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        from cryptography.hazmat.primitives import hashes

        return builder.sign(self._key, hashes.SHA256())

    def _server_is_good(self, names: tuple[str, ...]) -> bool:
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature

        try:
            check_private(self._files.key)
            found = x509.load_pem_x509_certificate(self._files.cert.read_bytes())
            alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            found.verify_directly_issued_by(self._certificate)
        except (OSError, ValueError, TypeError, OperationFailed, InvalidSignature):
            return False
        except x509.ExtensionNotFound:
            return False
        begin, end = found.not_valid_before_utc, found.not_valid_after_utc
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        return set(_alternatives(names)) <= set(alternatives.value) and (
            begin <= now < begin + (end - begin) * RENEW_AT
        )

    def _issue_server(self, names: tuple[str, ...]) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding
        from cryptography.x509.oid import ExtendedKeyUsageOID

        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._builder("mycelial control plane", key.public_key(), days=SERVER_DAYS)
            .add_extension(x509.SubjectAlternativeName(_alternatives(names)), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
        )
        write_durable(self._files.key, _private_pem(key))
        write_durable(self._files.cert, self._sign(builder).public_bytes(Encoding.PEM))


def make_csr(name: str) -> tuple[bytes, str]:
    """Return (private key PEM, CSR PEM) for a daemon. Run it in a short-lived process."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder().subject_name(_name(name)).sign(key, hashes.SHA256())
    )
    return _private_pem(key), request.public_bytes(Encoding.PEM).decode("ascii")


def key_hash(csr_pem: str) -> str:
    """Return the hex SHA-256 of a request's public key; enrolment is idempotent by it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = _load_csr(csr_pem).public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def daemon_id_of_certificate(der: bytes) -> str | None:
    """Return the daemon that a peer certificate names, or None.

    The TLS layer has verified the chain; this only reads the name, and only an unambiguous one.
    """
    from cryptography import x509

    try:
        extensions = x509.load_der_x509_certificate(der).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return None
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or len(list(names)) != 1 or not uris[0].startswith(_URN):
        return None
    daemon_id = uris[0].removeprefix(_URN)
    return daemon_id if _UUID.fullmatch(daemon_id) else None


def _create(key_path: Path, cert_path: Path, clock: Clock) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    # The key first: cut short, the next start makes the certificate for the same key, and what
    # that key has signed stays good.
    if not key_path.exists():
        write_durable(key_path, _private_pem(ec.generate_private_key(ec.SECP256R1())))
    key = _load_key(key_path)
    now = datetime.fromtimestamp(clock.now(), UTC)
    subject = _name("mycelial CA")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_durable(cert_path, certificate.public_bytes(Encoding.PEM))


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    check_private(path)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise _corrupt(path, type(error).__name__) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _corrupt(path, "the key is of another type")
    return key


def _corrupt(path: Path, why: str) -> StateCorrupt:
    return StateCorrupt(
        "MYC-SEC-002",
        f"the certificate authority at {path} cannot be used: {why}",
        fix="restore ca.key and ca.pem from a backup; with both gone, a new authority is made "
        "and every daemon has to join again",
    )


def _name(common_name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(names: Iterable[str]) -> list[x509.GeneralName]:
    from cryptography import x509

    result: list[x509.GeneralName] = []
    for name in names:
        try:
            result.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            result.append(x509.DNSName(name.encode("idna").decode("ascii")))
    return result


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_csr(csr_pem: str) -> x509.CertificateSigningRequest:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    data = csr_pem.encode("utf-8", "replace")
    if len(data) > CSR_BYTES_MAX:
        raise _refuse_csr(f"it is larger than {CSR_BYTES_MAX} bytes")
    try:
        request = x509.load_pem_x509_csr(data)
        valid = request.is_signature_valid
        public = request.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _refuse_csr("it cannot be read") from error
    if not valid:
        raise _refuse_csr("it is not signed by its own key")
    if not _is_strong(public):
        raise _refuse_csr("its key is neither P-256, P-384 nor Ed25519")
    return request


def _is_strong(public: object) -> bool:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    if isinstance(public, ec.EllipticCurvePublicKey):
        return isinstance(public.curve, ec.SECP256R1 | ec.SECP384R1)
    return isinstance(public, ed25519.Ed25519PublicKey)


def _refuse_csr(why: str) -> NotAllowed:
    return NotAllowed(
        "MYC-SEC-003",
        f"the certificate request is refused: {why}",
        fix="let `mycelial daemon join` make the request",
    )
