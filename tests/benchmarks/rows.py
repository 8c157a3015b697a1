"""What `make bench` measures: the work, our command, those of the peers, and how many times as fast we mean to be."""

from __future__ import annotations

from dataclasses import dataclass, field

# Asked for where a row is faster by it and its images are no worse (docs/benchmarks.md).
BFLOAT16 = ("--set", "training.precision=bfloat16")


@dataclass(frozen=True)
class Peer:
    """tool: its arguments to peer_step.py. least: the ratio of speeds that we mean to reach beside it."""

    name: str
    least: float
    tool: tuple[str, ...] = ()


@dataclass(frozen=True)
class Turns:
    """Contenders that take turns: `rounds` of them, a lap of so many steps for each.

    work: in words. ours: arguments of our tool, the first its name. data: arguments that all sides share. reason: why
    the target is missed where it is.
    """

    work: str
    ours: tuple[str, ...]
    data: tuple[str, ...]
    peers: tuple[Peer, ...]
    lap: int = 1
    rounds: int = 7
    threads: int = 2
    reason: str = ""


@dataclass(frozen=True)
class Tool:
    """A tool that compares by itself and prints lines of JSON.

    pick: keys and values of the line that counts. value: its key. least: of the ratio; or most: of a cost.
    ours, theirs: keys of the seconds of both sides, dotted; empty where there are none to show.
    """

    work: str
    command: tuple[str, ...]
    peer: str
    value: str
    pick: dict[str, object] = field(default_factory=dict)
    least: float | None = None
    most: float | None = None
    unit: str = "x"
    ours: str = ""
    theirs: str = ""
    reason: str = ""


UNET = (
    *("--set", "networks.denoiser.prediction=noise"),
    *("--set", "networks.denoiser.backbone.width=32", "--set", "networks.denoiser.backbone.multipliers=[1,3,4]"),
    *("--set", "networks.denoiser.backbone.attention_up_to=8"),
    *("--set", "sampler={name: ddim, steps: 50}"),
)
VAE = (
    *(
        "--set",
        "networks.encoder.width=160",
        "--set",
        "networks.decoder.width=160",
        "--set",
        "objective.latent_size=330",
    ),
    *("--set", "networks.encoder.style=dcgan", "--set", "networks.decoder.style=dcgan"),
    *("--set", "networks.encoder.normalisation=batch", "--set", "networks.decoder.normalisation=batch"),
)
SNGAN = (
    *("--set", "networks.generator.width=64", "--set", "networks.critic.width=64"),
    *("--set", "objective.latent_size=128", "--set", "objective.critic_steps=5"),
)


def searching(work: str, arguments: tuple[str, ...]) -> Tool:
    """The time that a search takes, of one recipe."""
    return Tool(
        work,
        ("search.py", *arguments),
        "plain Optuna, one worker, no pruning",
        "ratio",
        {"name": "search"},
        least=3.0,
        ours="ours_s",
        theirs="peer_s",
        reason="Plain Optuna's one worker has all four cores, so that a trial takes it less time than one of ours on a "
        "core of its own: four workers make two to three times as many trials. The first four are chosen before "
        "anything is known of the data. If all that come after them had the best settings there are, a search of the "
        "VAE would be 3.0 times as fast, and one of the GAN 3.9 times (by simulation; see "
        '"What a search can gain").',
    )


