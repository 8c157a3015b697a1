"""The story of a team's schedule, told with real processes: a first model, new images, a better model, second thoughts.

`tell` is the story; who calls it says where the servers are, by the environment.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil

from tests.pipelines import small_project as small

# A model that has seen the images is better than one that has not, whatever the luck of its training.
RECIPE = {"recipes": {"vae": {"from": "vae", "training": {"steps": 80, "batch_size": 32}, "search": {"space": {}}}}}


class Heard(list[dict[str, Any]]):
    """What a webhook was told."""

    def wait_for(
        self, event: str, number: int, process: subprocess.Popen[str], seconds: float = 1200
    ) -> dict[str, Any]:
        """The so manieth event of this kind, once it is there."""
        deadline = time.monotonic() + seconds
        while len(found := [told for told in self if told["event"] == event]) < number:
            assert process.poll() is None, process.communicate()
            assert not [told for told in self if told["event"] == "failed"], self
            assert time.monotonic() < deadline, f"no {event} within {seconds} s; heard: {self}"
            time.sleep(0.2)
        return found[number - 1]


@contextlib.contextmanager
def webhook() -> Iterator[tuple[str, Heard]]:
    """The address of a receiver, and what it hears."""
    heard = Heard()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return None

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def staged(project: Path, variables: Mapping[str, str]) -> list[int | None]:
    """Versions that held `staging`, in their order, by the history of the aliases."""
    moves = json.loads(genforge(project, variables, "history", "--alias", "staging", "--json"))
    return [move["after"] for move in moves]


def genforge(project: Path, variables: Mapping[str, str], *words: str) -> str:
    environment = {**small.environment(project), **variables}
    done = subprocess.run(["genforge", *words], cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stdout


def tell(
    folder: Path, start: Callable[[Path, dict[str, str]], subprocess.Popen[str]], variables: Mapping[str, str]
) -> None:
    """The whole story in a new project.

    Args:
        folder: where it plays.
        start: starts what retrains on a change of data, looking every 10 s, in the project's folder and with this
            environment; until it is ended.
        variables: of the environment: the addresses of servers.
    """
    project = small.make(folder / "project", RECIPE)
    before = small.state_of(project)
    with webhook() as (address, heard):
        schedule = start(project, {**small.environment(project), **variables, "GENFORGE_WEBHOOK": address})
        try:
            # Nothing is staged yet: the first look finds work.
            first = heard.wait_for("retrained", 1, schedule)
            assert "shapes@staging is version 1 (vae)" in first["text"]

            # No change, no work.
            assert "nothing new" in heard.wait_for("nothing new", 1, schedule)["text"]
            assert staged(project, variables) == [1]

            # New images arrive, of another kind; the model that knows them passes its gates and is staged.
            small.draw_images(project / small.IMAGES, 400, seed=1, bright=True)
            second = heard.wait_for("retrained", 2, schedule)
            assert "shapes@staging is version 2 (vae)" in second["text"]
            branches = small.run(project, "git", "branch", "--list", "genforge/retrain-*").split()
            assert len(branches) == 2

            # Somebody takes it back, and the next looks leave it at that.
            genforge(project, variables, "rollback", "--reason", "no bright ones")
            looks = len([told for told in heard if told["event"] == "nothing new"])
            heard.wait_for("nothing new", looks + 1, schedule)
            assert staged(project, variables) == [1, 2, 1]
        finally:
            family = [psutil.Process(schedule.pid), *psutil.Process(schedule.pid).children(recursive=True)]
            schedule.send_signal(signal.SIGTERM)
            said = schedule.communicate(timeout=60)
        _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, [process.cmdline() for process in alive]
    assert "Traceback" not in str(said), said
    assert small.state_of(project) == before  # the user's folder and branch, as if nothing had been


def serve_here(project: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """`make schedule`, on a change of data."""
    command = [sys.executable, "-m", "pipelines.schedule", "--on-data", "10"]
    return subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)  # fmt: skip
