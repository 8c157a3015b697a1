"""Pages to look at on this machine: MLflow's over the runs, and Optuna's dashboard over the searches.

Each is a process of its own on the loopback address. Both end with this one, by whatever end that came to.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from genforge import ownership
from genforge.progress import say
from genforge.search import dashboard
from genforge.settings import UserError
from genforge.tracking import runs as tracking

HOST = "127.0.0.1"
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_STOP = 5.0  # from SIGTERM to SIGKILL


@dataclass(frozen=True)
class Page:
    """One server: what it shows, its module with arguments, its port, what it has in its environment besides, and where
    in it to look, by what is seen there."""

    title: str
    words: list[str]
    port: int
    environment: Mapping[str, str]
    places: Mapping[str, str]


def show(root: Path, port: int, search_port: int) -> None:
    """Serve both pages until a signal comes.

    Args:
        port: of MLflow. search_port: of Optuna's dashboard.

    Raises:
        UserError: a port is taken, or a server ends by itself.
    """
    pages = _dashboard(root, search_port)
    if (server := tracking.server_with_a_ui(root)) is not None:
        say(f"MLflow: {server}, where MLFLOW_TRACKING_URI points to, has pages of its own")
    else:
        words, environment = tracking.ui_command(root, port)
        pages.insert(0, Page("MLflow", words, port, environment, tracking.places_to_look(root)))
    if not pages:
        return
    for page in pages:
        _check_free(page.port)
    ownership.interrupt_on_signals()
    with contextlib.suppress(KeyboardInterrupt), _running(pages) as processes:
        say("starting; in some seconds there are pages to look at, and Ctrl-C ends them")
        silent = list(pages)
        while all(process.poll() is None for process in processes):
            for page in [page for page in silent if _answers(page.port)]:
                for what, place in page.places.items():
                    say(f"{page.title}, {what}: http://{HOST}:{page.port}{place}")
                silent.remove(page)
            time.sleep(SECONDS_BETWEEN_LOOKS)
        title, status = next(
            (page.title, process.returncode)
            for page, process in zip(pages, processes, strict=True)
            if process.poll() is not None
        )
        raise UserError(f"{title}: its server has ended with status {status}; what it said stands above")


def _dashboard(root: Path, port: int) -> list[Page]:
    if not dashboard.is_installed():
        say("no dashboard of searches: `pip install -r requirements.lock` brings optuna-dashboard")
        return []
    words = ["genforge.search.dashboard", str(root.resolve()), str(port)]
    return [Page("Optuna's dashboard", words, port, {}, {"searches and trials": ""})]


def _check_free(port: int) -> None:
    """Raises UserError when somebody listens there: of the two servers one would start, and end again."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"port {port} of {HOST}: {error.strerror}; choose others with --port and --search-port"
            ) from None


def _answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _running(pages: list[Page]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The pages' servers, each with its children in a group of its own; none of them is left when the block ends."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for page in pages:
            processes.append(
                subprocess.Popen(
                    # Not ours, or started by others as well: it watches its owner, should this process be killed.
                    [sys.executable, "-P", "-m", "genforge.ownership", *page.words],
                    env={**os.environ, **page.environment, **ownership.environment()},
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        yield processes
    finally:
        _end(processes)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """SIGTERM to all; SIGKILL to whoever is left some seconds later."""
    deadline = time.monotonic() + SECONDS_TO_STOP
    for process in processes:
        _send(signal.SIGTERM, process.pid)
    for process in processes:
        while time.monotonic() < deadline and (process.poll() is None or ownership.members(process.pid)):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        _send(signal.SIGKILL, process.pid)
        process.wait()


def _send(number: signal.Signals, group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
