"""A clone of its own for each run that nobody watches, so that no run disturbs another one or the user's folder.

A workplace is a clone of the repository in a folder beside others, `1`, `2` and so on; a run takes the first that is
free, by a lock that the kernel gives back when the run dies, and brings it to the newest commit of its branch. What git
does not know stays from run to run: data and results that DVC checks anyway, and checkpoints, from which a run that was
killed goes on. All workplaces share one DVC cache, where the repository is a folder on this machine that folder's own:
what one run has made, the next one takes from there.

Nothing is ever changed in the repository but by adding branches `genforge/retrain-...`. Whatever lies uncommitted in a
user's folder is no part of a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from genforge.files import replacing_folder, write_text
from genforge.progress import say
from genforge.settings import UserError
from genforge.steps import workplaces
from genforge.steps.project import Project
from genforge.tracking import mlflow_store

REPOSITORY = "GENFORGE_REPOSITORY"  # environment: the path or URL that workplaces are cloned from
BRANCHES = "genforge/retrain-"
LOCK = "dvc.lock"
EMBEDDED = "embedded"  # the remote that a project gets which names none
MOST = 64  # workplaces on one machine


@dataclass(frozen=True)
class Workplace:
    """A clone that this process holds.

    repository: the path or URL that it was cloned from. branch: whose newest commit it stands at. commit: that one.
    is_local: the repository is a folder on this machine, with the user's own data, cache and tracking store.
    environment: for whatever runs here: our code is the clone's, the tracking store the repository's.
    """

    folder: Path
    repository: str
    branch: str
    commit: str
    is_local: bool
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def project(self) -> Project:
        return Project.load(self.folder)

    @property
    def origin(self) -> Path:
        """The user's folder. Only where `is_local`."""
        return Path(self.repository)

    def git(self, *words: str) -> str:
        return git(self.folder, *words)

    def at_commit(self, commit: str, path: str) -> str | None:
        """A file's text as it is in a commit; None where there is no such commit or file."""
        shown = _run(self.folder, "show", f"{commit}:{path}")
        return shown.stdout if shown.returncode == 0 else None

    def commit_to(self, branch: str, paths: list[str], message: str) -> str:
        """Commit these files, where they differ from the commit that stands here, and give the repository the branch.
        Returns the commit.

        Raises:
            UserError: the repository does not take it.
        """
        there = [path for path in paths if (self.folder / path).exists()]
        self.git("add", "--force", "--", *there)
        changed = _run(self.folder, "diff", "--cached", "--quiet").returncode != 0
        if changed:
            self.git("commit", "--quiet", "--no-verify", "--message", message)
            self.git("push", "--quiet", "origin", f"HEAD:refs/heads/{branch}")
        return self.git("rev-parse", "HEAD")


@contextlib.contextmanager
def workplace(repository: str | Path, branch: str | None = None, home: str | Path | None = None,
              commit: str | None = None) -> Iterator[Workplace]:  # fmt: skip
    """A workplace for the length of the block, at the newest commit of a branch.

    Args:
        repository: a folder with a git repository, or a URL.
        branch: None: the one that is checked out there.
        home: the folder of workplaces; None: `GENFORGE_WORKPLACES`, else `.genforge/workplaces` in a local repository.
        commit: stand at this one instead of the branch's newest.

    Raises:
        UserError: the repository cannot be cloned, or holds no project; there is no such branch; or something that a
            run needs of its surroundings is missing.
    """
    is_local = "://" not in str(repository) and Path(repository).is_dir()
    address = str(Path(repository).resolve()) if is_local else _with_password(str(repository))
    shown = without_password(address)
    branch = branch or current_branch(address)
    place = home_of(address, is_local, home)
    with _taken(place) as folder:
        _clone(address, folder)
        git(folder, "fetch", "--quiet", "--prune", "origin", "+refs/heads/*:refs/remotes/origin/*")
        tip = commit or f"refs/remotes/origin/{branch}"
        known = _run(folder, "rev-parse", "--verify", "--quiet", f"{tip}^{{commit}}")
        if known.returncode != 0:
            raise UserError(f"{shown} has no {'commit ' + commit if commit else 'branch ' + repr(branch)}")
        git(folder, "checkout", "--quiet", "--force", "--detach", known.stdout.strip())
        git(folder, "clean", "--quiet", "-ffd")
        for needed in ("params.yaml", "dvc.yaml"):
            if not (folder / needed).is_file():
                raise UserError(f"{shown} has no {needed} at {branch}; commit it, for runs start from what is there")
        if commit is None:
            _take_newest_lock(folder)
        _configure_dvc(folder, address, is_local, place)
        environment = _environment(folder, address, is_local)
        yield Workplace(folder, address, branch, known.stdout.strip(), is_local, environment)


