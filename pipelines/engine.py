"""The engine of the flows: stages of dvc.yaml side by side where they can be, a Prefect task each.

A task a stage, taken from DVC's own graph; each runs `dvc repro --single-item`, so that DVC alone decides what is up
to date, and `dvc repro` by hand and the flows do the same work and skip the same work.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.surroundings import prepare

prepare()

from prefect import task  # noqa: E402  its settings are read at import
from prefect.artifacts import create_image_artifact, create_markdown_artifact  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.exceptions import TerminationSignal  # noqa: E402
from prefect.task_runners import ThreadPoolTaskRunner  # noqa: E402

from genforge import slots  # noqa: E402
from genforge.cores import THREADS_VARIABLE, cores  # noqa: E402
from genforge.progress import say  # noqa: E402
from genforge.steps.project import Project  # noqa: E402
from genforge.steps.summary import pictures  # noqa: E402
from genforge.tracking import runs as tracking  # noqa: E402
from pipelines.screen import Screen  # noqa: E402
from pipelines.stages import Graph, PipelineFailed, Processes, StageFailed, run_stage  # noqa: E402

ON_DEVICE = ("extractor", "search", "train", "sample", "evaluate", "floor", "gates")  # steps that use a GPU
_stopping = threading.Event()  # set from the first signal to the end of all that it ends
RETRY_SECONDS = [1.0, 4.0, 10.0]


def may_pass(task: Any, run: Any, state: Any) -> bool:
    """Whether to try again: for what can pass (a lock, a connection), never for what cannot."""
    try:
        state.result()
    except StageFailed as failure:
        return failure.passing
    except ConnectionError:  # MLflow's store among them
        return True
    except Exception:
        return False
    return False


@task(task_run_name="{stage}", cache_policy=NO_CACHE, retries=len(RETRY_SECONDS), retry_delay_seconds=RETRY_SECONDS,
      retry_condition_fn=may_pass, persist_result=False)  # fmt: skip
def repro(stage: str, root: str, environment: dict[str, str], screen: Any, processes: Any) -> None:
    """`dvc repro` of one stage, in a process group of its own."""
    run_stage(stage, Path(root), environment, processes, screen.message)


# Stages wait for their turn in `_run_all`, so the runner needs no limit of its own.
runner: Any = ThreadPoolTaskRunner(max_workers=64)


@dataclass
class Engine:
    """What runs stages of the project in `folder`, with one pipeline run in the tracker around all of them.

    jobs: stages side by side. environment: of the stages. processes: all that was started, so that none outlives it.
    """

    folder: Path
    jobs: int
    environment: dict[str, str]
    processes: Processes = field(default_factory=Processes)

    def run(self, graph: Graph) -> list[str]:
        """Run the stale stages of a graph; names of those that were looked at, in the order in which they ended.

        Raises:
            PipelineFailed: some stage failed. Stages that did not need it have run all the same.
        """
        if not graph.stale:
            return []
        with Screen(len(graph.stale)) as screen:
            return _run_all(graph, self.folder, self.jobs, self.environment, screen, self.processes)


@contextlib.contextmanager
def engine(
    folder: Path,
    jobs: int | None,
    name: str,
    environment: Mapping[str, str] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> Iterator[Engine]:
    """An engine for the length of the block, which is one pipeline run called `name`; no stage outlives it.

    Args:
        jobs: stages side by side; None: one a core, at most four.
        environment: of the stages, besides this process's own. tags: of the pipeline run.
    """
    threads = cores()
    jobs = jobs or min(threads, 4)
    pipeline = tracking.start_pipeline(folder, name, tags)
    own = {tracking.PIPELINE_RUN: pipeline, THREADS_VARIABLE: str(max(1, threads // jobs))}
    # The project's own programs come first, so that a stage's command finds them without an activated environment.
    own["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    made = Engine(folder, jobs, {**(environment or {}), **own})
    status: tracking.Status = "FAILED"
    try:
        with stop_on_signal():
            yield made
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        made.processes.end_all()  # whatever ended the flow, no stage outlives it
        tracking.finish_pipeline(folder, pipeline, status)
    left = tracking.upload_all(folder, patience=15.0).left
    if left:
        say(f"MLflow does not have all of {len(left)} runs yet; their logs are kept and sent when it is back")


def _run_all(
    graph: Graph, root: Path, jobs: int, environment: dict[str, str], screen: Screen, processes: Processes
) -> list[str]:
    """Keep `jobs` stages running until none is left whose needs are met."""
    waiting = [stage for stage in graph.order if stage in graph.stale]
    running: dict[str, tuple[Any, float]] = {}
    futures: dict[str, Any] = {}
    ended: queue.Queue[str] = queue.Queue()
    places = slots.places() if Project.load(root).config.device != "cpu" else 0  # each stage takes its own slot
    done: list[str] = []
    failures: list[StageFailed] = []

    def ready(stage: str) -> bool:
        pending = {*waiting, *running, *(failure.stage for failure in failures)}
        return not graph.needs[stage] & pending

    def has_room(stage: str) -> bool:
        """A stage that could only wait for a GPU would keep another from a core."""
        on_device = sum(map(_uses_device, running))
        return len(running) < jobs and not (places and _uses_device(stage) and on_device >= places)

    def start(stage: str) -> None:
        upstream = [futures[need] for need in graph.needs[stage] if need in futures]
        screen.started(stage)
        future = repro.submit(stage, str(root), environment, screen, processes, wait_for=upstream, return_state=False)
        futures[stage] = future
        running[stage] = (future, time.monotonic())
        future.add_done_callback(functools.partial(_put, ended, stage))

    while waiting or running:
        for stage in [stage for stage in waiting if ready(stage)]:
            if has_room(stage):
                start(stage)
                waiting.remove(stage)
        if not running:
            break  # what is left waits for a stage that failed
        stage = ended.get()
        future, began = running.pop(stage)
        error = future.result(raise_on_failure=False)
        if isinstance(error, BaseException):
            failures.append(error if isinstance(error, StageFailed) else
                            StageFailed(stage, repr(error), passing=False, mistake=False))  # fmt: skip
        else:
            done.append(stage)
        screen.ended(stage, time.monotonic() - began, "FAILED" if isinstance(error, BaseException) else None)
    if failures:
        raise PipelineFailed(failures, waiting)
    return done


def _put(ended: queue.Queue[str], stage: str, future: object) -> None:
    ended.put(stage)


def _uses_device(stage: str) -> bool:
    return stage.partition("@")[0] in ON_DEVICE


def publish(root: Path) -> None:
    """Leaderboard and pictures as Prefect artifacts."""
    results = root / "results"
    create_markdown_artifact(
        (results / "leaderboard.md").read_text("utf-8"), key="leaderboard", description="how models compare"
    )
    for name, data in pictures(results):
        create_image_artifact(image_url=data, key=f"samples-{name}", description=f"images drawn by {name}")


@contextlib.contextmanager
def stop_on_signal() -> Iterator[None]:
    """SIGTERM and a closed terminal stop this process as Ctrl-C does: through every `finally`. `nohup` is heard.

    Raises:
        KeyboardInterrupt: a signal came, here or where Prefect itself listens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers; whoever runs the flow in another one has set its own
        return

    def stop(number: int, frame: object) -> None:
        # Signals come in twos and threes: a closed terminal, its shell and make each send one. Those after the first
        # would break off the ending of stages that the first has begun.
        if not _stopping.is_set():
            _stopping.set()
            raise KeyboardInterrupt

    numbers = [number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if _is_heard(number)]
    before = {number: signal.signal(number, stop) for number in numbers}
    is_outermost = not any(getattr(handler, "__name__", "") == stop.__name__ for handler in before.values())
    try:
        yield
    except TerminationSignal:  # Prefect's own, while it begins or ends a flow run
        raise KeyboardInterrupt from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if is_outermost:
            _stopping.clear()


def _is_heard(number: int) -> bool:
    """Not where whoever started this process wanted it ignored, as `nohup` does."""
    return signal.getsignal(number) is not signal.SIG_IGN
