"""A peer's training step or drawing, timed as ours are: it prints the same line of JSON.

    PYTHONPATH=FOLDER python tests/benchmarks/peer_step.py PEER --data mnist|cifar|PATH --batch 64 --threads 2

FOLDER has the packages of peers/requirements.txt (`table.py` installs them). Peers that load data take images one by
one through a DataLoader; the others find their batches in memory, as tensors.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from images import add_arguments, as_jpegs, prepared
from laps import Pace
from torch import Tensor

from genforge.contracts import to_network
from genforge.data.loading import Prepared
from genforge.torchvision_cure import import_torchvision

IN_MEMORY = 4096  # images
# What a peer is, the distribution whose version is told, and where its images come from.
PEERS = {
    "denoising-diffusion-pytorch": (
        "diffusion",
        "denoising_diffusion_pytorch",
        "denoising-diffusion-pytorch",
        "memory",
    ),
    "diffusers": ("diffusion", "diffusers", "diffusers", "memory"),
    "pythae-convolutional": ("autoencoders", "pythae_convolutional", "pythae", "memory"),
    "pythae-mlp": ("autoencoders", "pythae_mlp", "pythae", "memory"),
    "examples-dcgan": ("gans", "dcgan", "torch", "memory"),
    "torch-fidelity-sngan": ("gans", "sngan", "torch-fidelity", "memory"),
    "tutorial": ("gans", "mlp", "torch", "arrays"),
    "tutorial-jpeg": ("gans", "mlp", "torch", "jpeg"),
}


def in_memory(images: Tensor, size: int) -> Iterator[Tensor]:
    """Shuffled batches of tensors."""
    while True:
        for chosen in torch.randperm(len(images)).split(size):
            if len(chosen) == size:
                yield images[chosen]


def loaded(data: Prepared, how: str, size: int, scratch: Path) -> Iterator[Tensor]:
    """As a tutorial loads images: one by one from PIL, `ToTensor` and `Normalize` on each, a shuffling DataLoader."""
    import_torchvision()
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Compose, Normalize, ToTensor

    channels = data.shape.channels
    transform = Compose([ToTensor(), Normalize((0.5,) * channels, (0.5,) * channels)])

    class Arrays(Dataset):  # type: ignore[type-arg]
        """As torchvision's MNIST: an array in memory, of which each image is made one of PIL first."""

        def __init__(self) -> None:
            self.images = np.array(data.images("train"))

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            pixels = self.images[index]
            return transform(Image.fromarray(pixels[..., 0] if channels == 1 else pixels)), 0

    images: Any = Arrays() if how == "arrays" else ImageFolder(str(as_jpegs(data, scratch)), transform=transform)
    loader = DataLoader(images, batch_size=size, shuffle=True, drop_last=True)
    while True:
        for batch, _ in loader:
            yield batch


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=sorted(PEERS))
    add_arguments(parser)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30, help="laps that are timed, after a few that are not")
    parser.add_argument("--lap", type=int, default=1, help="steps a lap")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--draw", action="store_true", help="time drawing `--batch` images, not training")
    parser.add_argument("--turns", action="store_true", help="take turns: see laps.py")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    import_torchvision()  # some peers import it, and there is no build of it for the CPU

    data, called = prepared(arguments)
    module, function, distribution, source = PEERS[arguments.peer]
    images = to_network(torch.from_numpy(np.array(data.images("train")[:IN_MEMORY])))
    build: Callable[[Tensor], Any] = getattr(__import__(f"peers.{module}", fromlist=[function]), function)
    network, train, draw = build(images)
    batches = in_memory(images, arguments.batch) if source == "memory" else None
    batches = batches or loaded(data, source, arguments.batch, arguments.scratch)
    about = {
        "name": arguments.peer,
        "version": f"{distribution} {version(distribution)}",
        "params_m": round(sum(weight.numel() for weight in network.parameters()) / 1e6, 3),
        "batch": arguments.batch,
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "data": called,
    }
    pace = Pace(
        about, "cpu", None if arguments.turns else arguments.steps, arguments.lap, warm=1 if arguments.draw else 3
    )
    with contextlib.redirect_stdout(None) if arguments.turns else contextlib.nullcontext():
        pace.run((lambda: draw(arguments.batch)) if arguments.draw else (lambda: train(next(batches))))
    if not arguments.turns:
        print(json.dumps(pace.line()))


if __name__ == "__main__":
    main()