def repository_of(root: Path) -> str:
    """What the runs of the project in `root` are cloned from."""
    return os.environ.get(REPOSITORY) or str(root.resolve())


def named(what: str, repository: str) -> str:
    """What a Prefect server, which several projects may share, calls something of the project of this repository."""
    address = without_password(repository)
    name = re.sub(r"[^\w.-]+", "-", Path(address).name.removesuffix(".git"))
    return f"{what}-{name}-{hashlib.sha256(address.encode()).hexdigest()[:6]}"


def _with_password(address: str) -> str:
    """The address with the user and password that this machine knows for it, by `GENFORGE_REPOSITORY`: what goes
    through a Prefect server has none."""
    own = os.environ.get(REPOSITORY, "")
    return own if without_password(own) == address else address


def home_of(address: str, is_local: bool = True, home: str | Path | None = None) -> Path:
    """The folder of workplaces of a repository."""
    if home:
        return Path(home).resolve()
    if is_local or os.environ.get(workplaces.HOME):
        return workplaces.home_of(Path(address))
    raise UserError(f"{workplaces.HOME} should name a folder for the clones of {without_password(address)}")


def current_branch(address: str) -> str:
    """The branch that is checked out in a repository, or the default one of a server.

    Raises:
        UserError: there is none.
    """
    listed = git(None, "ls-remote", "--symref", address, "HEAD")
    for line in listed.splitlines():
        if line.startswith("ref: refs/heads/"):
            return line.split()[1].removeprefix("refs/heads/")
    shown = without_password(address)
    raise UserError(f"{shown} stands on no branch, or has no commit yet; name a branch (`schedule.branch`)")


def new_branch() -> str:
    """A name that no other run takes."""
    return f"{BRANCHES}{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def git(folder: Path | None, *words: str) -> str:
    """Standard output of a git command.

    Raises:
        UserError: git fails, with what it said.
    """
    done = _run(folder, *words)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise UserError(without_password(f"`git {' '.join(words[:3])}` fails: {said}"))
    return done.stdout.strip()


def _run(folder: Path | None, *words: str) -> subprocess.CompletedProcess[str]:
    """A git command, which asks nobody for a password."""
    try:
        return subprocess.run(
            ["git", *_author(words), *words],
            check=False,
            cwd=folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
        )
    except FileNotFoundError:
        raise UserError("git is not on PATH, and scheduled runs need it: install it") from None


def without_password(text: str) -> str:
    """A text without the user and password that a URL in it may hold."""
    return re.sub(r"://[^@/\s]+@", "://", text)


def _author(words: tuple[str, ...]) -> list[str]:
    """A machine commits in its own name, unless the environment (GIT_AUTHOR_NAME and its like) says otherwise."""
    if words[0] != "commit":
        return []
    return ["-c", "user.name=genforge retrain", "-c", f"user.email=genforge@{socket.gethostname()}",
            "-c", "commit.gpgsign=false"]  # fmt: skip


@contextlib.contextmanager
def _taken(home: Path) -> Iterator[Path]:
    """The first free place."""
    for number in range(1, MOST + 1):
        lock = workplaces.lock_of(home / str(number))
        if lock.acquire():
            try:
                yield home / str(number)
            finally:
                lock.release()
            return
    raise UserError(f"{MOST} runs are at work in {home} already")


