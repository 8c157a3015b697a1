"""FID after equal time: the U-Net of the benchmark's row beside those of its peers.

    python tests/benchmarks/equal_time.py --project FOLDER [--seconds 480] [--seeds 2] [--images 500]

FOLDER is a project whose steps `prepare` and `extractor` are done. The three have as many weights and spend them at
other resolutions, so that a step's time alone says little. Each learns for as many processor seconds, on one thread,
with Adam at the same rate, gradients clipped to 1, and draws with DDIM of 50 steps from a running average of its
weights (decay 0.995); all else is as each one's users have it (loss, schedule of noise, their own average, which
nobody draws from). Prints a line of JSON for each training, then one with means. The peers are where `table.py` has
put them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from images import SCRATCH
from peer_step import IN_MEMORY, PEERS, in_memory
from rows import ROWS, Turns
from table import install_peers
from train_step import recipe_of

from genforge import catalog
from genforge.contracts import to_network, to_stored
from genforge.data.loading import DeviceData, Prepared
from genforge.evaluation.fidelity import Judge
from genforge.models import Model
from genforge.randomness import seed_everything
from genforge.torchvision_cure import import_torchvision
from genforge.training.loop import train
from genforge.training.optimization import WeightAverage
from genforge.training.settings import TrainingSettings

ROW = cast(Turns, ROWS["unet"])
OURS = "genforge"
RATE, DECAY = 1e-3, 0.995
TRIED = 10  # steps that tell how long one takes


def learn_ours(data: Prepared, seconds: float, seed: int) -> tuple[int, Callable[[int], np.ndarray]]:
    """As many steps of the row's recipe as these processor seconds are worth, and how to draw afterwards."""
    overrides = [value for key, value in zip(ROW.ours, ROW.ours[1:], strict=False) if key == "--set"]
    held = DeviceData(data, "train", "cpu", seed=seed)

    def trained(steps: int) -> tuple[float, Model]:
        training = {
            "steps": steps,
            "optimizer": {"learning_rate": RATE},
            "schedule": "constant",
            "clip_norm": 1.0,
            "ema": DECAY,
        }
        recipe = recipe_of(ROW.ours[1], overrides, training)
        seed_everything(seed)
        objective = catalog.build_objective(recipe, data.shape, len(data.classes))
        began = time.process_time()
        train(objective, held, TrainingSettings.read(recipe.training, "training"), seed=seed, title=OURS)
        return time.process_time() - began, Model(objective.exported, catalog.build_sampler(recipe.sampler), {})

    trained(2)  # the first step is no measure
    steps = round(seconds / (trained(TRIED)[0] / TRIED))
    model = trained(steps)[1]
    return steps, lambda count: model.draw(seed, count)


def learn_peer(name: str, data: Prepared, seconds: float, seed: int) -> tuple[int, Callable[[int], np.ndarray]]:
    """The same of a peer: its own step, until the time is over."""
    import_torchvision()  # some peers import it, and there is no build of it for the CPU
    module, function, _, _ = PEERS[name]
    peers = __import__(f"peers.{module}", fromlist=[function])
    peers.RATE = RATE
    seed_everything(seed)
    images = to_network(torch.from_numpy(np.array(data.images("train"))))
    network, step, draw = getattr(peers, function)(images[:IN_MEMORY])
    average, batches = WeightAverage(network, DECAY), in_memory(images, 64)
    spent, steps = 0.0, 0
    while spent < seconds:
        began = time.process_time()
        step(next(batches))
        spent += time.process_time() - began
        average.update()
        steps += 1
    average.adopt()
    scale = 2.0 if name == "denoising-diffusion-pytorch" else 1.0  # its images are in [0, 1]

    def drawn(count: int) -> np.ndarray:
        found = [draw(min(64, count - start)) for start in range(0, count, 64)]
        return to_stored(torch.cat(found) * scale - (scale - 1.0)).numpy()

    return steps, drawn


def one(name: str, arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train one contender, and judge what it draws."""
    torch.set_num_threads(1)
    data = Prepared.open(arguments.project / "data" / "prepared")
    judge = Judge.open(arguments.project / "results" / "extractor", arguments.project / "data" / "prepared")
    if name == OURS:
        steps, draw = learn_ours(data, arguments.seconds, seed)
    else:
        steps, draw = learn_peer(name, data, arguments.seconds, seed)
    images = draw(arguments.images)
    if arguments.pictures is not None:
        from genforge.pictures import save_png, sheet

        save_png(arguments.pictures / f"{name}-{seed}.png", sheet(images[:64]))
    return {"name": name, "seed": seed, "steps": steps, "fid": round(judge.score(images, ["fid"])["fid"], 3)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--seconds", type=float, default=480.0, help="of the processor, for each training")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=500, help="drawn from each")
    parser.add_argument("--peers", type=Path, default=SCRATCH / "peers", help="where peers are installed")
    parser.add_argument("--pictures", type=Path, default=None, help="a folder for 64 images of each")
    parser.add_argument("--one", nargs=2, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one is not None:
        print(json.dumps(one(arguments.one[0], arguments, int(arguments.one[1]))))
        return
    arguments.peers.mkdir(parents=True, exist_ok=True)
    install_peers(arguments.peers)
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(arguments.peers)]))
    given = sys.argv[1:] if argv is None else argv
    found: dict[str, list[float]] = {}
    for seed in range(arguments.seeds):
        for name in (OURS, *(peer.name for peer in ROW.peers)):
            command = [sys.executable, str(Path(__file__).resolve()), *given, "--one", name, str(seed)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({} if name == OURS else {"PYTHONPATH": path})
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            line = done.stdout.splitlines()[-1]
            found.setdefault(name, []).append(json.loads(line)["fid"])
            print(line, flush=True)
    means = {name: round(statistics.mean(values), 3) for name, values in found.items()}
    print(json.dumps({"name": "equal_time", "seconds": arguments.seconds, "seeds": arguments.seeds, "fid": means}))


if __name__ == "__main__":
    main()
