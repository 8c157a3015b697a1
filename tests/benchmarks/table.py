"""Measure us beside the peers and write what was found into docs/benchmarks.md: what `make bench` runs.

    python tests/benchmarks/table.py [--only NAME ...] [--resume] [--files FOLDER] [--peers FOLDER] [--write-only]

Each row of rows.py is measured by itself and kept in docs/benchmarks.json, beside the page that is made from all that
are there, so that one row can be measured again. `--resume` leaves out rows that are there for the commit that is
checked out. The peers are installed once from the package index into a folder of their own, and are on the path of
their own processes alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from images import SCRATCH
from laps import undecided
from rows import ROWS, Tool, Turns

from genforge.files import replacing

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

Environment = dict[str, str]


class Contender:
    """A process that makes steps when it is asked to (laps.py)."""

    def __init__(self, command: list[str], environment: Environment, log: IO[bytes]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        self.about = self._hear()
        self.laps: list[dict[str, Any]] = []

    def go(self, steps: int, counts: bool = True) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        lap = self._hear()
        if counts:
            self.laps.append(lap)

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(map(str, self.process.args))} ended without an answer")  # type: ignore[arg-type]
        return json.loads(line)

    def result(self) -> dict[str, Any]:
        """What it is, medians of its laps, and how far they spread."""
        wall, processor = ([lap[key] for lap in self.laps] for key in ("wall", "processor"))
        return {
            **self.about,
            "s_per_step": statistics.median(wall),
            "s_min": min(wall),
            "s_max": max(wall),
            "images_per_s": round(self.about["batch"] / statistics.median(wall), 1),
            "processor_s_per_step": statistics.median(processor),
            "peak_rss_mb": self.laps[-1]["peak_rss_mb"],
        }


def take_turns(
    commands: list[tuple[list[str], Environment]], log: Path, warm: int, lap: int, rounds: int
) -> list[Contender]:
    """Start a contender a command, in its environment, and let each make a lap in every round, after some steps that
    do not count."""
    contenders: list[Contender] = []
    with log.open("wb") as words:
        try:
            for command, environment in commands:
                contenders.append(Contender(command, environment, words))
                contenders[-1].go(warm, counts=False)
            for _ in range(rounds):
                for contender in contenders:
                    contender.go(lap)
        finally:
            for contender in contenders:
                contender.leave()
    return contenders


def ratios(first: Contender, second: Contender) -> dict[str, list[float]]:
    """The second's seconds to the first's, within rounds: `wall` and `processor`."""
    return {
        key: [theirs[key] / max(ours[key], 1e-9) for ours, theirs in zip(first.laps, second.laps, strict=True)]
        for key in ("wall", "processor")
    }


def measure_turns(row: Turns, shared: list[str], of_peers: Path, log: Path) -> dict[str, Any]:
    """Ours and every peer, in turns. Ratios are taken within rounds, of wall and of processor seconds."""
    arguments = [*shared, *row.data, "--threads", str(row.threads), "--turns"]
    commands = [([str(HERE / f"{row.ours[0]}.py"), *row.ours[1:], *arguments], undecided())]
    commands += [
        ([str(HERE / "peer_step.py"), peer.name, *peer.tool, *arguments], with_peers(of_peers)) for peer in row.peers
    ]
    warm = max(2, row.lap // 5) if row.ours[0] == "train_step" else 1
    us, *others = take_turns(commands, log, warm, row.lap, row.rounds)
    peers = []
    for contender, peer in zip(others, row.peers, strict=True):
        found = ratios(us, contender)
        peers.append(
            {
                **contender.result(),
                "peer": peer.name,
                "least": peer.least,
                "ratio": statistics.median(found["wall"]),
                "ratio_low": min(found["wall"]),
                "ratio_high": max(found["wall"]),
                "processor_ratio": statistics.median(found["processor"]),
            }
        )
    return {"ours": us.result(), "peers": peers, "rounds": row.rounds}


def with_peers(folder: Path) -> Environment:
    """That of a peer's process. Ours must not find what is there: other versions of packages that we have as well."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(folder)]))
    return {**undecided(), "PYTHONPATH": path}


