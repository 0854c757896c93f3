"""A TLS server of asyncio or uvloop in a thread of its own, and clients that wait for each answer."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.manager.tls.pki import Issued, write

Loop = Callable[[], asyncio.AbstractEventLoop]


class EchoServer:
    """Sends every line back. `errors` are those of its loop."""

    def __init__(self, context: ssl.SSLContext, loop: Loop) -> None:
        self._context = context
        self._loop_factory = loop
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> EchoServer:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    @property
    def address(self) -> tuple[str, int]:
        return self._address

    def refusal(self, context: ssl.SSLContext) -> str:
        """Why the server does not shake hands with such a client, in OpenSSL's words; the connection is over then.

        The loops tell nobody, neither the client nor the program, so that the reason comes from a handshake in memory.
        """
        with pytest.raises(OSError), connected(self, context) as connection:  # noqa: PT011 whichever end sees it first
            connection.echo()
        return refused_by(self._context, context)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._loop_factory) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        handlers: set[asyncio.Task[None]] = set()

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            handlers.add(task)
            try:
                while line := await reader.readline():
                    writer.write(line)
                    await writer.drain()
            except OSError:  # the client went
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=self._context)
        self._address: tuple[str, int] = server.sockets[0].getsockname()
        self._ready.set()
        await self._end.wait()
        server.close()
        if handlers:
            await asyncio.wait(handlers)


def client(trust: Issued | None = None, **attributes: Any) -> ssl.SSLContext:
    """A client's context: with `trust` it checks the server; attributes are those of SSLContext."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trust is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=trust.pem.decode())
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # old versions of TLS are deprecated, which is what is tested
        for name, value in attributes.items():
            setattr(context, name, value)
    return context


def showing(context: ssl.SSLContext, issued: Issued, folder: Path) -> ssl.SSLContext:
    """The same, and it shows a certificate where it is asked for one."""
    path = folder / "shown.pem"
    write(path, issued.pem + issued.key_pem, 0o600)
    context.load_cert_chain(path)
    return context


def refused_by(server: ssl.SSLContext, context: ssl.SSLContext) -> str:
    """The reason that the server gives; fails where it has none."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = context.wrap_bio(to_client, to_server, server_hostname="llm.test")
    there = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        with suppress(ssl.SSLWantReadError):
            here.do_handshake()
        try:
            there.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as error:
            return error.reason
    pytest.fail("the server has taken the client")


class Connection:
    """A client's connection, after the handshake."""

    def __init__(self, wrapped: ssl.SSLSocket) -> None:
        self.ssl = wrapped

    def echo(self, text: str = "hello") -> str:
        """What the server sends back. Raises OSError where the connection is over."""
        self.ssl.sendall(text.encode() + b"\n")
        received = b""
        while not received.endswith(b"\n"):
            part = self.ssl.recv(4096)
            if not part:
                raise ConnectionResetError("the server has ended the connection")
            received += part
        return received.decode().rstrip("\n")

    @property
    def certificate(self) -> x509.Certificate:
        der = self.ssl.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der)


@contextmanager
def connected(
    server: EchoServer,
    context: ssl.SSLContext | None = None,
    *,
    host: str | None = "llm.test",
    session: ssl.SSLSession | None = None,
) -> Iterator[Connection]:
    """`host` is the name that the client asks for, None for none."""
    with (
        socket.create_connection(server.address, timeout=10) as plain,
        (context or client()).wrap_socket(plain, server_hostname=host, session=session) as wrapped,
    ):
        yield Connection(wrapped)
