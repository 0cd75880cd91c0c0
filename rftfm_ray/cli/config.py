"""`rftfm config`: every key with its default and meaning, or a file as it is understood."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from rftfm_ray.config import RunConfig, load_config


def config(
    file: Annotated[Path | None, typer.Argument(help="YAML file to resolve; without it, all keys.")] = None,
) -> None:
    """Show the configuration: all keys with defaults, or FILE as it resolves."""
    if file is not None:
        sys.stdout.write(load_config(file, []).to_yaml())
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
        lines.append(f"{f'{prefix}{name}={value}':<42}{meaning}".rstrip())
    return lines
