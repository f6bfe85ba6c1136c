"""Runs the app with uvicorn until a signal ends it."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from rosepo_core.contracts.errors import RequestError, RosepoError
from rosepo_core.contracts.untrusted_text import message as as_message
from rosepo_core.data.catalogue_in_use import CatalogueInUse
from rosepo_core.serving.recommender import Recommender
from rosepo_core.serving.run_lists import RunLists
from rosepo_core.serving.web.app import create_app
from rosepo_core.serving.web.served_runs import ServedRuns
from rosepo_core.serving.web.service import Service
from rosepo_core.serving.web.settings import ServeSettings

LOOPBACK = ("127.0.0.1", "localhost", "::1")

log = logging.getLogger("rosepo.serve")


def serve(
    folders: Mapping[str, Path],
    load: Callable[[Path], Recommender],
    lists: Callable[[Path, CatalogueInUse], RunLists],
    settings: ServeSettings,
    *,
    host: str,
    port: int,
    started: Callable[[str], None],
) -> None:
    """Serve runs until SIGINT or SIGTERM. Then requests that have come are answered, and no new ones are taken.
    SIGHUP loads all runs again from their folders.

    Args:
        folders: the folder of each run, by name.
        load: loads a recommender from a folder.
        lists: opens the lists of all models in a folder, for the page.
        settings: limits and times.
        host: the address to listen at.
        port: the port; 0 for any that is free.
        started: receives the server's URL when it answers.

    Raises:
        RequestError: a run cannot be loaded, the address cannot be used, or it is not this machine's alone and there
            is no token.
    """
    if host not in LOOPBACK and settings.token is None:
        raise RequestError(
            f"--host {host} can be reached from other machines, so requests need a token: "
            "set ROSEPO_SERVE_TOKEN or give --token-file"
        )
    listener = _listener(host, port)
    with listener:
        service = Service(ServedRuns(folders, load, lists if settings.page else None), settings)
        place = f"[{host}]" if ":" in host else host
        url = f"http://{place}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            create_app(service),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(settings.timeout) + 5,
            lifespan="on",
        )
        _Server(config, service, lambda: started(url)).run(sockets=[listener])


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise RequestError(f"cannot listen at {host}, port {port}: {error.strerror}; choose another --port") from None
    return listener


class _Server(uvicorn.Server):
    """Ends well after a signal, and loads the runs again after SIGHUP."""

    def __init__(self, config: uvicorn.Config, service: Service, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._tell = service, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self.started:
            self._tell()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle signals inside the context. Uvicorn's own way raises them again after the end, as if the end had not
        been in order."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wanted = {signal.SIGINT: self.handle_exit, signal.SIGTERM: self.handle_exit, signal.SIGHUP: self._reload}
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _reload(self, number: int, frame: FrameType | None) -> None:
        threading.Thread(target=self._load_again, name="rosepo-reload", daemon=True).start()

    def _load_again(self) -> None:
        try:
            self._service.reload()
            log.warning("loaded again")
        except RosepoError as error:
            log.error("not all is loaded again: %s", as_message(str(error)))
