"""The loop: the only one, for every objective. It knows players and turns, and no family.

Adding an objective changes nothing here. What differs between families is data: which players there are, at every how
many steps each has its turn, and what their losses are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from genforge.contracts import Network, Objective, TrainingData
from genforge.progress import Bar
from genforge.randomness import derive, seed_everything
from genforge.settings import Settings, UserError, nearest
from genforge.training.checkpoint import Checkpoints
from genforge.training.optimization import OptimizerSettings, PlayerOptimizer, Schedule, learning_rate_factor
from genforge.training.random_states import untouched
from genforge.training.state import RunState
from genforge.training.stopwatch import Stopwatch
from genforge.training.termination import Terminated, Termination
from genforge.training.turn import Turn, TurnSettings
from genforge.training.window import Window

Log = Callable[[int, dict[str, float]], None]
Observe = Callable[[int, Network], None]
VALUES_BESIDE_THE_BAR = 3


class TrainingSettings(Settings):
    """How long and how a recipe is trained."""

    steps: int = Field(2000, ge=0, description="steps; in each, the players whose turn it is take one batch each")
    batch_size: int = Field(64, ge=1, description="images a turn")
    accumulation: int = Field(
        1,
        ge=1,
        description="parts that a batch is cut into, one after the other in memory; the gradient is the whole "
        "batch's. Divides batch_size",
    )
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="every player's optimizer")
    players: dict[str, PlayerOptimizer] = Field(
        default_factory=dict,
        description="what single players' optimizers have of their own, by the player's name, such "
        "as `critic: {learning_rate: 4.0e-4}`",
    )
    warmup_steps: int = Field(0, ge=0, description="steps in which the learning rate rises in a straight line")
    schedule: Schedule = Field("constant", description="the learning rate after that: constant, or cosine down to 0")
    clip_norm: float | None = Field(
        None, gt=0.0, description="a player's gradient is cut to this length; null: as it comes"
    )
    ema: float = Field(
        0.999,
        ge=0.0,
        lt=1.0,
        description="decay of the running average of the exported network's weights, a step that "
        "moves them; 0: no average. It warms up by (1 + n) / (10 + n)",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the losses' arithmetic; weights are float32. auto: bfloat16 on a GPU, float32 on a CPU"
    )
    channels_last: bool = Field(
        False, description="images and weights lie in memory with channels last: faster on GPUs"
    )
    compile: bool = Field(
        False,
        description="torch.compile the networks: a minute at the start, faster afterwards; not for objectives that "
        "differentiate gradients",
    )
    checkpoint_every: int = Field(
        500, ge=1, description="steps between checkpoints: at most as many are lost by a kill"
    )
    log_every: int = Field(
        50,
        ge=1,
        description="steps between logged values, each the mean since the last; also how "
        "often losses and weights are checked to be finite",
    )

    @field_validator("accumulation")
    @classmethod
    def _accumulation(cls, accumulation: int, info: ValidationInfo) -> int:
        size = info.data.get("batch_size", accumulation)
        if size % accumulation:
            raise ValueError(f"a divisor of batch_size, which is {size}")
        return accumulation


@dataclass(frozen=True)
class Trained:
    """What training gives.

    network: the exported one, with averaged weights, in evaluation mode. steps: that were made.
    images_seen: real images, one batch a step. seconds: of training, without observations; with those before a stop.
    """

    network: Network
    steps: int
    images_seen: int
    seconds: float
    images_per_second: float


def train(
    objective: Objective,
    data: TrainingData,
    settings: TrainingSettings,
    *,
    device: str = "cpu",
    seed: int = 0,
    log: Log | None = None,
    checkpoints: Checkpoints | None = None,
    observe: Observe | None = None,
    observations: int = 0,
    title: str = "training",
) -> Trained:
    """Train the objective's players, and fit what it fits in closed form.

    Args:
        objective: with its networks, on any device; they are trained in place.
        data: the training split, on `device`.
        settings: how long and how. Without players there are no steps.
        device: `cpu`, `cuda` or `cuda:<index>`.
        seed: of everything random in the loop. The networks' first weights were drawn before.
        log: called with the step and its values every `settings.log_every` steps, and before each checkpoint.
        checkpoints: where the run is kept. When there is a checkpoint, training goes on from it and ends with the same
            bits (on a CPU with as many threads) as if it had never been stopped.
        observe: called with the step and the exported network: averaged weights, evaluation mode. It may draw as much
            randomness as it likes without changing what is trained. What it raises ends the training.
        observations: how often, evenly spread over the steps; the last comes after the last step and `finish`.
        title: for the progress bar and for errors.

    Raises:
        UserError: `settings.players` names a player that there is not; a checkpoint cannot be written.
        TrainingFailed: a loss or a weight is not finite.
        Terminated: SIGTERM came. The run was checkpointed first.
    """
    # On many CPUs, arithmetic on numbers below 1e-38 takes a hundred times as long, and no image changes by them.
    torch.set_flush_denormal(True)

    # All that is random from here on hangs on the seed alone.
    seed_everything(derive(seed, "loop"))

    # The networks move to the device, and what has a closed form is fitted.
    for module in _modules(objective):
        module.to(device).train()
        if settings.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs ask for more
    objective.prepare(data)
    if settings.compile:
        for network in {network for module in _modules(objective) for network in _outermost_networks(module)}:
            network.compile()

    # Every player gets its optimizer, and the exported network its average.
    turns = _turns(objective, settings, device)
    run = RunState(objective, turns, settings.ema)
    steps = settings.steps if turns else 0
    observed_steps = _spread(observations if observe else 0, steps)

    # A run that was stopped goes on from its newest checkpoint.
    snapshot = checkpoints.load() if checkpoints else None
    if snapshot is not None:
        run.restore(snapshot)
        title = f"{title} from step {run.step}"

    window, watch = Window(), Stopwatch(run.seconds)
    logged_step, logged_seconds, saved_step = run.step, watch.seconds, run.step

    def report() -> None:
        """Look at what happened since the last look: fail if it is not finite, else log it."""
        nonlocal logged_step, logged_seconds
        if run.step == logged_step:
            return
        values = window.read(title)
        run.check_finite(title)
        run.seconds = watch.seconds
        speed = (run.step - logged_step) * settings.batch_size / max(run.seconds - logged_seconds, 1e-9)
        if log is not None:
            log(run.step, {**values, "images_per_second": speed})
        shown = [f"{name} {value:.4g}" for name, value in list(values.items())[:VALUES_BESIDE_THE_BAR]]
        bar.advance(0, ", ".join([f"{speed:.0f} images/s", *shown]))
        logged_step, logged_seconds = run.step, run.seconds

    def keep() -> None:
        """Checkpoint the run, but never one that is not finite."""
        nonlocal saved_step
        if checkpoints is not None and run.step > saved_step:
            report()
            checkpoints.save(run.snapshot())
            saved_step = run.step

    def look() -> None:
        """Let the observer see the exported network as it would be if training ended here."""
        assert observe is not None
        report()
        with watch.held(), untouched(), _at_its_best(run), termination.at_once():
            observe(run.step, objective.exported)
        run.observed += 1

    with Termination() as termination, Bar(title, steps - run.step) as bar:
        try:
            while run.step < steps:
                termination.check()

                # Now and then someone looks at the pictures.
                if run.observed < len(observed_steps) - 1 and run.step >= observed_steps[run.observed]:
                    look()

                # Each player whose turn it is follows the gradient of its loss on a batch of its own.
                factor = learning_rate_factor(run.step, steps, settings.warmup_steps, settings.schedule)
                moved = False
                for turn in turns:
                    if (run.step + 1) % turn.player.every == 0:
                        loss, logs = turn.take(data.batch(run.turn, settings.batch_size), factor)
                        window.add(run.step + 1, turn.player.name, loss, logs)
                        run.turn += 1
                        moved |= turn.moves_exported
                run.step += 1

                # The average follows.
                if moved and run.average is not None:
                    run.average.update()
                bar.advance()

                # Now and then the numbers are read, and the run is kept.
                if run.step % settings.log_every == 0:
                    report()
                if run.step % settings.checkpoint_every == 0 or run.step == steps:
                    keep()
        except Terminated:
            keep()
            raise

        # The averaged weights stay, and what is fitted after training is fitted to them.
        report()
        if run.average is not None:
            run.average.adopt()
        objective.exported.eval()
        with termination.at_once():
            objective.finish(data)
            run.check_finite(title)
        if run.observed < len(observed_steps):
            look()

    seen = steps * settings.batch_size
    return Trained(objective.exported, steps, seen, run.seconds, seen / run.seconds if run.seconds else 0.0)


def _turns(objective: Objective, settings: TrainingSettings, device: str) -> list[Turn]:
    names = [player.name for player in objective.players]
    for name in settings.players:
        if name not in names:
            raise UserError(f"training.players.{name}: this recipe has no such player; {nearest(name, names)}")
    bfloat16 = settings.precision == "bfloat16" or (settings.precision == "auto" and device.startswith("cuda"))
    common = TurnSettings(device, settings.accumulation, settings.clip_norm, bfloat16, settings.channels_last)
    turns = []
    for player in objective.players:
        own = settings.players.get(player.name)
        optimizer = settings.optimizer if own is None else own.over(settings.optimizer)
        turns.append(Turn(objective, player, optimizer, common))
    return turns


def _spread(count: int, steps: int) -> list[int]:
    """`count` steps, evenly spread, of which the last is `steps`. Fewer where there are not as many steps."""
    return sorted({-(-steps * number // count) for number in range(1, count + 1)})


@contextlib.contextmanager
def _at_its_best(run: RunState) -> Iterator[None]:
    """Within the block the exported network has its averaged weights and is in evaluation mode; afterwards all is as
    before, buffers too."""
    network = run.objective.exported
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    network.eval()
    try:
        with run.average.in_place() if run.average is not None else contextlib.nullcontext():
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _modules(objective: Objective) -> list[nn.Module]:
    """The players' modules and the exported one, which may be a part of theirs."""
    return [*(player.module for player in objective.players), objective.exported]


def _outermost_networks(module: nn.Module) -> Iterator[Network]:
    """Networks that are no part of another one: those that an objective calls."""
    if isinstance(module, Network):
        yield module
    else:
        for child in module.children():
            yield from _outermost_networks(child)
