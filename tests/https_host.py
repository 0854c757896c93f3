"""A web host of tests on 127.0.0.1: speaks TLS, and answers with the very bytes that it is told."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ssl
import struct
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME: Final = "images.test"


def png(side: int = 1) -> bytes:
    """A whole PNG of one colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress((b"\0" + b"\x40\x80\xc0" * side) * side)
    size = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


PNG: Final = png()
DATA_URL: Final = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """An HTTP answer; an empty header is left out. Content-Type is image/png where nothing else is said."""
    lines = {"Content-Type": "image/png", "Content-Length": str(len(body))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}Connection: close\r\n\r\n".encode() + body


def redirect(target: str) -> bytes:
    return answer(b"", "302 Found", Location=target)


class HttpsHost:
    """What it answers by path, and the heads of the requests that came. Other paths get no answer."""

    def __init__(self, server: asyncio.Server, answers: Mapping[str, bytes], trust: ssl.SSLContext) -> None:
        self.port: int = server.sockets[0].getsockname()[1]
        self.answers = dict(answers)
        self.trust = trust
        self.heads: list[str] = []
        self.waiting = 0
        self.most_waiting = 0

    def url(self, path: str, name: str = NAME) -> str:
        return f"https://{name}:{self.port}{path}"

    @property
    def paths(self) -> list[str]:
        return [head.split(" ")[1] for head in self.heads]


@asynccontextmanager
async def https_host(folder: Path, answers: Mapping[str, bytes], *, name: str = NAME) -> AsyncIterator[HttpsHost]:
    """A running host whose certificate is for `name`. `folder` gets its files."""
    certificate = _certificate(folder, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    tasks: set[asyncio.Task[None]] = set()
    host: HttpsHost

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        host.waiting += 1
        host.most_waiting = max(host.most_waiting, host.waiting)
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            host.heads.append(head)
            path = head.split(" ")[1]
            if path in host.answers:
                writer.write(host.answers[path])
                await writer.drain()
            else:
                await reader.read()  # until the client goes
        host.waiting -= 1
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    host = HttpsHost(server, answers, ssl.create_default_context(cafile=str(certificate)))
    try:
        yield host
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _certificate(folder: Path, name: str) -> Path:
    """A key and a certificate that it signed itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return file
