"""The loop: the only one, for every objective. It knows players and turns, and no family.

Adding an objective changes nothing here. What differs between families is data: which players there are, at every how
many steps each has its turn, and what their losses are.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from genforge.arithmetic import tf32
from genforge.contracts import Network, Objective, TrainingData
from genforge.parallel import ALONE, Peers
from genforge.progress import Bar
from genforge.randomness import derive, make_traceable, seed_everything
from genforge.settings import UserError, nearest
from genforge.training.acceleration import prepare_process, threads, uses_bfloat16, uses_channels_last, uses_compiler
from genforge.training.checkpoint import Checkpoints
from genforge.training.compiled_turn import CompiledTurn
from genforge.training.environment import Environment, environment
from genforge.training.failure import Rollback, TrainingFailed
from genforge.training.history import History, Log, Show
from genforge.training.keeping import Keeper
from genforge.training.optimization import learning_rate_factor
from genforge.training.random_states import untouched
from genforge.training.settings import TrainingSettings
from genforge.training.shares import Shares
from genforge.training.state import RunState
from genforge.training.stopwatch import Stopwatch
from genforge.training.termination import Terminated, Termination
from genforge.training.turn import Turn, TurnSettings

Observe = Callable[[int, Network], np.ndarray | None]
VALUES_BESIDE_THE_BAR = 3
MEASURED_EVERY = 10  # turns: of so many, one gradient's length is taken, which costs three quarters of Adam's step


@dataclass(frozen=True)
class Trained:
    """What training gives.

    network: the exported one, with averaged weights, in evaluation mode. steps: that were made.
    images_seen: real images, one batch a step. seconds: of training, without observations; with those before a stop.
    history: what was logged and observed. rollbacks: returns to a checkpoint, because something was not finite.
    environments: versions, device and threads, each that the run has gone through: with more than one, its bits are
        not those of a run that was never stopped.
    """

    network: Network
    steps: int
    images_seen: int
    seconds: float
    images_per_second: float
    history: History
    rollbacks: list[Rollback]
    environments: list[Environment]


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
    observations: int | Sequence[int] = 0,
    show: Show | None = None,
    held_out: TrainingData | None = None,
    title: str = "training",
    peers: Peers = ALONE,
) -> Trained:
    """Train the objective's players, and fit what it fits in closed form.

    Args:
        objective: with its networks, on any device; they are trained in place.
        data: the training split, on `device`.
        settings: how long and how. Without players there are no steps.
        device: `cpu`, `cuda` or `cuda:<index>`.
        seed: of everything random in the loop. The networks' first weights were drawn before.
        log: called with the step and its values every `settings.log_every` steps and after the last; of each step once.
            When a stopped run is resumed, with all that it had logged before, too.
        checkpoints: where the run is kept. When there is a checkpoint, training goes on from it and ends with the same
            bits (on a CPU, in the same environment) as if it had never been stopped. When something is not finite, it
            falls back to the newest one.
        observe: called with the step and the exported network: averaged weights, evaluation mode. It may draw as much
            randomness as it likes without changing what is trained. What it returns, uint8 (n, height, width,
            channels) or points, is kept in the history. What it raises ends the training.
        observations: how often, evenly spread over the steps, or after which steps, in order; the last comes after the
            last step and `finish`.
        show: called with the step and what `observe` returned, as `log` is.
        held_out: images that nobody is trained on: whenever values are logged, the objective is asked how well its
            players do on these (`Objective.examine`).
        title: for the progress bar and for errors.
        peers: processes that train this model together, each of which calls this with the same arguments, but for its
            device. Each computes its share of every batch. The first alone logs, observes and writes checkpoints.

    Raises:
        UserError: `settings.players` names a player that there is not; a checkpoint cannot be written; the batch cannot
            be shared out evenly.
        TrainingFailed: a loss or a weight is not finite, and smaller steps from the last checkpoint did not help.
        Terminated: SIGTERM came. The run was checkpointed first.
    """
    prepare_process(settings)
    with threads(settings.threads), tf32(settings.tf32), Termination() as termination:
        # All is made ready. Nothing can be lost yet, so that SIGTERM is heard at once.
        with termination.at_once():
            shares = Shares(data, settings, peers, seed)
            turns = _make_ready(objective, data, settings, device, seed, peers)
            history = History(log, show) if peers.is_first else History()
            here, folder = environment(device, peers.size), checkpoints.averages if checkpoints else None
            run = RunState(objective, turns, settings.ema, history, here, settings.averages, folder, peers)
            keeper = Keeper(run, checkpoints if turns else None, settings, title)
            resumed = keeper.resume()
        steps = settings.steps if turns else 0
        looks = _looks(observations, steps) if observe else []
        written = set(_spread(settings.averages.snapshots, steps))
        watch = Stopwatch(run.seconds)
        bar = Bar(f"{title} from step {run.step}" if resumed else title, steps - run.step)
        reporter = _Reporter(run, settings, watch, bar)

        def look(finished: bool = False) -> None:
            """Let the observer see the exported network as it would be if training ended here."""
            assert observe is not None
            run.check_finite(title)
            if not peers.is_first:
                run.observed += 1
                return
            # One of several must not leave by itself: the others would wait for its share of the next step.
            at_once = termination.at_once() if peers.size == 1 else contextlib.nullcontext()
            with watch.held(), untouched(), _at_its_best(run, finished), at_once:
                images = observe(run.step, objective.exported)
            run.observed += 1
            if images is not None:
                run.history.see(run.step, images)

        with bar:
            try:
                keeper.keep()  # the beginning too: there is something to fall back to, and a disk that takes it
                while run.step < steps:
                    if peers.any(termination.is_asked):  # what one is asked, all hear
                        raise Terminated
                    try:
                        # Now and then someone looks at the pictures, with the weights as they are.
                        if run.observed < len(looks) - 1 and run.step >= looks[run.observed]:
                            look()

                        # The players take their turns.
                        _step(run, shares, settings, steps)
                        bar.advance()

                        # Now and then the numbers are read, and the run is kept.
                        if run.step % settings.log_every == 0 or run.step == steps:
                            run.check_finite(title)
                            run.seconds = watch.seconds
                            reporter.report(_examined(run, data, held_out, settings.batch_size, watch, title))
                        if run.powers is not None and run.step in written and peers.is_first:
                            run.powers.keep()
                        if run.step % settings.checkpoint_every == 0 or run.step == steps:
                            run.seconds = watch.seconds
                            keeper.keep()

                    # What is not finite is not gone on with: back to what was, with a smaller step.
                    except TrainingFailed as failure:
                        keeper.roll_back(failure)
                        reporter.start_again()
            except Terminated:
                run.seconds = watch.seconds
                keeper.leave()
                raise

        # The averaged weights stay, and what is fitted after training is fitted to them.
        if run.powers is not None and settings.averages.choose is not None and peers.is_first:
            run.powers.adopt(settings.averages.choose)
        elif run.average is not None:
            run.average.adopt()
        run.kept.eval()
        with termination.at_once():
            objective.finish(data)
            run.check_finite(title)
        if run.observed < len(looks):
            look(finished=True)

    seen = steps * settings.batch_size
    speed = seen / run.seconds if run.seconds else 0.0
    return Trained(objective.exported, steps, seen, run.seconds, speed, run.history, run.rollbacks, run.environments)


def _step(run: RunState, shares: Shares, settings: TrainingSettings, steps: int) -> None:
    """Each player whose turn it is follows the gradient of its loss on a batch of its own, and the average follows."""
    rate = run.step_size * learning_rate_factor(run.step, steps, settings.warmup_steps, settings.schedule)
    moved = False
    for turn in run.turns:
        if (run.step + 1) % turn.player.every == 0:
            stride = turn.player.every * max(1, min(MEASURED_EVERY, settings.log_every // turn.player.every))
            measured = (run.step + 1) % stride == 0 or run.step + 1 == steps
            loss, logs = turn.take(shares.of(run.turn), rate, measured)
            run.window.add(run.step + 1, turn.player.name, loss, logs)
            run.turn += 1
            moved |= turn.moves_kept
    run.step += 1
    for average in (run.average, run.powers):
        if moved and average is not None:
            average.update()


def _examined(
    run: RunState, data: TrainingData, held_out: TrainingData | None, size: int, watch: Stopwatch, title: str
) -> dict[str, float]:
    """How the players do on a batch of images that they were not trained on, beside the last one that they were."""
    if held_out is None:
        return {}
    with watch.held(), untouched():
        last = max(0, run.turn - 1)
        found = run.objective.examine(data.batch(last, size), held_out.batch(last, size))
        values = {name: value.item() for name, value in found.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingFailed(title, run.step, "exported", f"`{name}`", value)
    return values


class _Reporter:
    """Tells how the run goes: the log, and the note beside the bar."""

    def __init__(self, run: RunState, settings: TrainingSettings, watch: Stopwatch, bar: Bar) -> None:
        self.run, self.settings, self.watch, self.bar = run, settings, watch, bar
        self.step, self.seconds, self.bar_began = run.step, watch.seconds, run.step

    def report(self, examined: Mapping[str, float]) -> None:
        """Log the means since the last report, and what was found now."""
        run = self.run
        values = {**run.window.close(), **examined}
        speed = (run.step - self.step) * self.settings.batch_size / max(run.seconds - self.seconds, 1e-9)
        shown = [f"{name} {value:.4g}" for name, value in list(values.items())[:VALUES_BESIDE_THE_BAR]]
        if run.rollbacks:
            values["rollbacks"] = float(len(run.rollbacks))
        run.history.add(run.step, values, {"images_per_second": speed})
        self.bar.advance(0, ", ".join([f"{speed:.0f} images/s", *shown]))
        self.step, self.seconds = run.step, run.seconds

    def start_again(self) -> None:
        """The run stands at an earlier step."""
        self.step, self.seconds = self.run.step, self.watch.seconds
        self.bar.advance(self.run.step - self.bar_began - self.bar.done)


def _make_ready(
    objective: Objective, data: TrainingData, settings: TrainingSettings, device: str, seed: int, peers: Peers
) -> list[Turn]:
    """Everything before the first step; what is random in it, as in all that follows, hangs on the seed alone."""
    seed_everything(derive(seed, "loop"))

    # The networks move to the device, and what has a closed form is fitted.
    bfloat16 = uses_bfloat16(settings, device)
    channels_last = uses_channels_last(settings, device, _modules(objective))
    for module in _modules(objective):
        module.to(device).train()
        if channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs ask for more
    objective.prepare(data)
    if settings.compile and objective.differentiates_gradients:
        raise UserError(
            f"training.compile is {str(settings.compile).lower()}, but this objective differentiates gradients (a "
            "penalty on the critic's slopes), which torch.compile cannot do; set training.compile to false"
        )
    kind: type[Turn] = Turn
    if uses_compiler(settings, device):
        make_traceable()
        if settings.compile == "turn":
            kind = CompiledTurn
        else:
            for network in {network for module in _modules(objective) for network in _outermost_networks(module)}:
                network.compile()

    # Every player gets its optimizer.
    common = TurnSettings(device, settings.clip_norm, bfloat16, channels_last, peers)
    return _turns(objective, settings, common, kind)


def _turns(objective: Objective, settings: TrainingSettings, common: TurnSettings, kind: type[Turn]) -> list[Turn]:
    names = [player.name for player in objective.players]
    for name in settings.players:
        if name not in names:
            raise UserError(f"training.players.{name}: this recipe has no such player; {nearest(name, names)}")
    turns = []
    for player in objective.players:
        own = settings.players.get(player.name)
        optimizer = settings.optimizer if own is None else own.over(settings.optimizer)
        turns.append(kind(objective, player, optimizer, common))
    return turns


def _looks(observations: int | Sequence[int], steps: int) -> list[int]:
    if isinstance(observations, int):
        return _spread(observations, steps)
    return [*(step for step in observations if step < steps), steps] if observations else []


def _spread(count: int, steps: int) -> list[int]:
    """`count` steps, evenly spread, of which the last is `steps`. Fewer where there are not as many steps."""
    return sorted({-(-steps * number // count) for number in range(1, count + 1)})


@contextlib.contextmanager
def _at_its_best(run: RunState, finished: bool) -> Iterator[None]:
    """Within the block what is kept has its averaged weights, which a `finished` one has for good, and is in evaluation
    mode; afterwards all is as before, buffers too."""
    modes = [(module, module.training) for module in run.kept.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in run.kept.buffers()]
    run.kept.eval()
    try:
        with contextlib.nullcontext() if run.average is None or finished else run.average.in_place():
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _modules(objective: Objective) -> list[nn.Module]:
    """The players' modules and the networks that are kept, which may be parts of theirs."""
    return [*(player.module for player in objective.players), *objective.kept().values()]


def _outermost_networks(module: nn.Module) -> Iterator[Network]:
    """Networks that are no part of another one: those that an objective calls."""
    if isinstance(module, Network):
        yield module
    else:
        for child in module.children():
            yield from _outermost_networks(child)
