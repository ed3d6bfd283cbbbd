"""Mock server on a socket: in a thread for tests, or in the foreground for the command line."""

from __future__ import annotations

import gc
import importlib.util
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from batchrt.testing.provider import MockProvider
    from batchrt.testing.serving.uvicorn_server import Server

__all__ = ["MockServer", "serve_forever"]

# Addresses for clients of a server that listens on every address.
_REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


class MockServer:
    """Serve a provider from a daemon thread with its own event loop, while entered.

    Entering returns once connections are accepted, and raises OSError if the address is taken. Leaving drops
    the requests still in flight, which the log counts as disconnects.

    Attributes:
        provider: the served provider; its log may be read from any thread.
        host: the listening address.
        port: the listening port; if 0 was given, it is 0 until entered.
    """

    def __init__(self, provider: MockProvider, host: str = "127.0.0.1", port: int = 0) -> None:
        self.provider = provider
        self.host = host
        self.port: int = port
        self._listening = threading.Event()
        self._server = _new_server(provider, self._listening.set)
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The server's root, where the control routes are: `http://127.0.0.1:PORT`."""
        return _url(self.host, self.port)

    @property
    def base_url(self) -> str:
        """The base URL for clients: `http://127.0.0.1:PORT/v1`."""
        return f"{self.url}/v1"

    def __enter__(self) -> Self:
        """Start serving; a server can be entered once."""
        if self._thread is not None:
            raise RuntimeError("this server has run already: call provider.serve() again")
        listener = _listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name=f"batchrt-mock-{self.port}", daemon=True
        )
        self._thread.start()
        self._listening.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server and wait for its thread to end."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()

    def _run(self, listener: socket.socket) -> None:
        try:
            _serve(self._server, listener)
        except BaseException as error:
            # Raised by the thread that waits in __enter__, if it still does.
            self._failure = error
            if self._listening.is_set():
                raise
        finally:
            listener.close()
            self._listening.set()


def serve_forever(
    provider: MockProvider,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    on_listening: Callable[[str], None] | None = None,
) -> None:
    """Serve `provider` from this thread until Ctrl-C or SIGTERM, then return or die of the latter.

    `on_listening` is called with the base URL once connections are accepted. Raises OSError if the address is
    taken, and ImportError that names the missing package where uvicorn is not installed. The process is
    assumed to be the server's own: the limit of open files is raised to its maximum, because each connection
    takes one, and garbage is collected less often.
    """
    _raise_file_limit()
    _collect_garbage_less()
    bound = _listen(host, port)
    base_url = f"{_url(host, bound.getsockname()[1])}/v1"
    with bound:
        tell = (lambda: None) if on_listening is None else partial(on_listening, base_url)
        try:
            _serve(_new_server(provider, tell), bound)
        except KeyboardInterrupt:
            return


def _new_server(provider: MockProvider, on_listening: Callable[[], None]) -> Server:
    try:
        from batchrt.testing.serving.uvicorn_server import Server
    except ImportError as error:
        raise ImportError(
            "the mock provider needs uvicorn and httptools to listen on a socket: pip install 'batchrt[mock]'"
        ) from error
    return Server(provider, on_listening)


def _serve(server: Server, listener: socket.socket) -> None:
    uvloop = importlib.util.find_spec("uvloop") is not None
    anyio.run(
        partial(server.serve, sockets=[listener]),
        backend="asyncio",
        backend_options={"use_uvloop": uvloop},
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def _url(host: str, port: int) -> str:
    name = _REACHABLE.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _collect_garbage_less() -> None:
    # Thousands of waiting requests are not garbage, and each collection scans them: at 2,500 in flight this
    # gives 40 % more requests a second and halves the tail latency.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _raise_file_limit() -> None:
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
