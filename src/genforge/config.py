"""`params.yaml` as typed settings. An unknown or wrong key is an error that names it and its nearest neighbour.

The settings of networks, objectives, samplers and the loop live beside their code; a recipe's entry is checked against
them by `catalog.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from genforge.cron import check_cron
from genforge.dimension import Method
from genforge.files import read_yaml
from genforge.settings import Settings, UserError

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
NAME_RULE = re.compile(r"[a-z][a-z0-9-]*")
RESERVED = ("floor",)  # held-out real images, which the judge scores under this name


class DataSettings(Settings):
    """Which images, and what is done to them before anything is trained."""

    name: str = Field("digits", description="names the MLflow experiment and the registered model")
    source: Literal["digits", "mnist", "fashion_mnist", "kmnist", "cifar10", "image_folder", "tins", "points"] = Field(
        "digits", description="where images come from; points: no images but points of the plane, drawn"
    )
    folder: str = Field(
        "data/incoming",
        description="image_folder: the images, in a folder or an archive (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz). "
        "mnist, fashion_mnist, kmnist, cifar10: a folder that already holds the files as torchvision keeps them (then "
        "nothing is downloaded). digits, tins, points: not read",
    )
    image_size: int | None = Field(
        None,
        ge=8,
        le=64,
        multiple_of=4,
        description="side in pixels of the square that every image is brought to; "
        "null: the source's own, which must be one size for all",
    )
    channels: Literal[1, 3] | None = Field(None, description="1: gray, 3: RGB; null: the source's own")
    fit: Literal["crop", "pad", "stretch"] = Field(
        "crop",
        description="how an image that is not square becomes one: crop the centre after its shorter side was "
        "resized, pad with black after its longer side was, or stretch",
    )
    validation: Share = Field(0.1, gt=0.0, description="share of the training images kept for model selection")
    test: Share = Field(
        0.3, gt=0.0, description="share held out for the judge; a source with its own test split keeps that"
    )
    max_broken_share: Share = Field(0.05, description="stop when more than this share of the inputs is broken")
    max_pixels: int = Field(64_000_000, ge=64, description="an image of more pixels is absurd and goes to quarantine")
    max_bytes: int = Field(256_000_000, ge=64, description="a larger file is absurd and goes to quarantine")
    max_seconds: int = Field(
        30, ge=1, le=3600, description="a file that keeps a processor busy for longer is absurd and goes to quarantine"
    )
    max_unpacked_bytes: int = Field(
        50_000_000_000, ge=1_000_000, description="an archive that becomes more bytes is refused"
    )
    max_unpacked_files: int = Field(5_000_000, ge=1, description="an archive with more members is refused")
    max_unpacked_ratio: int = Field(
        200, ge=1, description="an archive that becomes so many times its own size, and more than 64 MiB, is refused"
    )
    count: int = Field(4000, ge=10, le=1_000_000, description="tins, points: how many are drawn")
    nuisance: float = Field(
        1.0,
        ge=0.0,
        le=1.0,
        description="tins: how much colours, place and light vary; 0: tins differ in height and width alone",
    )
    shape: Literal["disc", "ring", "moons", "checkerboard", "pinwheel"] = Field(
        "ring", description="points: what they are drawn from (`data/points.py`); ring: eight Gaussians on a circle"
    )
    noise: float | None = Field(
        None,
        ge=0.0,
        le=0.1,
        description="points: standard deviation of the noise on each coordinate; the plane is -1 to 1; null: the "
        "shape's own",
    )
    horizontal_flip: bool = Field(False, description="train on mirrored images too, one in two; not for digits or text")

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        return check_name(name)

    @model_validator(mode="after")
    def _points_are_no_images(self) -> DataSettings:
        if self.source == "points":
            for key, value in (("image_size", self.image_size), ("channels", self.channels)):
                if value is not None:
                    raise ValueError(f"without {key} for source points, which have no pixels; set it to null")
            if self.horizontal_flip:
                raise ValueError("without horizontal_flip for source points; set it to false")
        return self


class ExtractorSettings(Settings):
    """The eyes of the judge: what turns images into features."""

    name: Literal["classifier", "coordinates", "inception", "dinov2", "clip"] = Field(
        "classifier",
        description="coordinates: the values themselves; points (data.source) have no other, and it is theirs where "
        "nothing else is said. classifier: a small network trained on the training split (on labels, or on rotations "
        "where there are none). inception: torch-fidelity's own, for numbers to set beside papers. dinov2, clip: the "
        "networks of newer papers, from a weights file",
    )
    weights: str | None = Field(
        None,
        description="path of the weights of inception, dinov2 or clip, plain tensors as .pth or .safetensors; "
        "null: inception's usual download",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the products inside; bfloat16 is faster on GPUs, and its numbers are of another protocol",
    )
    steps: int = Field(600, ge=10, description="classifier: training steps")
    batch_size: int = Field(128, ge=2, description="classifier: images a step")
    width: int = Field(
        32,
        ge=8,
        le=512,
        multiple_of=8,
        description="classifier: channels of the first layer; features are 4 times as many",
    )


class EvaluationSettings(Settings):
    """How models are judged. The same for every model, or their numbers could not stand in one table."""

    images: int = Field(
        500,
        ge=50,
        description="generated images in every comparison; the test split must hold as many, "
        "because the floor is as many held-out real images",
    )
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=3, description="sampling seeds: the spread of every number")
    batch_size: int = Field(
        250,
        ge=1,
        description="images that are drawn or looked at together; a CPU looks at fewer, which it does faster",
    )
    metrics: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="names of the metrics (`fid`, `kid`, `is`, `precision`, `recall`, `density`, `coverage`, `mind`, "
        "`classes`, `duplicates`, `feature_diversity`, `path_length`); null: all that cost little with the extractor",
    )
    likelihood_images: int | None = Field(
        1000,
        ge=2,
        description="held-out images whose likelihood is told, of models whose recipe names a density: always the same "
        "ones; null: all",
    )
    fid_infinity: bool = Field(
        False,
        description="also FID without its bias from finite images, followed to 1 / N = 0 (Chong and Forsyth 2020)",
    )

    collapse_duplicates: float = Field(
        0.25,
        gt=0.0,
        le=1.0,
        description="a model has collapsed, and is neither ranked nor registered, when at least this share of its "
        "images has a twin among them; of real ones, and of healthy models, it is a few hundredths at most",
    )
    collapse_classes: float = Field(
        0.2,
        ge=0.0,
        lt=1.0,
        description="the same when its images reach this share of the data's classes or less, or only one of several",
    )
    collapse_spread: float = Field(
        0.4,
        ge=0.0,
        lt=1.0,
        description="the same when two of its images differ on average by at most this share of what two of the data's "
        "do, in features and in pixels: variations of one shape had up to 0.35, the least varied healthy model 0.50",
    )

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**63:
            raise ValueError("different whole numbers from 0 to 2^63 - 1")
        return seeds


class SearchSettings(Settings):
    """How far Optuna looks. Which settings it may turn is in each recipe's `search` (its space)."""

    trials: int = Field(6, ge=0, description="trials a recipe; 0: train with the recipe's own settings")
    workers: int = Field(2, ge=1, le=256, description="processes that work on one study")
    steps_share: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="a trial's length as a share of the recipe's training steps. null: what its objective asks for, "
        "0.6 for GANs, whose shorter trials may say nothing about who is ahead at the end, 0.2 for others",
    )
    reports: int = Field(
        3,
        ge=1,
        description="parts of a trial: after each but the first its images are judged, and but for the last it may be "
        "pruned; after the first a network is too young to tell good settings from the best",
    )
    images: int | None = Field(
        None,
        ge=50,
        description="generated images for each value; null: 1,000 where a sampler draws an image in one pass of its "
        "network, 200 where it takes many. The fewer, the more a search follows luck: FID of 200 digits is uncertain "
        "by 5 to 11%, of 1,000 by 2 to 5%",
    )
    method: Method = Field(
        "gaussian-process",
        description="what suggests settings: a Gaussian process (of up to a hundred trials; tpe after them) or "
        "tree-structured Parzen estimators, both after a few trials that fill the space; or chance; all Optuna's",
    )
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**32,
        description="of what is suggested; null: the project's. Another one looks elsewhere, and trials train from the "
        "project's seed as before",
    )
    lease: float = Field(
        300.0,
        ge=10.0,
        description="seconds without a sign of life after which a worker of another machine is taken to be dead, and "
        "its trial is taken up by the next; workers give one every tenth of it",
    )


