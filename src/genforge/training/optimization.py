"""How weights move: optimizers, warm-up and schedule, gradient clipping, and the running average of the weights."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from genforge.settings import Settings

OptimizerName = Literal["adam", "adamw", "sgd", "rmsprop"]
Schedule = Literal["constant", "cosine"]
LearningRate = Annotated[float, Field(gt=0.0, le=10.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]

WITH_FUSED_KERNELS = ("adam", "adamw", "sgd")
DEVICES_WITH_FUSED_KERNELS = ("cpu", "cuda", "mps")


class OptimizerSettings(Settings):
    """How one player's weights follow their gradient."""

    name: OptimizerName = Field(
        "adam",
        description="adam (Kingma & Ba 2015), adamw (weight decay beside the gradient, Loshchilov & Hutter 2019), sgd "
        "with momentum, or rmsprop",
    )
    learning_rate: LearningRate = Field(2e-4, description="length of a step once warm-up is over")
    betas: tuple[Decay, Decay] = Field(
        (0.9, 0.999),
        description="decay of the running mean of the gradient and of its square; sgd takes the first as its momentum "
        "and has no second",
    )
    weight_decay: NotNegative = Field(0.0, description="pull of the weights towards zero")
    epsilon: Positive = Field(1e-8, description="added to the root of the squared gradient; sgd: not used")


class PlayerOptimizer(Settings):
    """What one player's optimizer has of its own. Null: as in `optimizer`."""

    name: OptimizerName | None = Field(None, description="as in `optimizer`")
    learning_rate: LearningRate | None = Field(None, description="as in `optimizer`")
    betas: tuple[Decay, Decay] | None = Field(None, description="as in `optimizer`")
    weight_decay: NotNegative | None = Field(None, description="as in `optimizer`")
    epsilon: Positive | None = Field(None, description="as in `optimizer`")

    def over(self, base: OptimizerSettings) -> OptimizerSettings:
        """`base` with what is stated here laid over it."""
        return base.model_copy(update=self.model_dump(exclude_none=True))


def build_optimizer(settings: OptimizerSettings, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimizer of `settings` over `parameters`, in one fused kernel where torch has one for their device."""
    parameters = list(parameters)
    rate, decay, (first, second) = settings.learning_rate, settings.weight_decay, settings.betas
    on_device = all(parameter.device.type in DEVICES_WITH_FUSED_KERNELS for parameter in parameters)
    fused = True if settings.name in WITH_FUSED_KERNELS and on_device else None
    match settings.name:
        case "adam":
            return _eager(torch.optim.Adam)(parameters, rate, (first, second), settings.epsilon, decay, fused=fused)
        case "adamw":
            return _eager(torch.optim.AdamW)(parameters, rate, (first, second), settings.epsilon, decay, fused=fused)
        case "sgd":
            return _eager(torch.optim.SGD)(parameters, rate, momentum=first, weight_decay=decay, fused=fused)
        case "rmsprop":
            return _eager(torch.optim.RMSprop)(parameters, rate, second, settings.epsilon, decay, momentum=first)


@cache
def _eager(kind: Any) -> Any:
    """The same optimizer, which does not import torch's compiler.

    Torch wraps an optimizer's methods so that a compiled program leaves them out, and loads the compiler for that: a
    second in every process that trains, also where nothing is compiled. No step of ours lies within a compiled part
    (`training.compile` compiles the networks), so the methods inside of the wrappers are enough.
    """
    wrapped = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in wrapped}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), methods)


@torch.no_grad()
def make_step(optimizer: Optimizer) -> None:
    """A step of the optimizer along the gradients that its weights hold: `optimizer.step()`, with the same bits.

    At every step torch looks what kind of weights there are, sorts them by device and tells its profiler: in a small
    network that takes half as long as Adam's arithmetic. Here all weights of a player are of one kind, so once Adam
    remembers them all, its kernel is called at once.
    """
    (group,) = optimizer.param_groups
    weights = [weight for weight in group["params"] if weight.grad is not None]
    memory = [optimizer.state[weight] for weight in weights]  # of a weight that never had a gradient: nothing
    if not (isinstance(optimizer, torch.optim.Adam) and group["fused"] and weights and all(memory)):
        optimizer.step()
        return
    steps = [own["step"] for own in memory]
    torch._foreach_add_(steps, 1)
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    kernel(
        weights,
        [weight.grad for weight in weights],
        [own["exp_avg"] for own in memory],
        [own["exp_avg_sq"] for own in memory],
        [],
        steps,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )


def learning_rate_factor(step: int, steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """What the learning rate is multiplied by at `step`, which counts from 0 to `steps` - 1.

    It rises in a straight line and reaches 1 at step `warmup_steps` - 1, then stays (`constant`) or falls along half a
    cosine that would reach 0 at step `steps` (`cosine`, Loshchilov & Hutter 2017, eq. 5 without restarts).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    share = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers of past gradients: `<parameter's number>.<name>` to a tensor."""
    return {
        f"{number}.{name}": value
        for number, memory in optimizer.state_dict()["state"].items()
        for name, value in memory.items()
        if value is not None  # sgd without momentum remembers that there is nothing to remember
    }


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimizer over the same parameters the memory that `optimizer_tensors` took."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    memory: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        like = parameters[int(number)]
        # Fused kernels walk through memory in order, so a moment must lie as its parameter does (channels last or not).
        placed = torch.empty_like(like, dtype=value.dtype).copy_(value) if value.shape == like.shape else value
        memory.setdefault(int(number), {})[name] = placed
    optimizer.load_state_dict({"state": memory, "param_groups": optimizer.state_dict()["param_groups"]})


class WeightAverage:
    """The exponential moving average of networks' trained weights, which is what samples are drawn with.

    Update n (from 1) keeps min(decay, (1 + n) / (10 + n)) of the average, so that the random first weights are soon
    forgotten: the warm-up of TensorFlow's `ExponentialMovingAverage`, used by Ho et al. 2020 for DDPM. Buffers are not
    averaged: the network's own are used, since an average of counters or of unit vectors is neither.

    Args:
        network: whose weights are followed.
        decay: 0 to below 1, share of the average kept in one update after the warm-up; 0 follows the weights exactly.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights: list[Tensor] = list(network.parameters())
        self.averages = [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self.updates += 1
        kept = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.averages, self.weights, 1.0 - kept)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the network has the averaged weights; after it, its own again, to the bit."""
        own = [weight.detach().clone() for weight in self.weights]
        self.adopt()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, own)

    @torch.no_grad()
    def adopt(self) -> None:
        """Give the network the averaged weights for good."""
        torch._foreach_copy_(self.weights, self.averages)