ROWS: dict[str, Turns | Tool] = {
    "unet": Turns(
        "U-Net diffusion step, 2.6 M parameters, 32x32",
        ("train_step", "ddpm", *UNET, *BFLOAT16),
        ("--data", "cifar"),
        (Peer("denoising-diffusion-pytorch", 2.5), Peer("diffusers", 1.5)),
        rounds=6,
        reason="Both spend nearly all of a step in the convolutions of oneDNN, ours in bfloat16; at 32x32 what is left "
        "to gain is in the small operations between them.",
    ),
    "dcgan": Turns(
        "DCGAN step at 64x64, 6.3 M parameters",
        ("train_step", "dcgan", *BFLOAT16),
        ("--data", "cifar", "--size", "64"),
        (Peer("examples-dcgan", 2.0),),
        reason="Nearly nine tenths of our step are products in bfloat16, near the processor's peak (see below); "
        "readings of commit e429ed0 on a machine that others used lie between 2.1 and 2.5x.",
    ),
    "vae": Turns(
        "convolutional VAE step, 17 M parameters, 28x28",
        ("train_step", "vae", *VAE),
        ("--data", "mnist"),
        (Peer("pythae-convolutional", 2.0),),
    ),
    "vae-mlp": Turns(
        "MLP VAE 784-400-20 step",
        ("train_step", "vae-mlp", *BFLOAT16, "--set", "training.compile=turn"),
        ("--data", "mnist"),
        (Peer("pythae-mlp", 1.8),),
        reason="Both have two threads that wait for each other awake. Products of matrices are the largest part of our "
        "step, then Adam and the average of the weights, which go through 13 MB where a core has 1 MB near by, and the "
        "batch, which ours binarises anew at random; pythae's keeps no average.",
        lap=200,
    ),
    "gan-mlp": Turns(
        "MLP GAN step with data loading, MNIST",
        ("train_step", "gan-mlp", *BFLOAT16),
        ("--data", "mnist"),
        (Peer("tutorial", 1.8),),
        reason="More than half of our step is products of matrices, in bfloat16, and a quarter is Adam, which the "
        "script has too, and casts between the two precisions.",
        lap=30,
    ),
    "gan-mlp-jpeg": Turns(
        "the same from CIFAR-10 JPEGs",
        ("train_step", "gan-mlp", *BFLOAT16),
        ("--data", "cifar"),
        (Peer("tutorial-jpeg", 2.5),),
        lap=20,
    ),
    "sngan": Turns(
        "SNGAN, 32x32, five critic turns",
        ("train_step", "hinge-sngan", *SNGAN, *BFLOAT16),
        ("--data", "cifar"),
        (Peer("torch-fidelity-sngan", 1.5),),
        rounds=5,
    ),
    "ddim": Turns(
        "50 DDIM steps, 64 images, 2.6 M parameters",
        ("sampling", "ddpm", *UNET, "--set", "sampler.precision=bfloat16"),
        ("--data", "cifar"),
        (Peer("diffusers", 1.5, ("--draw",)),),
        rounds=3,
        reason="In float32, convolutions are 80% of a step on both sides (43.8 and 48.4 GFLOP) and cost both the same: "
        "1.2x. In bfloat16 they take half as long.",
    ),
    "evaluation": Tool(
        "FID + IS of 10,000 images against 50,000, same extractor",
        ("evaluation.py", "--only", "images", "--threads", "4"),
        "torch-fidelity 0.4",
        "ratio",
        {"real_images": 50_000},
        least=5.0,
        ours="seconds.ours",
        theirs="seconds.torch_fidelity",
    ),
    "evaluation-10k": Tool(
        "the same against 10,000",
        ("evaluation.py", "--only", "images", "--threads", "4"),
        "torch-fidelity 0.4",
        "ratio",
        {"real_images": 10_000},
        least=5.0,
        ours="seconds.ours",
        theirs="seconds.torch_fidelity",
        reason="Ours is the extractor's one pass over the generated images (1.0 of 1.1 processor seconds), whose "
        "convolutions reach the speed of products of matrices in float32. torch-fidelity passes the real ones through "
        "it too, which is twice as much; the rest of the ratio is its loading, and its threads' waiting.",
    ),
    "prepare": Tool(
        "preparing 50,000 JPEGs, 4 processes",
        ("prepare.py", "{jpegs}"),
        "a loop over ImageFolder",
        "ratio",
        least=4.0,
        ours="prepare_seconds",
        theirs="loop_seconds",
        reason="A third of the processor time (0.75 of 2.3 s on a busy machine) is not decoding: four interpreters "
        "that start, images that are put in order, tables (docs/benchmarks.md).",
    ),
    "search": searching(
        "search: time to the best FID that plain Optuna finds, 4 workers (pairs of searches); GAN",
        ("--recipe", "hinge-sngan", "--share", "0.6"),
    ),
    "search-vae": searching("the same; VAE", ("--recipe", "vae-mlp", "--share", "0.4")),
    "search-diffusion": searching("the same; diffusion", ("--recipe", "ddpm", "--share", "0.2")),
    "overhead": Tool(
        "tracking, checkpoints, orchestration, in ten minutes of an MLP GAN",
        ("overhead.py",),
        "the loop alone",
        "overhead_percent",
        most=3.0,
        unit="% more",
        ours="pipeline_s",
        theirs="bare_s",
    ),
    "noop": Tool(
        "a `dvc repro` with nothing to do",
        ("noop.py",),
        "`dvc repro` of an empty pipeline",
        "more_s",
        most=1.0,
        unit="s more",
        ours="ours_s",
        theirs="peer_s",
        reason="DVC writes its table of locks 16 times a stage, and reads params.yaml once for each; there are 37 "
        "stages.",
    ),
}