class RegistrySettings(Settings):
    """When a model may take the alias `staging`."""

    metric: Literal["fid", "kid", "mind"] = Field(
        "fid",
        description="what `best` means, for searches too; smaller is better for all. fid and kid see little more than "
        "two moments, which one Gaussian has as well: of points (data.source) it is mind where nothing else is said",
    )
    approval: tuple[str, ...] = Field(
        (),
        description="aliases that move to no version before a person has approved it by name, such as [production]; a "
        "rollback waits for nobody",
    )

    @field_validator("approval")
    @classmethod
    def _approval(cls, aliases: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_name(alias) for alias in aliases)


class ScheduleSettings(Settings):
    """When `make schedule` retrains. Every kind of trigger that is not null is a deployment of its own."""

    cron: str | None = Field(
        "0 3 * * *", description="retrain at these times whatever is out of date: minute, hour, day, month, weekday"
    )
    every: int | None = Field(None, ge=10, description="the same at an interval, in seconds; instead of `cron`")
    on_data: int | None = Field(
        None, ge=10, description="seconds between looks at the data; retrain as soon as they are others"
    )
    on_drift: int | None = Field(
        None, ge=10, description="seconds between looks at the data; retrain once their new images have drifted"
    )
    drift_level: float = Field(
        0.01, gt=0.001, lt=1.0, description="the probability to take new images for drifted that are not"
    )
    drift_images: int = Field(50, ge=20, description="new images from which on drift is looked for")
    at_rest: float = Field(
        10.0,
        ge=0.0,
        description="seconds for which nothing in the folder of images may have changed before it is read",
    )
    branch: str | None = Field(
        None, description="what is retrained: the newest commit of this branch; null: of the one that is checked out"
    )
    search_workers: int = Field(
        0, ge=0, le=256, description="workers of the work pool that each search of a scheduled run asks for help"
    )

    @field_validator("cron")
    @classmethod
    def _cron(cls, cron: str | None) -> str | None:
        return cron if cron is None else check_cron(cron)


