"""A stranger who sends a request without end costs a bounded amount of memory, and only theirs."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from mycelial.controlplane.server import HEAD_BYTES_MAX

_HEAD = b"POST /v1/enroll HTTP/1.1\r\nhost: x\r\n"
_CHUNKED = _HEAD + b"transfer-encoding: chunked\r\n\r\n"


def encrypted() -> ssl.SSLContext:
    found = ssl.create_default_context()
    found.check_hostname = False
    found.verify_mode = ssl.CERT_NONE
    return found


async def bytes_taken(port: int, start: bytes, piece: bytes, *, most: int) -> int:
    """Send until the connection is cut; return how much was sent before, at most `most`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=encrypted())
    sent = 0
    try:
        writer.write(start)
        while sent < most and not reader.at_eof():
            writer.write(piece)
            sent += len(piece)
            await writer.drain()
            await asyncio.sleep(0)
    except OSError:
        return sent
    finally:
        writer.transport.abort()
    return sent


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        pytest.param(b"GET /", b"a" * 8192, id="path"),
        pytest.param(_HEAD, b"a: b\r\n" * 1000, id="many-headers"),
        pytest.param(_HEAD + b"a: ", b"b" * 8192, id="one-header"),
        pytest.param(_HEAD, b"a" * 8192, id="name-of-a-header"),
        pytest.param(_CHUNKED + b"1;", b"a" * 8192, id="extension-of-a-chunk"),
        pytest.param(_CHUNKED + b"0\r\n", b"a: b\r\n" * 1000, id="trailers"),
        pytest.param(_CHUNKED + b"0\r\na: ", b"b" * 8192, id="one-trailer"),
    ],
)
async def test_a_request_whose_head_has_no_end_is_cut_off(world, start, piece) -> None:
    most = 400 * HEAD_BYTES_MAX  # far beyond what sockets hold on the way
    async with world.running():
        port = int(world.daemon_url.rsplit(":", 1)[1])
        assert await bytes_taken(port, start, piece, most=most) < most
        assert (await world.join()).name == "shop-01"  # the others are served


async def test_a_large_head_is_named_and_an_ordinary_one_served(world) -> None:
    async with world.running():
        port = int(world.daemon_url.rsplit(":", 1)[1])
        status = {}
        for size in (HEAD_BYTES_MAX // 2, HEAD_BYTES_MAX * 2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=encrypted())
            writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\na: " + b"b" * size + b"\r\n\r\n")
            status[size // HEAD_BYTES_MAX] = (await reader.readline()).split()[1]
            writer.transport.abort()
    assert status == {0: b"200", 2: b"431"}
