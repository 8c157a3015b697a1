"""Prepared images on the way to the networks: arrays on disk, and endless shuffled batches on the device.

A batch is a pure function of (seed, turn, size): the stream is cut from epochs laid end to end, each a permutation of
its own, so that resuming needs one integer, and every image is seen once before any is seen again.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import psutil
import torch
from torch import Tensor

from genforge.contracts import Batch, TrainingData, to_network
from genforge.data.prepared import Prepared as Prepared
from genforge.randomness import derive

SHARE_OF_MEMORY = 0.5  # of what is free on the device: more than this, and the data stay on disk


class DeviceData(TrainingData):
    """Images of one split as batches on the device.

    What fits is held there as uint8 and batched by index; what does not stays memory-mapped, and the batch after the
    one asked for is fetched meanwhile, through pinned memory where the device is a GPU. The bits are the same.

    Args:
        prepared: the data.
        split: train, validation or test.
        device: where batches are wanted.
        seed: of the order and of the mirroring.
        horizontal_flip: mirror one image in two, anew each epoch.
        hold: whether to hold the images on the device; None: when they fit into half of its free memory.
    """

    def __init__(
        self,
        prepared: Prepared,
        split: str = "train",
        device: str | torch.device = "cpu",
        seed: int = 0,
        horizontal_flip: bool = False,
        hold: bool | None = None,
    ) -> None:
        self.shape, self.count, self.classes = prepared.shape, prepared.count(split), len(prepared.classes)
        if self.count == 0:
            raise ValueError(f"the split {split!r} holds no images")
        self.device, self.seed, self.horizontal_flip = torch.device(device), seed, horizontal_flip
        self._on_disk = prepared.images(split)
        if hold is None:
            hold = self._on_disk.nbytes <= SHARE_OF_MEMORY * _free_memory(self.device)
        self._held = torch.from_numpy(np.array(self._on_disk)).to(self.device) if hold else None
        labels = prepared.labels(split)
        self._labels = None if labels is None else torch.from_numpy(labels).to(self.device)
        self._epoch = lru_cache(maxsize=3)(self._shuffle)  # an end, a beginning, and the one that is fetched ahead
        self._fetcher = None if hold else ThreadPoolExecutor(1, "fetch")
        self._ahead: tuple[tuple[int, int], Future[Tensor]] | None = None

    def batch(self, turn: int, size: int) -> Batch:
        """The turn-th batch (0, 1, ...) of `size` images of the endless shuffled stream."""
        chosen, mirrored = self._positions(turn, size)
        here = self._moved(chosen)
        # `index_select` copies whole images, where `[]` copies values one by one.
        images = self._fetched(turn, size, chosen) if self._held is None else self._held.index_select(0, here)
        batch = to_network(images)
        if self.horizontal_flip:
            batch = torch.where(self._moved(mirrored)[:, None, None, None], batch.flip(3), batch)
        return Batch(batch, None if self._labels is None else self._labels.index_select(0, here))

    def chunks(self, size: int = 1024) -> Iterator[Batch]:
        """Every image once, as it is, in the order on disk, in batches of at most `size`."""
        for start in range(0, self.count, size):
            part = slice(start, min(start + size, self.count))
            images = (
                self._held[part]
                if self._held is not None
                else self._moved(torch.from_numpy(np.array(self._on_disk[part])))
            )
            yield Batch(to_network(images), None if self._labels is None else self._labels[part])

    def _shuffle(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The order of an epoch, int64 (count,), and which images are mirrored in it, bool (count,)."""
        generator = torch.Generator().manual_seed(derive(self.seed, "epoch", epoch))
        order = torch.randperm(self.count, generator=generator)
        return order, torch.rand(self.count, generator=generator) < 0.5

    def _positions(self, turn: int, size: int) -> tuple[Tensor, Tensor]:
        """Which images the batch has, and which of them are mirrored: (size,) each, on the CPU."""
        order: list[Tensor] = []
        mirrored: list[Tensor] = []
        at, end = turn * size, (turn + 1) * size
        while at < end:
            epoch, place = divmod(at, self.count)
            taken = min(end - at, self.count - place)
            shuffled, coins = self._epoch(epoch)
            order.append(shuffled[place : place + taken])
            mirrored.append(coins[place : place + taken])
            at += taken
        if len(order) == 1:
            return order[0], mirrored[0]
        return torch.cat(order), torch.cat(mirrored)

    def _fetched(self, turn: int, size: int, chosen: Tensor) -> Tensor:
        """The chosen images from disk, uint8 on the device. The next batch is set going before this one is returned."""
        assert self._fetcher is not None
        ready = self._ahead[1].result() if self._ahead and self._ahead[0] == (turn, size) else self._read(chosen)
        following, _ = self._positions(turn + 1, size)
        self._ahead = ((turn + 1, size), self._fetcher.submit(self._read, following))
        return self._moved(ready)

    def _read(self, chosen: Tensor) -> Tensor:
        """Images from disk, uint8 (n, h, w, c), in pinned memory where a GPU waits for them."""
        return self._pinned(torch.from_numpy(self._on_disk[chosen.numpy()]))

    def _moved(self, values: Tensor) -> Tensor:
        """On the device. Nobody waits for a GPU to have them."""
        return self._pinned(values).to(self.device, non_blocking=True)

    def _pinned(self, values: Tensor) -> Tensor:
        """In memory that a GPU reads by itself, where there is one: from any other, a copy holds the process up."""
        return values.pin_memory() if self.device.type == "cuda" else values


def _free_memory(device: torch.device) -> int:
    """Bytes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
