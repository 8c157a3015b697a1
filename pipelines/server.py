"""A Prefect server for the time of one run, where no `PREFECT_API_URL` names a lasting one.

Prefect can start one itself, but that one loses task runs at its end and prints tracebacks about it; ours is an
ordinary server in a process of its own, on loopback, with its database under .genforge/prefect, so that the history
of runs stays.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from genforge import ownership
from genforge.progress import say
from genforge.settings import UserError
from pipelines.stages import Processes

SECONDS_TO_START = 120.0
SECONDS_BETWEEN_LOOKS = 0.5
MOST_RESTARTS = 5


@contextlib.contextmanager
def api(root: Path, processes: Processes, pages: bool = False) -> Iterator[str]:
    """The URL of a Prefect API: the one that `PREFECT_API_URL` names, or that of a server which ends with the block.

    Args:
        pages: whether a server of ours shows its pages to people, too; one that ends with a run need not.

    Raises:
        UserError: the one that was named does not answer, or the temporary one does not start.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        _check_answers(url)
        yield url
        return
    home = (root / ".genforge" / "prefect").absolute()
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        **ownership.environment(),
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "true" if pages else "false",
    }
    command = [
        sys.executable,
        "-m",
        "genforge.ownership",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with log.open("ab") as output:

        def start() -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
            return processes.started(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

        with start() as process:
            _wait(process, f"{url}/health", log)
            with _kept_alive(process, start):
                yield url


@contextlib.contextmanager
def _kept_alive(
    process: subprocess.Popen[bytes], start: Callable[[], contextlib.AbstractContextManager[subprocess.Popen[bytes]]]
) -> Iterator[None]:
    """Within the block, a server that was killed is started again, at the same address and on the same database: what
    talks to it would otherwise try for minutes, and tell the terminal about it."""
    over = threading.Event()

    def keep() -> None:
        with contextlib.ExitStack() as servers, contextlib.suppress(InterruptedError):  # the pipeline is stopping
            current = process
            for _ in range(MOST_RESTARTS):
                while current.poll() is None:
                    if over.wait(SECONDS_BETWEEN_LOOKS):
                        return
                servers.close()
                current = servers.enter_context(start())
                say("the temporary Prefect server was ended from outside; it is started again")
            over.wait()

    keeper = threading.Thread(target=keep, name="keeper of the Prefect server")
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def _check_answers(url: str) -> None:
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=10).close()  # noqa: S310  the user's own server
    except urllib.error.HTTPError:
        return  # it answers, be it that it wants to know who asks
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Prefect server answers at PREFECT_API_URL={url} ({error}); start it, or unset PREFECT_API_URL to use "
            f"a temporary one"
        ) from None


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise UserError(f"the temporary Prefect server ended with status {process.returncode}; see {log}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(address, timeout=2).close()  # noqa: S310  a loopback address made here
            return
        time.sleep(0.2)
    raise UserError(f"the temporary Prefect server did not answer within {SECONDS_TO_START:.0f} s; see {log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
