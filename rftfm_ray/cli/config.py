"""`rftfm config`: every key with its default and meaning, or a file as it is understood."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.errors import ConfigError


def config(
    file: Annotated[Path | None, typer.Argument(help="YAML file to resolve; without it, all keys.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="Keys to change, as `rftfm train` takes them.")] = None,
) -> None:
    """Show the configuration: all keys with defaults, or FILE with the keys that change it as it resolves."""
    if file is not None and "=" in file.name and not file.exists():
        raise ConfigError(f"{file} is a key; name a file before it: rftfm config FILE {file}.")
    if file is not None:
        sys.stdout.write(load_config(file, overrides or []).to_yaml())
        return
    for line in explain(RunConfig):
        print(line)


def explain(model: type[BaseModel], prefix: str = "") -> list[str]:
    """One line per key: name, default, meaning."""
    lines = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            lines += explain(field.annotation, f"{prefix}{name}.")
            continue
        plain = to_jsonable_python(field.default)
        value = plain if isinstance(plain, str) else json.dumps(plain)
        meaning = " ".join((field.description or "").split())
        choices = choices_of(field.annotation)
        if not all(f"`{choice}`" in meaning for choice in choices):
            meaning = f"{meaning} One of {', '.join(choices)}."
        lines.append(f"{f'{prefix}{name}={value}':<42}{meaning}".rstrip())
    return lines


def choices_of(annotation: object) -> tuple[str, ...]:
    """The values of a key that has only some, as they are written; empty for any other key."""
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return tuple(member.value for member in annotation)
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return tuple(map(str, arguments))
    # A list of choices, or a choice or null.
    return tuple(choice for argument in arguments for choice in choices_of(argument))
