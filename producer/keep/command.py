"""`producer keep`: starts the duties and the HTTP server, and ends them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector

from jobs import logs
from jobs.errors import SettingsError
from jobs.http_server import HttpServer, Reply, Request
from jobs.settings import Settings
from producer.keep.board import Board
from producer.keep.end import hear_no_more
from producer.keep.hosts import Hosts
from producer.keep.keeper import Keeper
from producer.keep.metrics import KeepCollector
from producer.keep.paces import Paces
from producer.keep.page_data import PageData
from producer.keep.pictures import Pictures
from producer.keep.site import Site
from producer.session import Session, open_session

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """For people, who cannot open http://0.0.0.0."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"


def keep(*, host: str | None, port: int | None) -> None:
    """Serve until a signal ends the process. None: what the settings say.

    Raises:
        SettingsError: a bad variable, or an address that cannot be listened on.
    """
    session = open_session()
    settings = session.settings
    logs.configure(settings)
    address = _address(settings, host, port)
    board, paces = Board(), Paces(session.ledger)
    keeper = Keeper(session, board, paces)
    site = _site(session, board, paces, keeper=keeper)
    server = _listening(address, site.answering(Hosts.of(settings, address.host)))
    try:
        keeper.start()
        server.start()
        bound = Address(address.host, server.port)
        log.info("keep_started", url=bound.url, host=bound.host, port=bound.port, queue=settings.queue)
        threading.Event().wait()  # a signal raises
    finally:
        hear_no_more()
        server.stop()
        keeper.stop()
        log.info("keep_stopped")


def _site(session: Session, board: Board, paces: Paces, *, keeper: Keeper) -> Site:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(KeepCollector(board))
    data, pictures = PageData(session.ledger, board, paces), Pictures(session.ledger, session.settings)
    return Site(board, data, pictures, keeper=keeper, registry=registry)


def _address(settings: Settings, host: str | None, port: int | None) -> Address:
    chosen = settings.keep_host if host is None else host
    if chosen.startswith("[") and chosen.endswith("]"):
        chosen = chosen[1:-1]
    if not chosen:  # to the operating system, all addresses of this machine
        raise SettingsError(
            "--host, or RENDER_KEEP_HOST, is empty: give an address (127.0.0.1 for this machine only, 0.0.0.0 for all)"
        )
    return Address(chosen, settings.keep_port if port is None else port)


def _listening(address: Address, answer: Callable[[Request], Reply]) -> HttpServer:
    try:
        return HttpServer(address.host, address.port, answer=answer)
    except OSError as error:
        raise SettingsError(
            f"--host and --port, or RENDER_KEEP_HOST and RENDER_KEEP_PORT: cannot listen on {address.host} port "
            f"{address.port}: {error.strerror}"
        ) from error
