"""Code of the user's: found by name at submit, and shipped to the actors by value."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from rftfm_ray.errors import RftfmError

T = TypeVar("T")


def load_attribute(key: str, name: str, error: type[RftfmError]) -> tuple[Any, str, ModuleType]:
    """The object that `name` means as `module:attribute` or `file.py:attribute`, its attribute's name, its module.

    Args:
        key: configuration key that holds the name, for messages.
        name: what the user wrote.
        error: type of what is raised.

    Raises:
        RftfmError: of type `error`, when there is no such module or attribute, or importing it raises.
    """
    module_name, separator, attribute = name.rpartition(":")
    if not separator or not module_name or not attribute:
        raise error(f"{key}={name} is not of the form module:Name or file.py:Name; write it so.")
    module = _import(key, module_name, error)
    if not hasattr(module, attribute):
        raise error(f"{key}={name}: {module_name} defines no {attribute}; check the name.")
    return getattr(module, attribute), attribute, module


def ship_by_value(module: ModuleType) -> None:
    """Let what `module` defines travel to actors and processes by value, so that it need not be installed there."""
    import cloudpickle
    from ray import cloudpickle as rays_own

    for pickler in (rays_own, cloudpickle):
        pickler.register_pickle_by_value(module)


def packed(value: T) -> Callable[[], T]:
    """Pack a value as for the way to an actor; what is returned makes a new copy of it, as it arrives there."""
    from ray import cloudpickle

    data = cloudpickle.dumps(value)

    def unpack() -> T:
        copied: T = cloudpickle.loads(data)
        return copied

    return unpack


def _import(key: str, name: str, error: type[RftfmError]) -> ModuleType:
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        path = Path(name).expanduser().resolve()
        # The path is part of the name: two files may be called alike.
        unique = f"rftfm_plugin_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
        spec = importlib.util.spec_from_file_location(unique, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise error(f"{key}: file {path} does not exist; check the path.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[spec.name]
            raise
        return module
    except error:
        raise
    except (Exception, SystemExit) as caught:  # importing runs the user's code
        raise error(f"{key}: {name} does not import ({type(caught).__name__}: {caught}).") from caught
