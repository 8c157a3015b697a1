"""What a trained model is used for: to draw images, to look into its latent space, to enlarge a data set, to find
strange images; and to say of a picture which model drew it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from genforge.commands.arguments import (
    EXIT_FAILED,
    Command,
    folder,
    json_argument,
    new_folder,
    place,
    png,
    positive,
    print_table,
    seed,
)
from genforge.settings import UserError


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    what = "a registered model (digits@staging, digits/3, models:/digits@staging), a trained recipe or a trained folder"
    parser.add_argument("address", nargs="?", metavar="MODEL", help=what)
    parser.add_argument("--model", metavar="MODEL", help="the same, by name")
    parser.add_argument("-n", "--images", type=positive, default=64, metavar="N", help="how many (default: 64)")
    parser.add_argument("--seed", type=seed, default=0, help="image i of a seed is always the same image (default: 0)")
    parser.add_argument(
        "--out",
        type=place,
        default=Path("grid.png"),
        help="a .png grid, a .npy array, or a folder of PNGs, new or empty (default: grid.png)",
    )
    parser.add_argument(
        "--label", metavar="CLASS", help="draw this class alone, of a conditional model: name or number"
    )
    parser.add_argument(
        "--trajectory",
        type=positive,
        metavar="MOMENTS",
        help="show how the images come to be, at so many moments, of a model that draws step by step",
    )
    parser.add_argument(
        "--interpolate",
        type=positive,
        metavar="PLACES",
        help="-n strips of so many images instead, each on the way from one image to the next one of the seed, or to "
        "the same one of --to-seed; of models that draw from a latent in one pass",
    )
    parser.add_argument("--to-seed", type=seed, metavar="SEED", help="with --interpolate: where the strips lead")
    given = parser.add_argument_group(
        "pictures that are given", "of a model that denoises: an image, a folder of images or a .npy array"
    )
    given.add_argument("--from", type=Path, dest="pictures", metavar="PICTURES", help="draw images like these")
    given.add_argument("--inpaint", type=Path, metavar="PICTURES", help="draw a part of these anew, see --mask")
    given.add_argument(
        "--mask",
        metavar="MASK",
        help="which part: top, bottom, left, right, middle, or an image whose white is drawn anew and whose black is "
        "kept",
    )
    given.add_argument(
        "--strength",
        type=float,
        metavar="SHARE",
        help="share of the sampler's steps that are made, above 0 to 1: how much may change (default: 0.6 with --from, "
        "1 with --inpaint)",
    )


def _sample(arguments: argparse.Namespace) -> None:
    named = [model for model in (arguments.address, arguments.model) if model is not None]
    if len(named) != 1:
        raise UserError("genforge sample: name one model, such as `genforge sample digits@staging`")
    (model,) = named
    pictures, inpaint = arguments.pictures, arguments.inpaint
    if pictures and inpaint:
        raise UserError("--from and --inpaint exclude each other: the one changes all of a picture, the other a part")
    if bool(inpaint) != (arguments.mask is not None):
        raise UserError("--inpaint and --mask belong together: which picture, and which part of it is drawn anew")
    if arguments.strength is not None and not (pictures or inpaint):
        raise UserError("--strength says how much of a picture may change; name the picture with --from or --inpaint")
    if arguments.trajectory and (pictures or inpaint):
        raise UserError("--trajectory shows how images come to be from noise alone; leave out --from and --inpaint")
    if arguments.to_seed is not None and arguments.interpolate is None:
        raise UserError("--to-seed says where strips lead; add --interpolate PLACES, such as --interpolate 8")
    if arguments.interpolate and (arguments.trajectory or arguments.label or pictures or inpaint):
        raise UserError("--interpolate draws strips of its own; leave out --trajectory, --label, --from and --inpaint")
    if arguments.interpolate:
        from genforge.steps.draw import draw_between

        places, to_seed = arguments.interpolate, arguments.to_seed
        draw_between(model, arguments.images, places, arguments.seed, to_seed, arguments.out)
    elif arguments.trajectory:
        from genforge.steps.draw import draw_trajectory

        count, moments = arguments.images, arguments.trajectory
        draw_trajectory(model, count, moments, arguments.seed, arguments.out, label=arguments.label)
    elif pictures or inpaint:
        from genforge.steps.edit import Request, edit

        strength = arguments.strength if arguments.strength is not None else 1.0 if inpaint else 0.6
        request = Request(inpaint or pictures, arguments.mask, strength, arguments.label)
        edit(model, request, arguments.images, arguments.seed, arguments.out)
    else:
        from genforge.steps.draw import draw

        draw(model, arguments.images, arguments.seed, arguments.out, label=arguments.label)
    print(arguments.out)


def _latent_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a trained recipe of params.yaml, or a trained folder; registered models carry no encoder",
    )
    parser.add_argument(
        "--out", type=folder, default=Path("latent"), metavar="FOLDER", help="for the pictures (default: latent)"
    )
    parser.add_argument("--encode", action="store_true", help="write codes.npy there too: those of the held-out images")
    parser.add_argument(
        "--decode", type=Path, metavar="CODES.npy", help="draw the images of these codes into decoded.npy"
    )
    json_argument(parser)


def _latent(arguments: argparse.Namespace) -> None:
    from genforge.steps.latent import knowledge_table, show
    from genforge.steps.project import Project

    known = show(Project.load(), arguments.model, arguments.out, arguments.encode, arguments.decode)
    print(json.dumps(known, indent=2)) if arguments.json else print_table(knowledge_table(known))


def _augment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a conditional one: a recipe, a trained folder, or a registered model"
    )
    parser.add_argument(
        "--out", type=new_folder, required=True, metavar="FOLDER", help="new or empty; gets a folder a class"
    )
    parser.add_argument("--count", type=positive, required=True, metavar="N", help="images in all")
    parser.add_argument("--seed", type=seed, default=0, help="image i of a seed is always the same image (default: 0)")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="train classifiers on real images, on these and on both, and test them on held-out real ones",
    )
    parser.add_argument(
        "--repeats", type=positive, default=3, metavar="N", help="with --measure: trainings on each (default: 3)"
    )
    json_argument(parser)


def _augment(arguments: argparse.Namespace) -> None:
    from genforge.steps.augment import augment, augmentation_table
    from genforge.steps.project import Project

    project = Project.load()
    project.use_threads()
    given = (arguments.out, arguments.count, arguments.seed, arguments.measure, arguments.repeats)
    result = augment(project, arguments.model, *given)
    print(json.dumps(result, indent=2)) if arguments.json else print_table(augmentation_table(result))


def _anomaly_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help="a folder of images, an image, or a uint8 .npy array")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="a recipe of params.yaml, a trained folder, or a registered model such as digits@staging "
        "(default: of the trained recipes, the one that finds held-out images likeliest)",
    )
    parser.add_argument(
        "--by",
        metavar="SCORE",
        help="likelihood, complexity (likelihood less what a compressor needs), typicality, reconstruction or energy "
        "(default: likelihood)",
    )
    parser.add_argument("--against", type=Path, metavar="PATH", help="normal images (default: the held-out ones)")
    parser.add_argument("--picture", type=png, metavar="FILE.png", help="to write, the strangest images first")
    json_argument(parser)


def _anomaly(arguments: argparse.Namespace) -> None:
    from genforge.steps.anomaly import anomaly, anomaly_table
    from genforge.steps.project import Project

    project = Project.load()
    project.use_threads()
    result = anomaly(project, arguments.path, arguments.model, arguments.by, arguments.against, arguments.picture)
    print(json.dumps(result, indent=2)) if arguments.json else print_table(anomaly_table(result))


def _provenance_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a picture: PNG, JPEG, WebP, BMP, TIFF or GIF")
    json_argument(parser)


def _provenance(arguments: argparse.Namespace) -> None:
    """Exit status 0: the picture says where it came from; else 1."""
    from genforge.steps.provenance import examine, finding_table

    finding = examine(arguments.file)
    print(json.dumps(finding.to_json(), indent=2)) if arguments.json else print_table(finding_table(finding))
    if not finding.says_anything:
        sys.exit(EXIT_FAILED)


COMMANDS = {
    "sample": Command("draw images from a registered model", _sample_arguments, _sample),
    "latent": Command("look at the latent space of a model with an encoder", _latent_arguments, _latent),
    "augment": Command("write a labelled set of drawn images, and tell what it is worth", _augment_arguments, _augment),
    "anomaly": Command("find the images that are strangest to a trained model", _anomaly_arguments, _anomaly),
    "provenance": Command(
        "say which model drew a picture, by its text and its watermark", _provenance_arguments, _provenance
    ),
}
