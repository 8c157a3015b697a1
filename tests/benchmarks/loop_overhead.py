"""What the loop costs beyond the mathematics: its steps against a bare loop of the same steps, for a small MLP.

    python tests/benchmarks/loop_overhead.py [--width 512] [--steps 1500]

The bare loop has what any training needs (zero_grad, loss, backward, step, average, a loss that is read now and then).
Pairs of runs are interleaved, so that a busy machine slows both alike; the median ratio is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from toy_training import Denoise, ToyData

from genforge.training.loop import TrainingSettings, train

BATCH, PAIRS = 64, 11


def objective(width: int) -> Denoise:
    torch.manual_seed(0)
    denoise = Denoise()
    denoise.exported.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 64))
    return denoise


def bare(denoise: Denoise, data: ToyData, steps: int) -> float:
    weights = list(denoise.exported.parameters())
    averages = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.Adam(weights, 2e-4, fused=True)
    began = time.perf_counter()
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss = denoise.loss(denoise.players[0], data.batch(step, BATCH))
        loss.value.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 0.001)
        if step % 50 == 0:
            loss.value.item()
    return time.perf_counter() - began


def ours(denoise: Denoise, data: ToyData, steps: int) -> float:
    settings = TrainingSettings(steps=steps, batch_size=BATCH)
    began = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        train(denoise, data, settings, log=lambda step, values: None)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=512, help="of the hidden layer")
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = ToyData()
    pairs = [
        (
            bare(objective(arguments.width), data, arguments.steps),
            ours(objective(arguments.width), data, arguments.steps),
        )
        for _ in range(PAIRS)
    ]
    microseconds = [1e6 * min(times) / arguments.steps for times in zip(*pairs, strict=True)]
    ratio = statistics.median(second / first for first, second in pairs)
    print(f"bare {microseconds[0]:.0f} us a step, ours {microseconds[1]:.0f} us, median ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
