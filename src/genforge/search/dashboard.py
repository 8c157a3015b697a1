"""Optuna's dashboard over the searches of a project, on this machine alone, to look at and not to change.

    python -m genforge.search.dashboard PROJECT PORT

It binds to the loopback address, answers to loopback names alone (a page from elsewhere that has its own name resolved
to this machine gets nothing), and refuses whatever would change a study.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from genforge.search.quick_import import SCIKIT_LEARN, without
from genforge.settings import UserError

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
LOOKING = ("GET", "HEAD")
REFUSED = b'{"reason": "searches are only looked at here"}'

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def is_installed() -> bool:
    """Whether optuna-dashboard is; an environment from before it was chosen has none."""
    return importlib.util.find_spec("optuna_dashboard") is not None


def serve(root: Path, port: int) -> None:
    """Answer on http://127.0.0.1:port until a signal ends the process.

    Raises:
        UserError: the port is taken, or the searches' database cannot be opened.
    """
    with without(SCIKIT_LEARN):
        from optuna_dashboard import wsgi

    from genforge.search.view import SearchView

    application = looking_only(wsgi(SearchView(root)))
    try:
        server = make_server(HOST, port, application, server_class=_Server, handler_class=_Handler)
    except OSError as error:
        raise UserError(f"port {port} of {HOST}: {error.strerror}; choose another with --search-port") from None
    with server:
        server.serve_forever()


def looking_only(application: Application) -> Application:
    """The application for those who look, by a name of this machine; for all others a refusal."""

    def guarded(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        name = str(environment.get("HTTP_HOST", HOST)).rpartition("]")[2].partition(":")[0]
        if environment["REQUEST_METHOD"] not in LOOKING or name not in NAMES:
            start("403 Forbidden", [("Content-Type", "application/json"), ("Content-Length", str(len(REFUSED)))])
            return [REFUSED]
        environment.setdefault("HTTP_ACCEPT_ENCODING", "")  # the dashboard fails for whoever does not send it
        return application(environment, start)

    return guarded


class _Server(ThreadingMixIn, WSGIServer):
    """A page asks for several things at once."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Silent: a page that is open asks every few seconds."""


def main() -> None:
    from genforge.ownership import end_with_owner, stop_on_signals

    end_with_owner()
    stop_on_signals()
    try:
        serve(Path(sys.argv[1]), int(sys.argv[2]))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
