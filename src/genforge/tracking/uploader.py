"""The process that keeps MLflow fed from the runs' logs.

    python -m genforge.tracking.uploader PROJECT

One a project, held by a lock, started by the first run that finds none. It looks every two seconds and sends what is
new. A store that is away is tried again at growing intervals. The process ends when no run is open and all is sent, or
when no run is open and nothing could be sent for ten seconds: it is never left behind. Whatever is left is sent by the
next one, or by `tracking.upload_all`.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path

from filelock import FileLock, Timeout

from genforge.tracking import mlflow_store
from genforge.tracking.replay import Place, Replay, is_refusal
from genforge.tracking.run_log import RunLog, reap

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_TO_LINGER = 3.0  # after the last run ended and all is sent: the next run may begin soon
SECONDS_LEFT_BEHIND = 10.0  # after the last run ended and the store stopped answering
LONGEST_PAUSE = 8.0  # seconds between tries of a store that is away


def serve(root: Path) -> None:
    """Upload until there is nothing left to wait for; return at once when another uploader is at work."""
    while True:
        try:
            with FileLock(_lock(root)).acquire(blocking=False):
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
    while left := [log for log in replay.pending() if _lacks(replay, log, wanted)]:
        try:
            with FileLock(_lock(root)).acquire(blocking=False):
                reasons = _pass(replay)
        except Timeout:
            reasons = {}
            _waker(root).touch()  # the uploader is at it, or asleep
        left = [log for log in left if _lacks(replay, log, wanted)]
        if not left or time.monotonic() + pause > give_up:
            break
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    names = {log.id: reasons.get(log.id, "the store did not answer in time") for log in left}
    return len(wanted) - len(names), names


def _lacks(replay: Replay, log: RunLog, wanted: dict[str, int]) -> bool:
    return Place.read(log, replay.store).offset < wanted.get(log.id, 0)


def _serve(root: Path) -> None:
    replay, pause = Replay(root), SECONDS_BETWEEN_LOOKS
    last_open = last_sent = time.monotonic()
    while True:
        is_open = bool(replay.open_runs())
        if is_open:
            last_open = time.monotonic()
        if replay.pending():
            reasons = _pass(replay)
            for run, reason in reasons.items():
                print(f"{time.strftime('%F %T')} {run}: {reason}", flush=True)
            pause = min(2 * pause, LONGEST_PAUSE) if reasons else SECONDS_BETWEEN_LOOKS
            last_sent = last_sent if reasons else time.monotonic()
        if not is_open:
            now, is_sent = time.monotonic(), not replay.pending()
            if is_sent and now - max(last_open, last_sent) > SECONDS_TO_LINGER:
                return
            if not is_sent and now - max(last_open, last_sent) > SECONDS_LEFT_BEHIND:
                return
        _pause(root, pause if is_open else 1.0)


def _pass(replay: Replay) -> dict[str, str]:
    """Send what every log has that is new. Returns why some could not be sent, by run id."""
    reasons: dict[str, str] = {}
    for log in replay.pending():
        try:
            replay.send(log)
        except Exception as error:  # one run that the store refuses must not keep the others from it
            text = "".join(traceback.format_exception_only(error)).strip()
            reasons[log.id] = mlflow_store.without_password(replay.root, text)
            if not is_refusal(error):
                return reasons  # the store is away: every other run would wait for it as long
    return reasons


def _pause(root: Path, seconds: float) -> None:
    """Sleep, but not while somebody waits in `drain`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not _waker(root).exists():
        time.sleep(0.2)
    _waker(root).unlink(missing_ok=True)


def _waker(root: Path) -> Path:
    return root / ".genforge" / "uploader.wake"


def _lock(root: Path) -> Path:
    path = root / ".genforge" / "uploader.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def main() -> None:
    os.nice(10)  # training goes first
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    serve(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