def check_name(name: str) -> str:
    """Names become folders, aliases and stage names: lower case letters, digits and dashes only."""
    if not NAME_RULE.fullmatch(name) or len(name) > 64:
        raise ValueError(f"a name of lower case letters, digits and dashes that begins with a letter, not {name!r}")
    return name


def _gate_entry(entry: Any) -> Any:
    if not isinstance(entry, dict | None):
        raise ValueError("settings such as `{limit: 10}`, or nothing")
    return entry or {}


def _recipe_name(name: Any) -> str:
    if name in RESERVED:
        raise ValueError(f"another name than `{name}`, which belongs to held-out real images")
    return check_name(str(name))


def _recipe_entry(entry: Any) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get("from"), str):
        raise ValueError("an entry such as `{from: hinge-sngan}`, which names a recipe of the library")
    return entry


GateName = Annotated[str, BeforeValidator(lambda name: check_name(str(name)))]
GateEntry = Annotated[dict[str, Any], BeforeValidator(_gate_entry)]
RecipeName = Annotated[str, BeforeValidator(_recipe_name)]
RecipeEntry = Annotated[dict[str, Any], BeforeValidator(_recipe_entry)]

# What a model has to pass unless params.yaml says otherwise: every gate that needs no limit of the user's own.
GATES: dict[str, dict[str, Any]] = {
    name: {} for name in ("finite", "better", "coverage", "no-copies", "class-balance", "speed", "size", "draws-alone")
}


class Config(Settings):
    """The whole of `params.yaml`."""

    seed: int = Field(0, ge=0, lt=2**32, description="of everything that is random and trained")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU where there is one")
    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="that train one model together on this machine, each on a GPU of its own, or sharing the CPU's "
        "cores; a batch is shared out evenly between them",
    )
    data: DataSettings = DataSettings()
    extractor: ExtractorSettings = ExtractorSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    search: SearchSettings = SearchSettings()
    registry: RegistrySettings = RegistrySettings()
    schedule: ScheduleSettings = ScheduleSettings()
    gates: dict[GateName, GateEntry] = Field(
        default_factory=lambda: dict(GATES),
        description="what a model has to pass before an alias moves to it: each entry has a name, the settings of a "
        "gate (its limit, its reason), and `check:`, which one, where that is not its name; this list is the whole one",
    )
    recipes: dict[RecipeName, RecipeEntry] = Field(
        description="what is trained: each entry starts from a recipe of the library (`from:`) and "
        "overrides what it likes; `genforge recipes` lists the library",
    )

    @model_validator(mode="before")
    @classmethod
    def _eyes_for_points(cls, values: Any) -> Any:
        """Points are looked at as they are, and compared as distributions, unless somebody asks for something else."""
        if _of(values, "data", "source") != "points":
            return values
        theirs = {"extractor": {"name": "coordinates"}, "registry": {"metric": "mind"}}
        return {**values, **{part: {**own, **(values.get(part) or {})} for part, own in theirs.items()}}

    @model_validator(mode="after")
    def _eyes_that_see(self) -> Config:
        points = self.data.source == "points"
        if points != (self.extractor.name == "coordinates"):
            wanted = "another one than coordinates with images"
            if points:
                wanted = "coordinates with data.source points (and registry.metric mind: FID sees two moments alone)"
            raise ValueError(f"extractor.name should be {wanted}, not {self.extractor.name}")
        return self

    @field_validator("gates", "recipes", mode="before")
    @classmethod
    def _named_entries(cls, entries: Any, info: ValidationInfo) -> Any:
        such = {"gates": "`speed: {limit: 10}`", "recipes": "`gan: {from: hinge-sngan}`"}[str(info.field_name)]
        if not isinstance(entries, dict):
            raise ValueError(f"a mapping of names to entries such as {such}")
        if info.field_name == "recipes" and not entries:
            raise ValueError(f"at least one entry such as {such}")
        return entries


def _of(values: Any, part: str, key: str) -> Any:
    """A key of a part of params.yaml before anything is checked; None where either is missing."""
    inside = values.get(part) if isinstance(values, dict) else None
    return inside.get(key) if isinstance(inside, dict) else None


def load(path: Path = Path("params.yaml")) -> Config:
    """The settings in `path`, checked. Recipes' own settings are checked by `catalog.resolve_all`.

    Raises:
        UserError: names each wrong key, its value, the rule and the nearest valid name.
    """
    if not path.exists():
        raise UserError(
            f"{path} does not exist (in {path.resolve().parent}): go to the project's folder, or begin with "
            f"`genforge preset NAME`, such as digits or my-images"
        )
    values = read_yaml(path)
    try:
        return Config.read(values, where="")
    except UserError as error:
        raise UserError(f"{path} is wrong:\n{error}") from None
