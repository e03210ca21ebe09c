"""Over https: nothing is followed elsewhere, and a credential goes to its own repository only."""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mycelial.gitops.remote import Access, RemoteSource
from mycelial.kernel.clock import SystemClock
from mycelial.kernel.errors import OperationFailed
from mycelial.kernel.secret import Secret

CANARY = "canary-77aa"


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.fromtimestamp(SystemClock().now(), UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem"


class Server:
    """An https server that notes what is asked, and answers with what it was told to."""

    def __init__(self, folder: Path) -> None:
        self.certificate = _certificate(folder)
        self.asked: list[tuple[str, str]] = []
        self.redirect_to = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Authorization", "")))
                self.send_response(302 if outer.redirect_to else 404)
                if outer.redirect_to:
                    self.send_header("Location", outer.redirect_to + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.05,))
        self.thread.start()
        self.url = f"https://localhost:{self.http.server_address[1]}"

    def stop(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(Server(tmp_path / name))
    # Both are trusted, so that only the rule about redirects can keep git from the second.
    both = "".join(server.certificate.read_text() for server in made)
    for server in made:
        server.certificate = tmp_path / "both.pem"
        server.certificate.write_text(both)
    yield made[0], made[1]
    for server in made:
        server.stop()


def test_redirect_to_another_host_is_not_followed(
    tmp_path: Path, servers: tuple[Server, Server]
) -> None:
    first, second = servers
    first.redirect_to = second.url
    access = Access(ca_file=first.certificate, user="bot", password=Secret(CANARY))
    source = RemoteSource(f"{first.url}/team/repo.git", cache=tmp_path / "c", access=access)
    with pytest.raises(OperationFailed) as caught:
        source.probe(None)
    assert len(first.asked) == 1
    assert second.asked == []
    assert CANARY not in str(caught.value) + repr(caught.value.problem)


def test_credential_is_sent_and_shown_nowhere(
    tmp_path: Path, servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TRACE_CURL", "1")
    monkeypatch.setenv("GIT_TRACE_REDACT", "0")
    server = servers[0]
    access = Access(ca_file=server.certificate, user="bot", password=Secret(CANARY))
    source = RemoteSource(f"{server.url}/team/repo.git", cache=tmp_path / "c", access=access)
    with pytest.raises(OperationFailed) as caught:
        source.probe(None)
    encoded = base64.b64encode(f"bot:{CANARY}".encode()).decode()
    assert [header for _, header in server.asked] == [f"Basic {encoded}"]
    text = str(caught.value) + repr(caught.value.problem) + repr(access)
    assert CANARY not in text
    assert encoded not in text


def test_server_with_an_unknown_certificate_is_refused(
    tmp_path: Path, servers: tuple[Server, Server]
) -> None:
    source = RemoteSource(f"{servers[0].url}/team/repo.git", cache=tmp_path / "c")
    with pytest.raises(OperationFailed) as caught:
        source.probe(None)
    assert servers[0].asked == []
    assert "certificate" in caught.value.problem.what
