"""Typed settings, and the one way in which a user's mistake is told.

Every part that has settings (a network, an objective, a sampler, the loop, a gate) states them as a subclass of
`Settings` beside its own code: name, type, default, range and one sentence of meaning. The text of the help and of
the errors is made from that.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from typing import Any, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

LONGEST_VALUE = 80  # characters of a wrong value that a message shows


class UserError(Exception):
    """A mistake that its maker can mend. The CLI prints its text alone, without a traceback, and exits with 2."""


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused, not-a-number and infinities refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    @classmethod
    def read(cls, values: Mapping[str, Any], where: str) -> Self:
        """Settings from plain values as YAML gives them.

        Args:
            values: keys and values; missing keys take their defaults.
            where: the place of `values` in the user's file, such as `recipes.gan.training`, for the message.

        Raises:
            UserError: names every wrong key or value, the rule that it breaks and, for an unknown key or choice,
                the nearest valid one.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise UserError(explain(error, cls, where)) from None


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """The message for a failed validation: one line for each wrong key."""
    return "\n".join(_explain_one(detail, model, where) for detail in error.errors(include_url=False))


def nearest(name: str, valid: list[str]) -> str:
    """A hint such as ``did you mean `width`?`` or the list of valid names when none is near."""
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"valid: {', '.join(valid)}" if valid else "no key is valid here"


def _shown(value: Any) -> str:
    """A value as it stands in a message: a long one by its beginning."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _explain_one(detail: ErrorDetails, model: type[BaseModel], where: str) -> str:
    path = [str(part) for part in detail["loc"] if part != "[key]"]  # a mapping's key is told by itself
    key = ".".join([where, *path] if where else path)
    value = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            valid = _keys_at(model, path[:-1])
            return f"{key}: unknown key; {nearest(path[-1], valid)}"
        case "missing":
            return f"{key}: missing; this key is required"
        case "literal_error":
            expected = detail.get("ctx", {}).get("expected", "")
            valid = [part.strip().strip("'") for part in expected.replace(" or ", ", ").split(",")]
            near, choices = nearest(str(value), valid), f"valid: {', '.join(valid)}"
            hint = choices if near == choices else f"{near} ({choices})"
            return f"{key}: {_shown(value)} is not a valid choice; {hint}"
        case _:
            rule = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            if not key:  # what two parts of the file have to say about each other
                return rule
            return (
                f"{key}: {_shown(value)} is wrong: it should be {rule}"
                if rule != detail["msg"]
                else f"{key}: {_shown(value)}: {rule}"
            )


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Valid keys of the settings found by following `path` from `model`."""
    for part in path:
        field = next((f for n, f in model.model_fields.items() if part in (n, f.alias)), None)
        inner = None if field is None else _settings_in(field.annotation)
        if inner is None:
            continue  # a key of a mapping, or the tag of a union: the model stays the same
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class inside an annotation such as `X`, `X | None` or `dict[str, X]`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    if get_origin(annotation) in (Union, types.UnionType, dict, list, tuple):
        return next((found for part in get_args(annotation) if (found := _settings_in(part))), None)
    return None