def measure_tool(row: Tool, shared: list[str], jpegs: str) -> dict[str, Any]:
    """The lines that the tool prints."""
    command = [part.format(jpegs=jpegs) for part in row.command]
    extra = (
        ["--scratch", shared[shared.index("--scratch") + 1]] if row.command[0] in ("search.py", "overhead.py") else []
    )
    done = subprocess.run(
        [sys.executable, str(HERE / command[0]), *command[1:], *extra],
        env=undecided(),
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}")
    return {"lines": [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]}


def install_peers(folder: Path) -> None:
    """What peers/requirements.txt names, once."""
    wanted = (HERE / "peers" / "requirements.txt").read_text()
    mark = folder / "installed.txt"
    if mark.is_file() and mark.read_text() == wanted:
        return
    print(f"installing the peers into {folder}", file=sys.stderr)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]
    subprocess.run([*pip, "--target", folder, "-r", HERE / "peers" / "requirements.txt"], check=True)
    mark.write_text(wanted)


def machine() -> dict[str, Any]:
    """Where this is measured."""
    import torch

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": bool(torch.cpu.get_capabilities().get("avx512_bf16", False)),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "commit": commit.strip(),
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def number(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def lines_of(name: str, result: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Rows of the table, and what is to be said of targets that were missed."""
    row, table, missed = ROWS[name], [], []
    if isinstance(row, Turns):
        ours = result["ours"]
        for found in result["peers"]:
            peer = next(peer for peer in row.peers if peer.name == found["peer"])
            held = found["ratio"] >= peer.least
            table.append(
                f"| {row.work} | {found['version']}, {found['params_m']:g} M | "
                f"{number(found['images_per_s'])} images/s | "
                f"{number(ours['images_per_s'])} images/s ({ours['params_m']:g} M) | **{found['ratio']:.2f}x** "
                f"({found['ratio_low']:.2f} to {found['ratio_high']:.2f}) | {found['processor_ratio']:.2f}x | "
                f"{peer.least:g}x | {'yes' if held else '**no**'} |"
            )
            if not held:
                missed.append(
                    _missed(row.work, found["peer"], f"{found['ratio']:.2f}x", f"{peer.least:g}x", row.reason)
                )
        return table, missed
    line = next(found for found in result["lines"] if all(found.get(key) == value for key, value in row.pick.items()))
    value = float(line[row.value])
    held = value >= row.least if row.least is not None else value <= (row.most or 0.0)
    target = f"{row.least:g}x" if row.least is not None else f"at most {row.most:g} {row.unit}"
    shown = f"{value:.2f}x" if row.least is not None else f"{value:.2f} {row.unit}"
    spread = f" ({line['spread'][0]:.2f} to {line['spread'][1]:.2f})" if "spread" in line else ""
    theirs, ours_seconds = (f"{number(_at(line, key))} s" if key else "" for key in (row.theirs, row.ours))
    mark = "yes" if held else "**no**"
    table.append(f"| {row.work} | {row.peer} | {theirs} | {ours_seconds} | **{shown}**{spread} | | {target} | {mark} |")
    if not held:
        missed.append(_missed(row.work, row.peer, shown, target, row.reason))
    return table, missed


def _missed(work: str, peer: str, shown: str, target: str, reason: str) -> str:
    return f"- {work}, beside {peer}: {shown} where {target} was meant. {reason or 'Not explained yet.'}"


def _at(values: dict[str, Any], key: str) -> float:
    found: Any = values
    for part in key.split("."):
        found = found[part]
    return float(found)


def kept_in(record: Path) -> dict[str, dict[str, Any]]:
    """What was measured, by row, in the order of the table."""
    found = json.loads(record.read_text()) if record.is_file() else {}
    return {name: found[name] for name in ROWS if name in found}


def keep(record: Path, name: str, result: dict[str, Any]) -> None:
    """Lay a row's result over what the record has of it."""
    with replacing(record, "w") as file:
        json.dump({**kept_in(record), name: result}, file, indent=1)
        file.write("\n")


def page(kept: dict[str, dict[str, Any]]) -> str:
    """What stands between the marks."""
    lines = [
        "| work | peer | peer's | ours | ratio (spread over rounds) | of processor seconds | meant | held |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    missed: list[str] = []
    for name, result in kept.items():
        table, of_row = lines_of(name, result)
        lines += table
        missed += of_row
    places = {json.dumps({**result["machine"], "load": None}, sort_keys=True) for result in kept.values()}
    for place in sorted(places):
        found = json.loads(place)
        own = [
            name
            for name, result in kept.items()
            if json.dumps({**result["machine"], "load": None}, sort_keys=True) == place
        ]
        loads = [kept[name]["machine"]["load"] for name in own]
        bfloat16 = "with" if found["bfloat16"] else "without"
        lines += [
            "",
            f"{found['date']}, commit {found['commit']}: {found['cpu']}, {found['cores']} cores, "
            f"{found['instructions']} {bfloat16} AVX512-BF16, torch {found['torch']}, Python {found['python']}; "
            f"load of the machine before a row {min(loads):g} to {max(loads):g}"
            + (f" ({', '.join(own)})" if len(places) > 1 else "")
            + ".",
        ]
    absent = [name for name in ROWS if name not in kept]
    if absent:
        lines += ["", f"Not measured here: {', '.join(absent)}."]
    return "\n".join([*lines, "", "### Targets that are missed", "", *(missed or ["None."])])


def write(record: Path, path: Path) -> None:
    """Put what was measured between the marks of the page."""
    before, _, rest = path.read_text().partition(BEGIN) if path.exists() else ("", "", "")
    _, _, after = rest.partition(END)
    with replacing(path, "w") as file:
        file.write(f"{before}{BEGIN}\n\n{page(kept_in(record))}\n\n{END}{after}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=[], metavar="NAME", help=", ".join(ROWS))
    parser.add_argument("--resume", action="store_true", help="leave out what was measured of this commit")
    parser.add_argument("--files", type=Path, default=Path("data/incoming"), help="folder of mnist/ and cifar10/")
    parser.add_argument("--peers", type=Path, default=SCRATCH / "peers", help="where peers are installed")
    parser.add_argument("--scratch", type=Path, default=SCRATCH)
    parser.add_argument("--page", type=Path, default=PAGE, help="the record is the file beside it that ends in .json")
    parser.add_argument("--write-only", action="store_true", help="measure nothing")
    arguments = parser.parse_args(argv)
    record, failed = arguments.page.with_suffix(".json"), []
    if not arguments.write_only:
        arguments.peers.mkdir(parents=True, exist_ok=True)
        install_peers(arguments.peers)
        shared = ["--files", str(arguments.files), "--scratch", str(arguments.scratch)]
        for name in arguments.only or ROWS:
            here = machine()
            if arguments.resume and kept_in(record).get(name, {}).get("machine", {}).get("commit") == here["commit"]:
                continue
            print(f"{datetime.now():%H:%M:%S} {name}", file=sys.stderr, flush=True)
            row = ROWS[name]
            try:
                if isinstance(row, Turns):
                    result = measure_turns(row, shared, arguments.peers, arguments.scratch / f"{name}.log")
                else:
                    result = measure_tool(row, shared, _jpegs(row, arguments))
            except RuntimeError as error:  # the others are measured all the same
                print(f"{name}: {error}; see {arguments.scratch / f'{name}.log'}", file=sys.stderr)
                failed.append(name)
                continue
            keep(record, name, {**result, "machine": here})
            print("\n".join(lines_of(name, result)[0]), flush=True)
    write(record, arguments.page)
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


def _jpegs(row: Tool, arguments: argparse.Namespace) -> str:
    """A folder of JPEG files, made of the prepared images, for a tool that asks for one."""
    if not any("{jpegs}" in part for part in row.command):
        return ""
    from images import as_jpegs, prepared

    given = argparse.Namespace(data="cifar", size=None, files=arguments.files, scratch=arguments.scratch, count=None)
    return str(as_jpegs(prepared(given)[0], arguments.scratch, ("train", "validation", "test")))


if __name__ == "__main__":
    main()
