"""Signals at random times over everything that runs, and then: what was lost?

    python tests/chaos/campaign.py --minutes 10 --seed 0

A tiny project with every recipe of the library is run again and again, by `dvc repro` and as a flow with its Prefect
server, and tells an MLflow server what it does. Blows fall on trainers, search workers, evaluations, servers, uploader,
DVC, the flow and the terminal; whatever dies is started again as a user would, by the same command. At the end
everything has to be as if nothing had happened. Exit status 1 when anything was lost; the evidence is kept then.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from blows import SIGNALS, VICTIMS, Blow, blows
from kept_server import KeptServer
from losses import CHECKS, RESULTS, Field, let_a_day_pass
from tiny_project import begin_again, environment, make
from victims import LAUNCH, MARK, by_kind, described, left_after, marked

from genforge.steps.project import Project

SECONDS_TO_VANISH = 5.0  # for what a command has started, once the command has ended
SECONDS_FOR_UPLOADER = 60.0  # at the end: it sends what is left, lingers, and goes
SECONDS_FOR_SERVER = 40.0  # to come back after a blow
SECONDS_TO_END = 900.0  # for a whole run that nobody strikes, on a slow machine
MOST_IDLE_FAILURES = 3  # launches in a row that failed and were never struck
DEAREST, PATIENCE = 3, 2.0  # for so many seconds a blow waits for one of so many kinds that it likes best
SHORT = "vae-mlp"  # the recipe of a short campaign, which is searched and trained: each step takes least
BEFORE_SHORT = ("resolve", "ingest", "prepare", "extractor")
CORES = 4  # at most: so many stages side by side, one thread each


@dataclass
class Launch:
    """One start of a command, as a user types it in a terminal."""

    number: int
    words: list[str]
    process: subprocess.Popen[bytes]
    log: Path
    struck: int = 0
    began: float = field(default_factory=time.monotonic)


class Campaign:
    """A project under blows.

    Args:
        folder: for everything; made anew.
        commands: one of which is typed at each launch.
        seed: of blows and commands.
        pace: mean seconds between blows.
        goal: the stage up to which the uninterrupted run goes.
        recipes: of the library; none: one of every objective.
        head_start: stages that the project has behind it, undisturbed: what is not to be tested. The runs of what is
            left of the pipeline are told to MLflow's embedded store, those of a whole one to a server.
        store: an MLflow database without runs for that; making one takes seconds. None: the project makes its own.
        workers: of each search.
    """

    def __init__(
        self,
        folder: Path,
        commands: list[list[str]],
        seed: int,
        pace: float,
        goal: str,
        recipes: list[str] | None = None,
        head_start: Sequence[str] = (),
        store: Path | None = None,
        workers: int = 2,
    ) -> None:
        self.commands, self.goal, self.is_whole = commands, goal, not head_start
        self.plan, self.chance = blows(seed, pace), random.Random(f"commands {seed}")
        self.mark = f"{folder.parent.name}-{seed}"
        self.launches = folder / "launches"
        self.launches.mkdir(parents=True)
        project, reference, self.lock = folder / "project", make(folder / "reference", recipes, workers), ""
        if head_start:
            self._give_head_start(reference, head_start)
            if store is not None:
                shutil.copyfile(store, reference / "mlflow.db")
            shutil.copytree(reference, project, symlinks=True)
            self.lock = (reference / "dvc.lock").read_text()
        else:
            make(project, recipes, workers)
        self.server = self._server(folder) if self.is_whole else None
        self.server_struck = -math.inf
        told_to = {"MLFLOW_TRACKING_URI": self.server.url} if self.server else {}
        self.field = Field(project, reference, {MARK: self.mark, **told_to})
        self.reference: subprocess.Popen[bytes] | None = None
        self.launch: Launch | None = None
        self.count = self.laps = self.idle_failures = 0
        self.struck: Counter[tuple[str, signal.Signals]] = Counter()
        self.to_continue: list[tuple[float, list[psutil.Process]]] = []
        self.lost: list[str] = []
        self.looks: list[str] = []  # what is worth a look, and no loss

    def run(self, seconds: float, seconds_to_end: float) -> bool:
        """Strike for so many seconds, let everything come to its end, and look. True when nothing was lost."""
        began = time.monotonic()
        with self._started() as self.reference:
            self._strike_until(began + seconds)
            self._say(f"no more blows; what runs now should come to its end within {seconds_to_end:.0f} s")
            self._finish(seconds_to_end)
            if self.reference.wait() != 0:
                raise RuntimeError(f"the uninterrupted run failed by itself; see {self.launches / 'reference.log'}")
            self._mend()
            self._check()
        left = left_after(SECONDS_TO_VANISH, lambda: list(marked(self.mark)))
        self.lost += [f"process left behind: {described(process)}" for process in left]
        for process in left:
            _kill(process)
        self._report(time.monotonic() - began)
        return not self.lost

    # The time of blows

    def _strike_until(self, deadline: float) -> None:
        blow = next(self.plan)
        due = time.monotonic() + blow.wait
        while time.monotonic() < deadline and self.idle_failures < MOST_IDLE_FAILURES:
            self._continue_stopped()
            if self.server is not None:
                self.server.keep()
            self._keep_launched(again=True)
            late = time.monotonic() - due
            if late >= 0 and self._strike(blow, blow.victims if late > PATIENCE else blow.victims[:DEAREST]):
                if blow.visit:
                    self._call_the_doctor()
                blow = next(self.plan)
                due = time.monotonic() + blow.wait
            time.sleep(0.1)
        self._continue_stopped(all_of_them=True)

    def _strike(self, blow: Blow, victims: tuple[str, ...]) -> bool:
        """Strike the first kind of victim that is alive. False when none is."""
        alive = by_kind(marked(self.mark))
        if self.launch is not None and self.launch.process.poll() is None:
            alive["terminal"] = [psutil.Process(self.launch.process.pid)]
        kind = next((kind for kind in victims if kind in alive), None)
        if kind is None:
            return False
        victim = alive[kind][blow.number % len(alive[kind])]
        name = described(victim)
        processes = [victim]
        if kind in ("terminal", "mlflow"):
            group = os.getpgid(victim.pid)
            processes = [process for process in marked(self.mark) if _group(process) == group]
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.send_signal(blow.signal)
        if blow.signal == signal.SIGSTOP:
            self.to_continue.append((time.monotonic() + blow.pause, processes))
        self.struck[kind, blow.signal] += 1
        if kind == "mlflow":
            self.server_struck = time.monotonic()
        if self.launch is not None:
            self.launch.struck += 1
        pause = f" for {blow.pause:.1f} s" if blow.signal == signal.SIGSTOP else ""
        self._say(f"blow {blow.number}: {blow.signal.name}{pause} to {kind} ({name})")
        return True

    def _call_the_doctor(self) -> subprocess.Popen[bytes]:
        """`genforge doctor --fix`, also while all is at work: it may mend nothing that is alive."""
        own = environment(self.field.project, self.field.more)
        with (self.launches / "doctor.log").open("ab") as log:
            self._say("the doctor is called")
            return subprocess.Popen(
                ["genforge", "doctor", "--fix"], cwd=self.field.project, env=own, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _continue_stopped(self, all_of_them: bool = False) -> None:
        for due, processes in list(self.to_continue):
            if all_of_them or time.monotonic() >= due:
                self.to_continue.remove((due, processes))
                for process in processes:
                    with contextlib.suppress(psutil.Error):
                        process.send_signal(signal.SIGCONT)

    # Launching, as a user does

    def _keep_launched(self, again: bool) -> bool:
        """See to it that a command runs. True when one has just come to a good end."""
        if self.launch is not None:
            status = self.launch.process.poll()
            if status is None:
                return False
            self._continue_stopped(all_of_them=True)
            self._ended(self.launch, status)
            self.launch = None
            if status == 0:
                if again:
                    self.laps += 1
                    self._look_at_lap()
                    begin_again(self.field.project, self.lock)
                else:
                    return True
        self._start_launch()
        return False

    def _look_at_lap(self) -> None:
        """The results of a whole run, before they are forgotten, if the uninterrupted run has its own already."""
        if self.reference is not None and self.reference.poll() == 0:
            for check in RESULTS:
                for line in check(self.field):
                    self._lose(f"after launch {self.count}: {line}")

    def _start_launch(self) -> None:
        self.count += 1
        words = self.chance.choice(self.commands)
        own = environment(self.field.project, {**self.field.more, LAUNCH: str(self.count)})
        log = self.launches / f"{self.count:04d}.log"
        with log.open("wb") as output:
            output.write(f"$ {' '.join(words)}\n".encode())
            output.flush()
            process = subprocess.Popen(
                words, cwd=self.field.project, env=own, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self.launch = Launch(self.count, words, process, log)

    def _ended(self, launch: Launch, status: int) -> None:
        """Note how a launch ended; nothing that it started may outlive it, but for the uploader."""

        def left() -> list[psutil.Process]:
            found = list(marked(self.mark, str(launch.number)))
            uploaders = by_kind(iter(found)).get("uploader", [])
            return [process for process in found if process not in uploaders]

        for process in left_after(SECONDS_TO_VANISH, left):
            self._lose(f"launch {launch.number} ({' '.join(launch.words)}) ended and left behind {described(process)}")
            _kill(process)
        seconds = time.monotonic() - launch.began
        self._say(f"launch {launch.number} `{' '.join(launch.words)}` ended with {status} after {seconds:.0f} s")
        # One that met a server which is only just starting again is not to blame for it.
        tail, away = _tail(launch.log), time.monotonic() - self.server_struck < SECONDS_FOR_SERVER
        if status == 0 or launch.struck or (away and "MLflow" in tail):
            self.idle_failures = 0
            return
        self.idle_failures += 1
        self.looks.append(f"launch {launch.number} failed without a blow, and the doctor was called: {tail}")
        if self.idle_failures >= MOST_IDLE_FAILURES:
            self._lose(f"the pipeline does not go on any more; see {launch.log}: {tail}")
        else:
            self._call_the_doctor().wait()

    def _finish(self, seconds: float) -> None:
        self._wait_for_server()
        deadline = time.monotonic() + seconds
        while self.idle_failures < MOST_IDLE_FAILURES:
            if self.server is not None:
                self.server.keep()
            if self._keep_launched(again=False):
                break
            if time.monotonic() > deadline:
                self._lose(f"the pipeline did not come to its end within {seconds:.0f} s")
                break
            time.sleep(0.2)
        if self.launch is not None:
            self.launch.process.kill()
        left = left_after(SECONDS_FOR_UPLOADER, lambda: by_kind(marked(self.mark)).get("uploader", []))
        self.lost += [f"the uploader stays: {described(process)}" for process in left]

    # Around it

    @contextlib.contextmanager
    def _started(self) -> Iterator[subprocess.Popen[bytes]]:
        """The MLflow server and the uninterrupted run beside it. However the block ends, neither runs on; and on an
        error nothing does."""
        own = environment(self.field.reference, {"GENFORGE_UPLOADER": "off"})
        with (self.launches / "reference.log").open("wb") as output:
            reference = subprocess.Popen(
                ["dvc", "repro", self.goal], cwd=self.field.reference, env=own, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_for_server()
            yield reference
        except BaseException:
            for process in marked(self.mark):
                _kill(process)
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(reference.pid, signal.SIGKILL)
            if self.server is not None:
                self.server.end()

    def _server(self, folder: Path) -> KeptServer:
        own = environment(folder / "project", {MARK: self.mark})
        return KeptServer(folder / "mlflow", self.launches / "mlflow.log", own)

    def _wait_for_server(self) -> None:
        if self.server is not None:
            self.server.wait()

    def _mend(self) -> None:
        """What a user does on the morning after."""
        self._wait_for_server()
        let_a_day_pass(self.field)
        own = environment(self.field.project, self.field.more)
        done = subprocess.run(
            ["genforge", "doctor", "--fix"], cwd=self.field.project, env=own, capture_output=True, text=True
        )
        self._say(f"genforge doctor --fix: {done.stdout.strip()} {done.stderr.strip()}")

    def _check(self) -> None:
        os.environ.update(self.field.more)  # the checks ask the same store as the project's commands
        for name, check in CHECKS.items():
            if not (self.is_whole or _applies(name)):
                continue
            found = check(self.field)
            self._say(f"{'LOST ' if found else 'whole'}  {name}")
            for line in found:
                self._lose(line)

    def _lose(self, what: str) -> None:
        self.lost.append(what)
        self._say(f"LOST: {what}")

    def _report(self, seconds: float) -> None:
        """The table of blows, and what was lost."""
        print(f"\n{'struck':<10}" + "".join(f"{number.name:>9}" for number in SIGNALS) + f"{'all':>9}")
        for kind in VICTIMS:
            row = [self.struck[kind, number] for number in SIGNALS]
            if any(row):
                print(f"{kind:<10}" + "".join(f"{count or '':>9}" for count in [*row, sum(row)]))
        total = self.struck.total()
        print(f"\n{total} blows in {seconds:.0f} s, {self.count} launches, {self.laps} whole runs and the last one")
        for line in self.looks:
            print(f"worth a look: {line}")
        print(f"lost: {len(self.lost) or 'nothing'}")
        for line in self.lost:
            print(f"  {line}", flush=True)

    def _give_head_start(self, folder: Path, stages: Sequence[str]) -> None:
        """Their steps in this process, which spares starting as many; DVC takes what they made as its own."""
        os.environ["GENFORGE_UPLOADER"] = "off"  # commands have an environment of their own
        for stage in stages:
            importlib.import_module(f"genforge.steps.{stage}").run(Project.load(folder))
        own = environment(folder)
        subprocess.run(["dvc", "commit", "--quiet", "--force", *stages], cwd=folder, env=own, check=True)

    def _say(self, text: str) -> None:
        print(f"{time.strftime('%T')}  {text}", flush=True)


def _applies(name: str) -> bool:
    """Whether a check has something to look at where only some stages were run."""
    return not any(word in name for word in ("alias", "DVC", "version"))


def _group(process: psutil.Process) -> int:
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(process.pid)
    return 0


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()


def _tail(path: Path) -> str:
    return " | ".join(path.read_text(errors="replace").strip().splitlines()[-4:])[-600:]


def main() -> int:
    parser = argparse.ArgumentParser(description="Random signals over everything that runs; then what was lost.")
    parser.add_argument("--minutes", type=float, default=10.0, help="of blows; the end comes some minutes later")
    parser.add_argument("--seed", type=int, default=0, help="of the plan: who, with what, when")
    parser.add_argument("--pace", type=float, default=5.0, help="mean seconds between blows (default: 5)")
    parser.add_argument("--short", action="store_true", help="one recipe, its search and its training alone")
    parser.add_argument("--store", type=Path, help="a new MLflow database, for --short: it need not make one")
    parser.add_argument("--keep", action="store_true", help="keep the folder also when nothing was lost")
    arguments = parser.parse_args()

    # A shell that starts this in the background lets it and all its children ignore Ctrl-C, and some blows are that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    folder = Path(tempfile.mkdtemp(prefix="genforge-chaos-"))
    print(f"seed {arguments.seed}, in {folder}; the first blows of its plan:", flush=True)
    for blow, _ in zip(blows(arguments.seed, arguments.pace), range(8), strict=False):
        print(f"  {blow}")
    field, seed, pace = folder / "field", arguments.seed, arguments.pace
    if arguments.short:
        goal, store = f"train@{SHORT}", arguments.store
        campaign = Campaign(field, [["dvc", "repro", goal]], seed, pace, goal, [SHORT], BEFORE_SHORT, store, workers=1)
    else:
        commands = [["dvc", "repro"], ["genforge", "run", "--jobs", str(len(cores))]]
        campaign = Campaign(field, commands, seed, pace, goal="rank")
    whole = campaign.run(60 * arguments.minutes, SECONDS_TO_END)
    if whole and not arguments.keep:
        shutil.rmtree(folder)
    else:
        print(f"the evidence is in {folder}; again: make chaos SEED={arguments.seed} MINUTES={arguments.minutes:g}")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