def _clone(address: str, folder: Path) -> None:
    if folder.is_dir():
        with contextlib.suppress(UserError):
            if git(folder, "remote", "get-url", "origin") == address:
                # A git that was killed leaves its lock; nobody else works here.
                (folder / ".git" / "index.lock").unlink(missing_ok=True)
                return
        shutil.rmtree(folder)
    with replacing_folder(folder) as made:
        git(None, "clone", "--quiet", "--no-checkout", address, str(made))


def _take_newest_lock(folder: Path) -> None:
    """`dvc.lock` of the last scheduled run, where that is newer than the branch's own. Either is true: DVC compares
    what a lock says with what is there, so the newer one only spares work."""
    branches = git(folder, "for-each-ref", "--sort=-committerdate", "--count=1", "--format=%(refname)",
                   f"refs/remotes/origin/{BRANCHES}*")  # fmt: skip
    if not branches:
        return

    def written(commit: str) -> int:
        return int(git(folder, "log", "-1", "--format=%ct", commit, "--", LOCK) or 0)

    if written(branches) >= written("HEAD"):
        write_text(folder / LOCK, git(folder, "show", f"{branches}:{LOCK}") + "\n")


def _configure_dvc(folder: Path, address: str, is_local: bool, home: Path) -> None:
    """Cache and remotes of the repository's own folder, which git does not carry (`.dvc/config.local`, and paths that
    are relative to it); without a remote one beside the workplaces, so that the embedded default is a whole one."""
    from dvc.config import Config, ConfigError

    shown = without_password(address)
    if not (folder / ".dvc").is_dir():
        raise UserError(f"{shown} is no DVC repository; `dvc init` makes it one, then commit .dvc")
    try:
        theirs = Config(str((Path(address) if is_local else folder) / ".dvc"))
        cache = theirs["cache"].get("dir") or (Path(address) / ".dvc" / "cache" if is_local else home / "cache")
        remotes = {name: dict(settings) for name, settings in theirs["remote"].items()} if is_local else {}
        default = theirs["core"].get("remote")
        if not default and theirs["remote"]:
            raise UserError(f"{shown} has DVC remotes, but no default; `dvc remote default NAME` makes one, commit it")
        if not default and not is_local:
            raise UserError(f"{shown} names no DVC remote; `dvc remote add -d NAME URL`, and commit .dvc/config")
        if not default:
            default, remotes = EMBEDDED, {EMBEDDED: {"url": str(Path(address) / ".genforge" / "remote")}}
        ours = Config(str(folder / ".dvc"))
        with ours.edit("local") as settings:
            settings["cache"] = {**theirs["cache"], "dir": str(cache)} if is_local else {"dir": str(cache)}
            settings["core"] = {"remote": default, "analytics": False}
            settings["remote"] = {name: {**found, "url": str(found["url"])} for name, found in remotes.items()}
    except ConfigError as error:
        raise UserError(f"{shown}: DVC's configuration cannot be read: {error}") from None
    (folder / ".dvc" / "config.local").chmod(0o600)  # it may hold the credentials of a remote


def _environment(folder: Path, address: str, is_local: bool) -> dict[str, str]:
    own = {"PYTHONPATH": os.pathsep.join([str(folder / "src"), str(folder), os.environ.get("PYTHONPATH", "")])}
    own["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if is_local:
        own["MLFLOW_TRACKING_URI"] = mlflow_store.store_uri(Path(address))
    elif not os.environ.get("MLFLOW_TRACKING_URI"):
        raise UserError(
            f"MLFLOW_TRACKING_URI should name the server that all machines share, since "
            f"{without_password(address)} is no folder here"
        )
    return own


def warn_of_uncommitted(folder: Path) -> None:
    """Say what in a user's folder is no part of a scheduled run."""
    changed = git(folder, "status", "--porcelain", "--untracked-files=no").splitlines()
    if changed:
        names = ", ".join(line[3:] for line in changed[:5]) + (", ..." if len(changed) > 5 else "")
        say(f"note: not committed, and so no part of scheduled runs: {names}")
