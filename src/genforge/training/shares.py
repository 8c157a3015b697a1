"""Who computes what of a batch: parts of equal size, one after the other in each process, side by side between them."""

from __future__ import annotations

from dataclasses import replace

from genforge.contracts import Batch, TrainingData
from genforge.parallel import Peers
from genforge.randomness import derive
from genforge.settings import UserError
from genforge.training.settings import TrainingSettings
from genforge.training.turn import Part


class Shares:
    """The parts of every turn's batch that fall to this process.

    The stream of images is one, however it is cut: part k of n of turn t is what turn t n + k of n-fold smaller batches
    would be.

    Raises:
        UserError: the batch cannot be cut into `accumulation` parts of equal size for each process.
    """

    def __init__(self, data: TrainingData, settings: TrainingSettings, peers: Peers, seed: int) -> None:
        self.data, self.seed = data, seed
        self.count = settings.accumulation * peers.size
        if settings.batch_size % self.count:
            raise UserError(
                f"training.batch_size is {settings.batch_size}, which cannot be cut into {self.count} equal parts, "
                f"{settings.accumulation} for each of {peers.size} processes; choose a multiple of {self.count}"
            )
        self.size = settings.batch_size // self.count
        self.own = range(peers.rank * settings.accumulation, (peers.rank + 1) * settings.accumulation)

    def of(self, turn: int) -> list[Part]:
        if self.count == 1:
            return [Part(self.data.batch(turn, self.size))]
        return [Part(self._batch(turn, part), derive(self.seed, "part", turn, part)) for part in self.own]

    def _batch(self, turn: int, part: int) -> Batch:
        return replace(self.data.batch(turn * self.count + part, self.size), part=part, parts=self.count)
