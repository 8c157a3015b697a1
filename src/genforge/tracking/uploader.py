"""The process that keeps MLflow fed from the runs' logs.

    python -m genforge.tracking.uploader PROJECT

One a project, held by a lock, started by the first run that finds none. It looks every two seconds and sends what is
new. A store that is away is tried again at growing intervals. The process ends when no run is open and all is sent, or
when no run is open and nothing could be sent for ten seconds: it is never left behind. Whatever is left is sent by the
next one, which the next command of any kind starts, or by `tracking.upload_all`.

It has a session of its own and no terminal, so that it outlives a stage that is killed by seconds: to say so to MLflow.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from genforge.tracking import mlflow_store
from genforge.tracking.replay import Place, Replay, is_refusal
from genforge.tracking.retention import forget_old
from genforge.tracking.run_log import RunLog, reap
from genforge.tracking.runs import STARTING

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_TO_LINGER = 3.0  # after the last run ended and all is sent: the next run may begin soon
SECONDS_LEFT_BEHIND = 10.0  # after the last run ended and the store stopped answering
LONGEST_PAUSE = 8.0  # seconds between tries of a store that is away
SHORTEST_PAUSE = 0.2  # seconds between tries of a store that answers now and then
LONGEST_ANSWER = 10  # seconds that a server may take for one call
LONGEST_SILENCE = 300  # seconds without any progress inside of one pass, as when a database hangs: then we are killed


def serve(root: Path) -> None:
    """Upload until there is nothing left to wait for; return at once when another uploader is at work."""
    while True:
        try:
            with uploader_lock(root).acquire(blocking=False):
                (root / ".genforge" / STARTING).unlink(missing_ok=True)
                _serve(root)
        except Timeout:
            return
        # A run that began while we were leaving saw our lock held and started nobody: look once more without it.
        if not Replay(root).open_runs():
            return


def drain(root: Path, patience: float) -> tuple[int, dict[str, str]]:
    """Send all that the logs hold now; an uploader at work is waited for. See `tracking.upload_all`."""
    reap(root)
    replay = Replay(root)
    wanted = {log.id: log.size() for log in replay.pending()}
    give_up, pause, reasons = time.monotonic() + patience, 0.1, dict[str, str]()
    with mlflow_store.answers_within(patience):
        while left := [log for log in replay.pending() if _lacks(replay, log, wanted)]:
            places = _places(replay, left)
            try:
                with uploader_lock(root).acquire(blocking=False):
                    reasons = _pass(replay).reasons
            except Timeout:
                reasons = {}
                _waker(root).touch()  # the uploader is at it, or asleep
            if _places(replay, left) > places:  # it answers: patience is for a store that does not
                give_up, pause = time.monotonic() + patience, 0.1
            left = [log for log in left if _lacks(replay, log, wanted)]
            if not left or time.monotonic() + pause > give_up:
                break
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
    names = {log.id: reasons.get(log.id, "the store did not answer in time") for log in left}
    return len(wanted) - len(names), names


def _places(replay: Replay, logs: list[RunLog]) -> int:
    """Bytes of the logs that have arrived."""
    return sum(Place.read(log, replay.store).offset for log in logs)


def _lacks(replay: Replay, log: RunLog, wanted: dict[str, int]) -> bool:
    return Place.read(log, replay.store).offset < wanted.get(log.id, 0)


def _serve(root: Path) -> None:
    replay, pause = Replay(root, _show_life), SECONDS_BETWEEN_LOOKS
    last_open = last_sent = time.monotonic()
    has_sent = False
    while True:
        _show_life()
        is_open = bool(replay.open_runs())
        if is_open:
            last_open = time.monotonic()
        if replay.pending():
            result = _pass(replay)
            for run, reason in result.reasons.items():
                print(f"{time.strftime('%F %T')} {run}: {reason}", flush=True)
            if result.has_moved:
                has_sent, last_sent = True, time.monotonic()
            pause = _next_pause(pause, result)
        else:
            pause = SECONDS_BETWEEN_LOOKS
        if not is_open:
            is_sent, quiet = not replay.pending(), time.monotonic() - max(last_open, last_sent)
            if is_sent and quiet > SECONDS_TO_LINGER:
                _tidy(replay, has_sent)
                return
            if not is_sent and quiet > SECONDS_LEFT_BEHIND:
                return
        _pause(root, pause if is_open else min(pause, 1.0))


def _show_life() -> None:
    """Put off the alarm that ends this process. Nothing is lost by it: the next uploader goes on from the last call."""
    signal.alarm(LONGEST_SILENCE)


def _next_pause(pause: float, result: Passed) -> float:
    if not result.reasons:
        return SECONDS_BETWEEN_LOOKS
    return SHORTEST_PAUSE if result.has_moved else min(2 * max(pause, 1.0), LONGEST_PAUSE)


def _tidy(replay: Replay, has_sent: bool) -> None:
    """Before leaving: what a slow network brought to MLflow behind our back, and logs that have grown old."""
    try:
        if has_sent:
            for stray in replay.strays():
                replay.settle(stray)
        forget_old(replay.root, replay.store)
    except Exception as error:  # the store went away meanwhile: the next uploader tidies up, or `genforge doctor`
        print(f"{time.strftime('%F %T')} tidying up: {_told(replay, error)}", flush=True)


@dataclass
class Passed:
    """What one pass over the logs came to: why some could not be sent, by run id, and whether anything was."""

    reasons: dict[str, str] = field(default_factory=dict)
    has_moved: bool = False


def _pass(replay: Replay) -> Passed:
    """Send what every log has that is new."""
    result = Passed()
    for log in replay.pending():
        before = Place.read(log, replay.store).offset
        try:
            if refused := replay.send(log):
                result.reasons[log.id] = f"refused and passed over: {'; '.join(refused)}"
        except Exception as error:  # one run that the store refuses must not keep the others from it
            result.reasons[log.id] = _told(replay, error)
            if not is_refusal(error):
                break  # the store is away: every other run would wait for it as long
        finally:
            result.has_moved |= Place.read(log, replay.store).offset > before
    return result


def _told(replay: Replay, error: Exception) -> str:
    text = "".join(traceback.format_exception_only(error)).strip()
    return mlflow_store.without_password(replay.root, text)


def _pause(root: Path, seconds: float) -> None:
    """Sleep, but not while somebody waits in `drain`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not _waker(root).exists():
        time.sleep(0.2)
    _waker(root).unlink(missing_ok=True)


def _waker(root: Path) -> Path:
    return root / ".genforge" / "uploader.wake"


def uploader_lock(root: Path) -> FileLock:
    """Held by whoever sends. The system frees it when its holder dies, so there is never a stale one."""
    path = root / ".genforge" / "uploader.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def main() -> None:
    os.nice(10)  # training goes first
    with mlflow_store.answers_within(LONGEST_ANSWER):
        serve(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
