"""How a run is kept: it is checkpointed, goes on from its newest checkpoint after a stop, and falls back to it when its
numbers are no longer finite.

All of this hangs on what the checkpoints hold and on nothing that a killed process knew: which rollback it was, and
with what step the run goes on, is in the checkpoint that the rollback begins with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from genforge.progress import say
from genforge.settings import UserError
from genforge.training.checkpoint import Checkpoints, Snapshot
from genforge.training.failure import Rollback, TrainingFailed
from genforge.training.settings import TrainingSettings
from genforge.training.state import RunState


class Keeper:
    """Keeps `run` in `checkpoints`. Without any it is not kept, and there is nothing to fall back to.

    Of several processes the first writes, and the others go on from what it has written.
    """

    def __init__(self, run: RunState, checkpoints: Checkpoints | None, settings: TrainingSettings, title: str) -> None:
        self.run, self.checkpoints, self.settings, self.title = run, checkpoints, settings, title
        self.warn: Callable[[str], None] = checkpoints.warn if checkpoints else say
        self.kept_step = -1

    def resume(self) -> bool:
        """Go on from the newest checkpoint; False when there is none."""
        if self.checkpoints is None:
            return False
        if self.run.peers.is_first:
            found = self._go_on_from(self.checkpoints.load())
            self.run.peers.wait()
            return found
        return self._follow()

    def _follow(self) -> bool:
        """Go on from where the first process went on, once it has."""
        assert self.checkpoints is not None
        self.run.peers.wait()
        return self._go_on_from(self.checkpoints.newest())

    def keep(self, passing: bool = False) -> None:
        """Checkpoint the run at this step, once.

        A disk without room ends the run. To go on would stake more than one interval on nobody killing it, and what
        comes at the end wants room as well.

        Raises:
            TrainingFailed: the run is not finite, so that it is not kept. UserError: it cannot be written.
        """
        if self.checkpoints is not None and self.run.step != self.kept_step:
            self.run.check_finite(self.title)
            self.run.check_memory(self.title)
            parts = self.run.peers.gather(self.run.parts())
            if self.run.peers.is_first:
                snapshot = self.run.snapshot()
                self.checkpoints.save(replace(snapshot, tensors={**snapshot.tensors, **parts}, passing=passing))
            self.run.peers.wait()
            self.kept_step = self.run.step

    def leave(self) -> None:
        """Keep what can be kept: the process was asked to end, and does so whatever comes of this."""
        try:
            self.keep(passing=True)
        except UserError as problem:
            self.warn(f"{self.title} leaves at step {self.run.step} without a checkpoint of it: {problem}")

    def roll_back(self, failure: TrainingFailed) -> None:
        """Go back to the newest checkpoint, and on from there with a smaller step. When that was tried from there and
        did not even reach the next one, go back to the one before: what made the run fail may be older than it looked.

        Raises:
            TrainingFailed: that has been done often enough, or there is no checkpoint.
        """
        run, tried = self.run, self.run.rollbacks
        if self.checkpoints is None or len(tried) >= self.settings.rollbacks:
            raise failure.after(tried) from None
        if not run.peers.is_first:
            self._follow()
            return
        if not self._go_on_from(self.checkpoints.fall_back(tried[-1].back_to if tried else None)):
            raise failure.after(tried) from None
        smaller = self.settings.rollback_factor ** (len(tried) + 1)
        run.rollbacks = [*tried, Rollback(failure.reason, run.step, smaller)]
        self.checkpoints.save(run.snapshot())
        run.peers.wait()
        self.warn(f"{self.title}: {run.rollbacks[-1]} (rollback {len(run.rollbacks)} of {self.settings.rollbacks})")

    def _go_on_from(self, snapshot: Snapshot | None) -> bool:
        if snapshot is None:
            return False
        self.run.restore(snapshot, self.warn)
        self.kept_step = snapshot.step
        return True
