"""A training step and 50-step DDIM beside denoising-diffusion-pytorch and diffusers' UNet2DModel, in one run.

    python tests/benchmarks/diffusion_peers.py [--width 32] [--size 28] [--batch 64] [--rounds 5]

Neither is a dependency: put them on the path (`pip install --target FOLDER ...`, PYTHONPATH=FOLDER). One that cannot be
imported is left out and said so. Each gets three levels, one block a level, attention at the smallest, and the width
that comes nearest to our count of parameters. Rounds are interleaved, so that a busy machine slows all alike; what is
printed is the median of the ratios within rounds (above 1: we are faster), and how far they spread.

Each does what its own users would call: our objective and sampler, GaussianDiffusion's loss and `sample`, UNet2DModel
with the schedulers of diffusers. All train with Adam on noise prediction, without an average of the weights.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genforge import catalog, torchvision_cure
from genforge.contracts import Batch, Draw, ImageShape

STEPS, DRAWN = 50, 16  # of DDIM, and images that it draws together


@dataclass
class Contender:
    """train: one step on a batch. draw: as many images as DRAWN."""

    name: str
    parameters: int
    train: Callable[[Tensor], None]
    draw: Callable[[], Any]


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def nearest_width(build: Callable[[int], nn.Module], parameters: int, multiple: int) -> int:
    """The width that comes nearest to this count, among multiples that the network can take."""
    return min(range(8, 129, multiple), key=lambda width: abs(count(build(width)) - parameters))


def stepping(weights: nn.Module, loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
    optimizer = torch.optim.Adam(weights.parameters(), 2e-4, fused=True)

    def step(images: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(images).backward()
        optimizer.step()

    return step


def ours(width: int, size: int) -> Contender:
    backbone = {"width": width, "multipliers": [1, 2, 2], "blocks": 1, "attention_up_to": size // 4}
    entry = {
        "from": "ddpm",
        "networks": {"denoiser": {"prediction": "noise", "backbone": backbone}},
        "sampler": {"name": "ddim", "steps": STEPS},
    }
    recipe = catalog.resolve("ours", entry)
    objective = catalog.build_objective(recipe, ImageShape(1, size, size), 0)
    network, sampler = objective.exported, catalog.build_sampler(recipe.sampler)
    player = objective.players[0]

    def draw() -> Tensor:
        network.eval()
        images = sampler.sample(network, Draw(0, torch.arange(DRAWN)))
        network.train()
        return images

    step = stepping(network, lambda images: objective.loss(player, Batch(images)).value)
    return Contender("genforge", count(network), step, draw)


def denoising_diffusion_pytorch(parameters: int, size: int) -> Contender:
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    def build(width: int) -> nn.Module:
        return Unet(dim=width, dim_mults=(1, 2, 2), channels=1, full_attn=(False, False, True))

    network = build(nearest_width(build, parameters, 4))
    diffusion = GaussianDiffusion(network, image_size=size, timesteps=1000, sampling_timesteps=STEPS)
    step = stepping(network, lambda images: diffusion((images + 1) / 2))
    return Contender("denoising-diffusion-pytorch", count(network), step, lambda: diffusion.sample(DRAWN))


def diffusers(parameters: int, size: int) -> Contender:
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

    def build(width: int) -> nn.Module:
        return UNet2DModel(
            sample_size=size,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(width, 2 * width, 2 * width),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            norm_num_groups=8,
        )

    network = build(nearest_width(build, parameters, 8))
    noising, denoising = DDPMScheduler(1000), DDIMScheduler(1000)

    def loss(images: Tensor) -> Tensor:
        noise, times = torch.randn_like(images), torch.randint(0, 1000, (len(images),))
        return (network(noising.add_noise(images, noise, times), times).sample - noise).square().mean()

    @torch.no_grad()
    def draw() -> Tensor:
        denoising.set_timesteps(STEPS)
        images = torch.randn(DRAWN, 1, size, size)
        for time_step in denoising.timesteps:
            images = denoising.step(network(images, time_step).sample, time_step, images).prev_sample
        return images

    return Contender("diffusers", count(network), stepping(network, loss), draw)


def seconds(work: Callable[[], Any], times: int) -> float:
    began = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):  # where some draw bars
        for _ in range(times):
            work()
    return (time.perf_counter() - began) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32, help="of our U-Net")
    parser.add_argument("--size", type=int, default=28, help="pixels of a side")
    parser.add_argument("--batch", type=int, default=64, help="images of a training step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torchvision_cure.import_torchvision()
    torch.manual_seed(0)

    us = ours(arguments.width, arguments.size)
    contenders = [us]
    for build in (denoising_diffusion_pytorch, diffusers):
        try:
            contenders.append(build(us.parameters, arguments.size))
        except ImportError as error:
            print(f"{build.__name__} is left out: {error}")
    images = torch.rand(arguments.batch, 1, arguments.size, arguments.size) * 2 - 1
    for one in contenders:  # the first time is no measure: memory is found, kernels are chosen
        one.train(images)
    trained: dict[str, list[float]] = {one.name: [] for one in contenders}
    drawn: dict[str, list[float]] = {one.name: [] for one in contenders}
    for _ in range(arguments.rounds):
        for one in contenders:
            trained[one.name].append(seconds(lambda one=one: one.train(images), 3))  # type: ignore[misc]
            drawn[one.name].append(seconds(one.draw, 1))
    for one in contenders:
        texts = []
        for what, taken in (("step", trained), ("DDIM", drawn)):
            ratios = [theirs / our for our, theirs in zip(taken[us.name], taken[one.name], strict=True)]
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            texts.append(f"{what} {min(taken[one.name]):.3f} s, ratio {statistics.median(ratios):.2f} ({spread})")
        print(f"{one.name:28} {one.parameters:9,} parameters; {'; '.join(texts)}")


if __name__ == "__main__":
    main()
