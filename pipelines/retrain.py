"""The flow `retrain`: every stage of dvc.yaml that is out of date, side by side where it can be.

A task a stage, taken from DVC's own graph; each runs `dvc repro --single-item`, so that DVC alone decides what is up
to date, and `dvc repro` by hand and this flow do the same work and skip the same work.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genforge.cli import EXIT_FAILED, EXIT_USER, positive, set_environment

set_environment()
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # what goes wrong is told by `main`, in our words
os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")  # seconds; see killed_runs.py

from prefect import flow, tags, task  # noqa: E402  its settings are read at import
from prefect.artifacts import create_image_artifact, create_markdown_artifact  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.client.schemas.schedules import CronSchedule  # noqa: E402
from prefect.exceptions import TerminationSignal  # noqa: E402
from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: E402
from prefect.task_runners import ThreadPoolTaskRunner  # noqa: E402

from genforge import slots  # noqa: E402
from genforge.locks import Busy, Lock, alone, busy  # noqa: E402
from genforge.ownership import end_with_owner  # noqa: E402
from genforge.progress import say  # noqa: E402
from genforge.settings import UserError  # noqa: E402
from genforge.steps.leftovers import locks_of_dvc  # noqa: E402
from genforge.steps.project import Project  # noqa: E402
from genforge.steps.resolve import check  # noqa: E402
from genforge.steps.summary import pictures, summarise  # noqa: E402
from genforge.tracking import runs as tracking  # noqa: E402
from pipelines.killed_runs import crash_forgotten, project_tag, watch_heartbeats  # noqa: E402
from pipelines.screen import Screen  # noqa: E402
from pipelines.server import api  # noqa: E402
from pipelines.stages import Graph, Processes, StageFailed, run_stage  # noqa: E402

ON_DEVICE = ("extractor", "search", "train", "sample", "evaluate", "floor", "gates")  # steps that use a GPU
RETRAIN = "retrain this project"
_stopping = threading.Event()  # set from the first signal to the end of all that it ends
RETRY_SECONDS = [1.0, 4.0, 10.0]


class PipelineFailed(Exception):
    """Some stages failed; the others that did not need them have run."""

    def __init__(self, failures: list[StageFailed], skipped: list[str]) -> None:
        super().__init__("; ".join(str(failure) for failure in failures))
        self.failures, self.skipped = failures, skipped


def _may_pass(task: Any, run: Any, state: Any) -> bool:
    """Whether to try again: for what can pass (a lock, a connection), never for what cannot."""
    try:
        state.result()
    except StageFailed as failure:
        return failure.passing
    except Exception:
        return False
    return False


@task(task_run_name="{stage}", cache_policy=NO_CACHE, retries=len(RETRY_SECONDS), retry_delay_seconds=RETRY_SECONDS,
      retry_condition_fn=_may_pass, persist_result=False)  # fmt: skip
def repro(stage: str, root: str, environment: dict[str, str], screen: Any, processes: Any) -> None:
    """`dvc repro` of one stage, in a process group of its own."""
    run_stage(stage, Path(root), environment, processes, screen.message)


# Stages wait for their turn in `_run_all`, so the runner needs no limit of its own.
runner: Any = ThreadPoolTaskRunner(max_workers=64)


@flow(name="retrain", task_runner=runner, persist_result=False, validate_parameters=False)
def retrain(root: str = ".", jobs: int | None = None) -> list[str]:
    """Bring the project in `root` up to date.

    Args:
        root: the project's folder, with params.yaml and dvc.yaml.
        jobs: stages side by side; None: one a core, at most four.

    Returns:
        Names of the stages that were looked at, in the order in which they ended.

    Raises:
        PipelineFailed: some stage failed. Stages that did not need it have run all the same.
        Busy: another flow retrains this project.
    """
    end_with_owner()  # on a schedule the flow runs in a process of its own
    folder = Path(root)
    with alone(_flow_lock(folder), RETRAIN):
        crash_forgotten(folder)
        return _retrain(folder, jobs)


def _retrain(folder: Path, jobs: int | None) -> list[str]:
    graph = Graph.read(folder)
    if not graph.stale:
        say("everything is up to date: nothing to do")
        return []
    cores = len(os.sched_getaffinity(0))
    jobs = jobs or min(cores, 4)
    pipeline = tracking.start_pipeline(folder, "retrain")
    environment = {tracking.PIPELINE_RUN: pipeline, "GENFORGE_THREADS": str(max(1, cores // jobs))}
    # The project's own programs come first, so that a stage's command finds them without an activated environment.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    status: tracking.Status = "FAILED"
    processes = Processes()
    try:
        with _stop_on_signal(), Screen(len(graph.stale)) as screen:
            done = _run_all(graph, folder, jobs, environment, screen, processes)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        processes.end_all()  # whatever ended the flow, no stage outlives it
        tracking.finish_pipeline(folder, pipeline, status)
    left = tracking.upload_all(folder, patience=15.0).left
    if left:
        say(f"MLflow does not have all of {len(left)} runs yet; their logs are kept and sent when it is back")
    _publish(folder)
    return done


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


def _flow_lock(root: Path) -> Path:
    return Project.load(root).lock("flow")


def _publish(root: Path) -> None:
    """Leaderboard and pictures as Prefect artifacts."""
    results = root / "results"
    create_markdown_artifact(
        (results / "leaderboard.md").read_text(), key="leaderboard", description="how models compare"
    )
    for name, data in pictures(results):
        create_image_artifact(image_url=data, key=f"samples-{name}", description=f"images drawn by {name}")


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[None]:
    """SIGTERM and a closed terminal stop this process as Ctrl-C does: through every `finally`. `nohup` is heard."""
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
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if is_outermost:
            _stopping.clear()


def _is_heard(number: int) -> bool:
    """Not where whoever started this process wanted it ignored, as `nohup` does."""
    return signal.getsignal(number) is not signal.SIG_IGN


def _mend_locks(root: Path) -> None:
    """A DVC that is killed while it writes its table of locks leaves one that no DVC can read any more."""
    for leftover in locks_of_dvc(root):
        with contextlib.suppress(UserError):  # a DVC is at work on it: then it is in use, and can be read
            leftover.mend()


def _check_cron(cron: str) -> None:
    try:
        CronSchedule(cron=cron)
    except ValueError:
        raise UserError(f"--cron {cron!r}: should be five fields such as '0 3 * * *', every night at three") from None


def _serve(root: Path, cron: str, jobs: int | None) -> None:
    """Run on a schedule, one run at a time, until this process is ended."""
    say(f"retraining on the schedule {cron!r}; Ctrl-C ends it")
    parameters = {"root": str(root.absolute()), "jobs": jobs}
    retrain.serve(name="scheduled", cron=cron, parameters=parameters, tags=[project_tag(root)], global_limit=1,
                  print_starting_message=False)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Exit status 0: all is up to date. 2: a mistake that the user can mend. 1: something failed."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.retrain", description="Bring everything up to date.")
    parser.add_argument("--jobs", type=positive, default=None, metavar="N", help="stages side by side")
    parser.add_argument("--cron", metavar="'0 3 * * *'", help="stay, and run on this schedule until Ctrl-C")
    arguments = parser.parse_args(argv)
    root = Path()
    began = time.monotonic()
    servers = Processes()
    end_with_owner()
    try:
        project = Project.load(root)
        check(project.config)
        if arguments.cron:
            _check_cron(arguments.cron)
        elif (lock := Lock(_flow_lock(root))).is_held():
            raise Busy(busy(lock, RETRAIN))
        _mend_locks(root)
        graph = Graph.read(root)
        if not graph.stale and not arguments.cron:
            summarise(project, "Everything is up to date: nothing to do.")
            return 0
        with _stop_on_signal(), api(root, servers) as url, temporary_settings({PREFECT_API_URL: url}):
            watch_heartbeats(retrain.name)
            if arguments.cron:
                _serve(root, arguments.cron, arguments.jobs)
                return 0
            say(f"{len(graph.stale)} of {len(graph.order)} stages to look at")
            with tags(project_tag(root)):
                retrain(str(root.absolute()), arguments.jobs)
        summarise(project, f"Done in {time.monotonic() - began:.0f} s.")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    except PipelineFailed as error:
        for failure in error.failures:
            print(f"error: {failure.stage}: {failure.reason}", file=sys.stderr)
        if error.skipped:
            print(f"not run, since they need what failed: {', '.join(error.skipped)}", file=sys.stderr)
        return EXIT_USER if all(failure.mistake for failure in error.failures) else EXIT_FAILED
    except (KeyboardInterrupt, TerminationSignal):  # the second is Prefect's own, while it begins or ends a flow run
        print("interrupted; what was done is kept, and `genforge run` goes on from there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    status = main()
    if "PREFECT_API_URL" not in os.environ:
        # The temporary server has ended. What Prefect would still tell it now, for minutes, nobody hears.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
