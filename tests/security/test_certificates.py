"""Certificates say what the authority decided, and a daemon is who its certificate says."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mycelial.kernel.clock import ManualClock, SystemClock
from mycelial.kernel.errors import NotAllowed, OperationFailed, StateCorrupt
from mycelial.security import ca as ca_module
from mycelial.security.ca import (
    CertificateAuthority,
    daemon_id_of_certificate,
    key_hash,
    make_csr,
)
from mycelial.security.tls import ca_pin, client_context, server_context

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
OTHER = "01890a5d-ac96-774b-bcce-b302099a8058"


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create_or_load(tmp_path / "ca")


def parsed(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def der_of(pem: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem)


def request(key: object, *extensions: x509.ExtensionType, name: str = "till-1") -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    signed = builder.sign(key, algorithm)  # type: ignore[arg-type]
    return signed.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_keys_are_private(tmp_path: Path, authority: CertificateAuthority) -> None:
    files = authority.server_context_files()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "ca").iterdir()}
    assert modes["ca.key"] == modes["server.key"] == 0o600
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700
    assert files.key.name == "server.key"


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_a_key_that_others_can_read_is_refused(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    (tmp_path / "ca" / "ca.key").chmod(0o644)
    with pytest.raises(OperationFailed) as caught:
        CertificateAuthority.create_or_load(tmp_path / "ca")
    assert caught.value.code == "MYC-SEC-004"


def test_the_authority_is_the_same_after_a_restart(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    again = CertificateAuthority.create_or_load(tmp_path / "ca")
    assert (again.ca_pem, again.pin()) == (authority.ca_pem, authority.pin())


@pytest.mark.parametrize("damage", ["no key", "empty key", "foreign key", "no certificate text"])
def test_a_damaged_authority_is_reported_and_not_replaced(
    tmp_path: Path, authority: CertificateAuthority, damage: str
) -> None:
    key, cert = tmp_path / "ca" / "ca.key", tmp_path / "ca" / "ca.pem"
    if damage == "no key":
        key.unlink()
    elif damage == "empty key":
        key.write_bytes(b"")
    elif damage == "foreign key":
        key.write_bytes(make_csr("x")[0])
    else:
        cert.write_bytes(b"nothing")
    before = cert.read_bytes()
    with pytest.raises(StateCorrupt) as caught:
        CertificateAuthority.create_or_load(tmp_path / "ca")
    assert (caught.value.code, cert.read_bytes()) == ("MYC-SEC-002", before)


def test_creation_cut_short_after_the_key_is_completed(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    pem = authority.sign_daemon(make_csr("till-1")[1], daemon_id=ID, name="till-1")
    (tmp_path / "ca" / "ca.pem").unlink()
    again = CertificateAuthority.create_or_load(tmp_path / "ca")
    parsed(pem).verify_directly_issued_by(parsed(again.ca_pem))


def test_daemon_certificate_says_only_what_we_decided(authority: CertificateAuthority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = request(
        key,
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectAlternativeName(
            [
                x509.UniformResourceIdentifier(f"urn:mycelial:daemon:{OTHER}"),
                x509.DNSName("control.example"),
            ]
        ),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        name="somebody else",
    )
    pem = authority.sign_daemon(csr, daemon_id=ID, name="till-1")
    found = parsed(pem)
    found.verify_directly_issued_by(parsed(authority.ca_pem))
    extensions = found.extensions
    assert found.subject.rfc4514_string() == "CN=till-1"
    assert found.public_key() == key.public_key()
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == [
        x509.UniformResourceIdentifier(f"urn:mycelial:daemon:{ID}")
    ]
    assert daemon_id_of_certificate(der_of(pem)) == ID
    lifetime = found.not_valid_after_utc - found.not_valid_before_utc
    assert timedelta(days=90) <= lifetime < timedelta(days=91)


def _tampered() -> str:
    good = x509.load_pem_x509_csr(make_csr("till-1")[1].encode())
    der = bytearray(good.public_bytes(serialization.Encoding.DER))
    at = der.index(b"till-1")
    der[at : at + 6] = b"till-2"
    return str(x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode())


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: "", id="empty"),
        pytest.param(lambda: "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", id="cut"),
        pytest.param(lambda: str(make_csr("x")[0], "ascii"), id="a private key"),
        pytest.param(lambda: make_csr("x")[1] + " " * 8192, id="too large"),
        pytest.param(_tampered, id="bad signature"),
        pytest.param(lambda: request(rsa.generate_private_key(65537, 1024)), id="weak RSA"),
        pytest.param(lambda: request(rsa.generate_private_key(65537, 2048)), id="RSA"),
        pytest.param(lambda: request(dsa.generate_private_key(2048)), id="DSA"),
        pytest.param(lambda: request(ec.generate_private_key(ec.SECP224R1())), id="P-224"),
        pytest.param(lambda: request(ec.generate_private_key(ec.SECP256K1())), id="secp256k1"),
    ],
)
def test_unacceptable_request_is_refused(authority: CertificateAuthority, make: object) -> None:
    with pytest.raises(NotAllowed) as caught:
        authority.sign_daemon(make(), daemon_id=ID, name="till-1")  # type: ignore[operator]
    assert caught.value.code == "MYC-SEC-003"


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()]
)
def test_strong_keys_are_accepted(authority: CertificateAuthority, key: object) -> None:
    pem = authority.sign_daemon(request(key), daemon_id=ID, name="till-1")
    assert daemon_id_of_certificate(der_of(pem)) == ID


@pytest.mark.parametrize(
    ("daemon_id", "name"),
    [
        ("x", "till"),
        (ID.upper(), "till"),
        (ID + "\n", "till"),
        (ID, ""),
        (ID, "a b"),
        (ID, "x" * 64),
    ],
)
def test_malformed_identity_is_not_signed(
    authority: CertificateAuthority, daemon_id: str, name: str
) -> None:
    with pytest.raises(NotAllowed):
        authority.sign_daemon(make_csr("x")[1], daemon_id=daemon_id, name=name)


def test_key_hash_follows_the_key_and_nothing_else() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert key_hash(request(key, name="a")) == key_hash(request(key, name="b"))
    assert key_hash(request(key)) != key_hash(make_csr("a")[1])


def _foreign(*names: x509.GeneralName, is_ca: bool = False) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime(2026, 1, 1, tzinfo=UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


_URI = x509.UniformResourceIdentifier(f"urn:mycelial:daemon:{ID}")


@pytest.mark.parametrize(
    "der",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x30\x80junk", id="junk"),
        pytest.param(_foreign(), id="no names"),
        pytest.param(_foreign(x509.DNSName("x")), id="a host"),
        pytest.param(_foreign(_URI, _URI), id="two names"),
        pytest.param(_foreign(_URI, x509.DNSName("x")), id="a daemon and a host"),
        pytest.param(_foreign(_URI, is_ca=True), id="an authority"),
        pytest.param(
            _foreign(x509.UniformResourceIdentifier("urn:mycelial:daemon:x")), id="no uuid"
        ),
    ],
)
def test_a_certificate_that_names_no_one_daemon_is_nobody(der: bytes) -> None:
    assert daemon_id_of_certificate(der) is None


def test_server_certificate_is_kept_until_a_name_or_time_asks_for_a_new_one(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    authority = CertificateAuthority.create_or_load(tmp_path / "ca", clock=clock)
    first = authority.server_context_files().cert.read_bytes()
    assert authority.server_context_files().cert.read_bytes() == first
    second = authority.server_context_files(["control.example", "10.1.2.3"]).cert.read_bytes()
    assert second != first
    names = parsed(second.decode()).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert {"localhost", "control.example", socket.gethostname()} <= set(
        names.value.get_values_for_type(x509.DNSName)
    )
    assert {"127.0.0.1", "::1", "10.1.2.3"} == {
        str(address) for address in names.value.get_values_for_type(x509.IPAddress)
    }
    clock.advance(200 * 86400)
    assert authority.server_context_files().cert.read_bytes() != second


class Peer:
    """One TLS handshake on loopback, served from a thread."""

    def __init__(self, authority: CertificateAuthority) -> None:
        files = authority.server_context_files()
        self._context = server_context(
            cert=files.cert, key=files.key, ca=files.ca, client_required=True
        )
        self.seen: str | None = None

    def talk(self, client: ssl.SSLContext, *, host: str = "localhost") -> str | None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = threading.Thread(target=self._serve, args=(listener,))
            server.start()
            try:
                with (
                    socket.create_connection(listener.getsockname(), timeout=10) as raw,
                    client.wrap_socket(raw, server_hostname=host) as connection,
                ):
                    connection.sendall(b"hello")
                    assert connection.recv(10) == b"welcome"
                    return connection.version()
            finally:
                server.join()

    def _serve(self, listener: socket.socket) -> None:
        raw, _ = listener.accept()
        raw.settimeout(10)
        try:
            with self._context.wrap_socket(raw, server_side=True) as connection:
                connection.recv(10)
                certificate = connection.getpeercert(binary_form=True)
                assert certificate is not None
                self.seen = daemon_id_of_certificate(certificate)
                connection.sendall(b"welcome")
        except OSError:  # a refused handshake: the client's end tells
            raw.close()


@pytest.fixture
def enrolled(tmp_path: Path, authority: CertificateAuthority) -> tuple[Path, Path]:
    key, csr = make_csr("till-1")
    (tmp_path / "d.key").write_bytes(key)
    (tmp_path / "d.pem").write_text(authority.sign_daemon(csr, daemon_id=ID, name="till-1"))
    return tmp_path / "d.pem", tmp_path / "d.key"


def test_daemon_and_server_meet_over_tls_1_3_and_know_each_other(
    authority: CertificateAuthority, enrolled: tuple[Path, Path]
) -> None:
    cert, key = enrolled
    peer = Peer(authority)
    client = client_context(cert=cert, key=key, ca=authority.ca_pem)
    assert peer.talk(client) == "TLSv1.3"
    assert peer.seen == ID


@pytest.mark.parametrize(
    "case", ["no certificate", "foreign client", "foreign server", "host name", "TLS 1.2"]
)
def test_handshake_is_refused(
    tmp_path: Path, authority: CertificateAuthority, enrolled: tuple[Path, Path], case: str
) -> None:
    cert, key = enrolled
    other = CertificateAuthority.create_or_load(tmp_path / "other")
    peer, host = Peer(authority), "localhost"
    client = client_context(cert=cert, key=key, ca=authority.ca_pem)
    if case == "no certificate":
        client = client_context(cert=None, key=None, ca=authority.ca_pem)
    elif case == "foreign client":
        foreign_key, csr = make_csr("till-1")
        key.write_bytes(foreign_key)
        cert.write_text(other.sign_daemon(csr, daemon_id=ID, name="till-1"))
        client = client_context(cert=cert, key=key, ca=authority.ca_pem)
    elif case == "foreign server":
        client = client_context(cert=cert, key=key, ca=other.ca_pem)
    elif case == "host name":
        host = "elsewhere.example"
    else:
        client.minimum_version = ssl.TLSVersion.TLSv1_2
        client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError):  # noqa: PT011 - each case has its own alert
        peer.talk(client, host=host)
    assert peer.seen is None


def test_expired_daemon_certificate_is_refused(tmp_path: Path) -> None:
    clock = ManualClock(SystemClock().now() - 100 * 86400)
    authority = CertificateAuthority.create_or_load(tmp_path / "ca", clock=clock)
    key, csr = make_csr("till-1")
    (tmp_path / "d.key").write_bytes(key)
    (tmp_path / "d.pem").write_text(authority.sign_daemon(csr, daemon_id=ID, name="till-1"))
    peer = Peer(authority)
    client = client_context(cert=tmp_path / "d.pem", key=tmp_path / "d.key", ca=authority.ca_pem)
    with pytest.raises(OSError):  # noqa: PT011
        peer.talk(client)
    assert peer.seen is None


def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    with pytest.raises(OperationFailed) as caught:
        client_context(cert=tmp_path / "none.pem", key=None, ca=authority.ca_pem)
    assert (caught.value.code, "none.pem" in str(caught.value)) == ("MYC-SEC-001", True)


def test_pin_is_the_digest_of_exactly_one_certificate(authority: CertificateAuthority) -> None:
    der = parsed(authority.ca_pem).fingerprint(hashes.SHA256()).hex()
    assert ca_pin(authority.ca_pem) == der
    for text in ("", "x", authority.ca_pem * 2):
        with pytest.raises(OperationFailed):
            ca_pin(text)


def test_daemons_tls_loads_no_cryptography() -> None:
    import subprocess
    import sys

    code = (
        "import sys, mycelial.security.tls, mycelial.security.tokens, mycelial.security.secrets,"
        "mycelial.security.signing; print([m for m in sys.modules if m.startswith('cryptography')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert ca_module.CSR_BYTES_MAX == 8192
