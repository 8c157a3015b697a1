"""How long and how a recipe is trained: the settings of the loop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from genforge.settings import Settings
from genforge.training.optimization import OptimizerSettings, PlayerOptimizer, Schedule
from genforge.training.power_averages import PowerAverageSettings


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
        description="decay of the running average of the weights of the exported network and its companions, a step "
        "that moves them; 0: no average. It warms up by (1 + n) / (10 + n)",
    )
    averages: PowerAverageSettings = Field(
        PowerAverageSettings(), description="averages whose length is chosen after training"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the losses' arithmetic; weights are float32. auto: bfloat16 on a GPU, float32 on a CPU. "
        "bfloat16 on a CPU without instructions for it (AVX512-BF16): float32, and one line says so",
    )
    tf32: bool = Field(
        True,
        description="on a GPU, products and convolutions that stay in float32 round their inputs to 10 bits (TF32); "
        "false: all 23",
    )
    channels_last: bool | None = Field(
        None,
        description="images and weights lie in memory with channels last, which convolutions like; null: where that is "
        "faster, which is on a GPU in bfloat16, and on a CPU but for networks that lose more by it (with group "
        "normalisation, RealNVP, energies, growing ones)",
    )
    compile: bool | Literal["turn"] = Field(
        False,
        description="torch.compile. true: the networks; a minute at the start, and on a CPU slower steps afterwards "
        "(docs/benchmarks.md tells by how much). turn: a player's whole turn, from its loss to its weights, as one "
        "program; 10 to 100 seconds at the start, and faster steps of small networks. Not for objectives that "
        "differentiate gradients; left out where there is no compiler",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads at most, of those that the process has (GENFORGE_THREADS); null: all. A "
        "small layer is done before many of them are at it",
    )
    keep_memory: bool = Field(
        True,
        description="blocks of memory that are freed stay with the process for the next step, in pages of 2 MiB where "
        "the system has them (glibc's mallopt; on a CPU). The same bits; the process is larger by what it keeps, at "
        "most 512 MiB",
    )
    flush_denormals: bool = Field(
        True, description="numbers below 1e-38 are zero: on many CPUs they take a hundred times as long"
    )
    checkpoint_every: int = Field(
        500, ge=1, description="steps between checkpoints: at most as many are lost by a kill"
    )
    rollbacks: int = Field(
        2,
        ge=0,
        le=10,
        description="how often a run whose loss or weights are not finite goes back to its newest checkpoint, and on "
        "from there with a smaller step, before it fails; 0: never",
    )
    rollback_factor: float = Field(
        0.5, gt=0.0, lt=1.0, description="what each of these multiplies the learning rate by, for the rest of the run"
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
