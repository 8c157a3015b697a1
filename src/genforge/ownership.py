"""No process of ours outlives the one that it works for.

A stage works for the `dvc repro` that runs it, that one for the flow, the flow for `make run`; decoders and search
workers work for their stage. A killed process (SIGKILL cannot be caught) tells nobody, and the kernel tells a process
of its direct parent's end alone, while a shell may stand between. So each process of ours watches its whole line of
owners itself: when one of them has gone, it ends as by SIGTERM, through its checkpoint and every `finally`, and by
SIGKILL when that takes too long.

The line goes from the parent up to the topmost process that runs one of our programs, with whatever stands between,
and no further than the terminal's own shell. So `nohup make run &` lives on without its shell and its terminal, but not
without its make. An owner that is no ancestor any more, or has a name that says nothing (a test, a notebook), is known
from the environment that it gave: see `environment`.

GNU make does not end on a SIGINT or SIGHUP to its own process alone: it waits for its recipe, which lives on with it.
A terminal sends both to all that runs in it.

What is not ours, such as DVC and the Prefect server, runs as `python -m genforge.ownership MODULE ...`, which is
`python -m MODULE ...` in a process that watches.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType

from genforge.processes import Identity, command_line, program, words_of

OWNER = "GENFORGE_OWNER"  # environment: the process that this one works for
DVC_STAGE = "DVC_STAGE"  # environment: DVC gives it to the command of a stage
OURS = frozenset({"make", "gmake", "dvc", "genforge", "pipelines", "prefect"})
SECONDS_BETWEEN_LOOKS = 0.25
SECONDS_TO_STOP = 2.5  # from SIGTERM to SIGKILL: with what comes before and after, all have ended within 5
SECONDS_TO_CLOSE = 1.0  # for DVC, once its stage has ended: a signal while it writes its table of locks would tear it

_watching = threading.Lock()
_started = False


def environment() -> dict[str, str]:
    """What a process of ours adds to the environment of another one that it starts, to be known as its owner."""
    return {OWNER: json.dumps(Identity.own().to_json())}


def end_with_owner(with_group: bool = False) -> None:
    """Watch the line of owners from now on. A second call changes nothing; a process that has no owner lives on.

    Args:
        with_group: this process leads a group, and what else is in it ends before it does.
    """
    global _started
    with _watching:
        if _started:
            return
        _started = True
    owners = [(owner, command_line(words_of(owner.pid))) for owner in owners_of(os.getpid(), os.environ)]
    if owners:
        threading.Thread(target=_watch, args=(owners, with_group), name="ownership", daemon=True).start()


def owners_of(pid: int, variables: Mapping[str, str]) -> list[Identity]:
    """The line of owners of a process with these environment variables, nearest first. Some may have gone already."""
    import psutil

    owners: list[Identity] = []
    above: list[Identity] = []
    for ancestor in psutil.Process(pid).parents():
        above.append(Identity.of(ancestor.pid) or _gone(ancestor.pid))
        if program(words_of(ancestor.pid)) in OURS:
            owners = list(above)
        if _is_shell_of_terminal(ancestor):
            break
    if said := variables.get(OWNER):
        owners.append(Identity.from_json(json.loads(said)))
    elif DVC_STAGE in variables and _was_adopted(pid):
        owners.append(_gone(0))
    return owners


def is_orphan(pid: int, variables: Mapping[str, str]) -> bool:
    """Whether one of the owners of that process has gone. It should have ended, then."""
    return any(owner.is_gone() for owner in owners_of(pid, variables))


def stop_on_signals() -> None:
    """SIGTERM ends this process through every `finally`, with the status that a shell gives for it; so does SIGHUP.

    A SIGHUP that is ignored (`nohup`) stays ignored. One that is not is turned into SIGTERM, which the training loop
    hears where it can write a checkpoint.
    """
    signal.signal(signal.SIGTERM, _leave)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))


def interrupt_on_signals() -> None:
    """The first SIGTERM, SIGINT or SIGHUP is a KeyboardInterrupt; those after it do not break off the ending.

    Signals come in twos and threes: a closed terminal and its shell each send one. `nohup` is heard.
    """
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _watch(owners: list[tuple[Identity, str]], with_group: bool) -> None:
    while True:
        for owner, command in owners:
            if owner.is_gone():
                with contextlib.suppress(OSError):  # the terminal may be gone, too
                    os.write(2, f"ending, since {command} (pid {owner.pid}) has gone\n".encode())
                if with_group and os.getpgrp() == os.getpid() and _others():
                    _end_group()
                    time.sleep(SECONDS_TO_CLOSE)
                _end()
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _end() -> None:
    """End this process, which ends its children, and whatever is left of them after some seconds."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_STOP)
    _send(signal.SIGKILL, _family())
    os.kill(os.getpid(), signal.SIGKILL)


def _end_group() -> None:
    """End the others of this process's group: kindly, then surely. DVC would not wait for its stage."""
    _send(signal.SIGTERM, _others())
    deadline = time.monotonic() + SECONDS_TO_STOP
    while (left := _others()) and time.monotonic() < deadline:
        time.sleep(0.05)
    _send(signal.SIGKILL, left)


def _send(number: signal.Signals, pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _others() -> list[int]:
    """The other processes of this one's group that are at work."""
    return [pid for pid in members(os.getpgrp()) if pid != os.getpid()]


def members(group: int) -> list[int]:
    """The processes of a group, without those that have ended and were not asked for their status yet."""
    import psutil

    found: list[int] = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def _family() -> list[int]:
    """Descendants in this session. One that has left it (`tracking`'s uploader) means to outlive us by some seconds."""
    import psutil

    found: list[int] = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(child.pid) == os.getsid(0):
                found.append(child.pid)
    return found


def _is_shell_of_terminal(process: object) -> bool:
    """The leader of a terminal's session: what started it opened the terminal, and is no owner of what runs there."""
    import psutil

    assert isinstance(process, psutil.Process)
    try:
        return os.getsid(process.pid) == process.pid and process.terminal() is not None
    except (psutil.Error, ProcessLookupError):
        return False


def _was_adopted(pid: int) -> bool:
    """Whether the DVC that started this stage was gone before it looked: nothing but `init` stands above its shell."""
    import psutil

    for ancestor in psutil.Process(pid).parents():
        with contextlib.suppress(psutil.Error):
            if ancestor.pid == 1:
                return os.getpgid(pid) != os.getpgid(1)
            if DVC_STAGE not in ancestor.environ():
                return False
    return False


def _gone(pid: int) -> Identity:
    return Identity(pid, 0.0, socket.gethostname())


def main() -> None:
    """`python -m genforge.ownership MODULE ARGUMENTS...`"""
    end_with_owner(with_group=True)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
