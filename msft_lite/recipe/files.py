"""Reads the files that make up a recipe: its own, and those that it extends."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from msft_lite.errors import RecipeError
from msft_lite.recipe.keys import FileText, home_expanded

Chain: TypeAlias = tuple[Path, ...]  # a recipe, a file that it extends, one that this extends, ...
EXTENDS = "extends"
DEFAULT_METHOD = "msft"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a recipe and what stands in it, but for what it extends."""

    path: Path
    content: dict[str, Any]


def read_files(path: Path) -> tuple[SourceFile, ...]:
    """Returns the recipe at ``path`` after the files that it extends: the later counts.

    A file that is extended twice stands once, at its first place.

    Raises:
        RecipeError: naming the chain of files: one is missing, no TOML, or extends itself.
    """
    found: dict[Path, SourceFile] = {}
    _read_chain((path,), found)
    return tuple(found.values())


def merged(files: Sequence[SourceFile]) -> dict[str, Any]:
    """Returns one document of ``files``; every text in it is a `FileText`.

    Tables are merged key by key. Lists, ``tasks`` among them, are replaced as a whole, and so is
    [method] by one of another name, since a file cannot take out the options of the former.
    """
    document: dict[str, Any] = {}
    for file in files:
        for key, value in file.content.items():
            above = _placed(value, file.path.absolute().parent)
            document[key] = _laid_over(document.get(key), above, key)
    return document


def _laid_over(below: Any, above: Any, key: str) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    lower, upper = cast(dict[str, Any], below), cast(dict[str, Any], above)
    name = lower.get("name", DEFAULT_METHOD)
    if key == "method" and upper.get("name", name) != name:
        return upper
    return lower | upper


def _placed(value: Any, folder: Path) -> Any:
    """Returns a copy of ``value`` in which every text knows the folder of its file."""
    if isinstance(value, str):
        return FileText(value, folder)
    if isinstance(value, list):
        return [_placed(item, folder) for item in cast(list[Any], value)]
    if isinstance(value, dict):
        table = cast(dict[str, Any], value)
        return {key: _placed(item, folder) for key, item in table.items()}
    return value


def _read_chain(chain: Chain, found: dict[Path, SourceFile]) -> None:
    """Reads the last file of ``chain`` into ``found``, after the files that it extends."""
    content = _parsed(chain)
    path, file = chain[-1], chain[-1].resolve()
    if file in (earlier.resolve() for earlier in chain[:-1]):
        raise RecipeError(f"{_told(chain)}: a file cannot extend itself; take one `extends` out")
    if file in found:
        return
    for name in _extended(content, chain):
        _read_chain((*chain, path.parent / home_expanded(name)), found)
    content.pop(EXTENDS, None)
    found[file] = SourceFile(path, content)


def _extended(content: dict[str, Any], chain: Chain) -> list[str]:
    value = content.get(EXTENDS, [])
    names = cast(list[Any], value) if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name and "\0" not in name for name in names):
        raise RecipeError(
            f"{_told(chain)}: extends = {value!r}: needed is the name of a recipe file, or a list "
            'of names such as ["tasks.toml", "model.toml"]'
        )
    return names


def _parsed(chain: Chain) -> dict[str, Any]:
    where = _told(chain)
    try:
        return tomllib.loads(chain[-1].read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise RecipeError(f"{where}: no such file; a recipe (TOML) is needed here") from None
    except OSError as error:
        raise RecipeError(f"{where}: cannot read the recipe: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{where}: not UTF-8 text (byte {error.start}); save it as such"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: not valid TOML: {error}") from None
    except RecursionError:
        raise RecipeError(f"{where}: not valid TOML: nested too deeply") from None


def _told(chain: Chain) -> str:
    """Returns ``a.toml extends b.toml``."""
    return " extends ".join(map(str, chain))
