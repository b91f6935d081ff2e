"""Local model folders: what must be in them, and the headers of their safetensors files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from msft_lite.errors import ModelError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_MOST_HEADER_BYTES = 100_000_000  # the limit of the safetensors format


class NamedModel(Protocol):
    """What says which model is meant: the settings of one, or a recipe's table."""

    @property
    def name_or_path(self) -> str:
        """A folder, or a name on the hub."""
        ...

    @property
    def revision(self) -> str | None:
        """Of the hub: a branch, a tag or a commit; None for the newest."""
        ...


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """Type, shape and size of one stored tensor."""

    dtype: str
    shape: tuple[int, ...]
    total_bytes: int


def local_folder(name_or_path: str) -> Path | None:
    """Returns the folder that ``name_or_path`` stands for, or None for a name on the hub.

    Raises:
        ModelError: it is written as a path, and there is no such folder.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise ModelError(
            f"model {name_or_path!r} is a file; name the folder that holds config.json"
        )
    written_as_path = name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") != 1
    if "/" in name_or_path and (written_as_path or path.parent.is_dir()):
        raise ModelError(f"model folder {name_or_path!r} does not exist{near(path)}")
    return None


def base_folder(model: NamedModel) -> Path:
    """Returns the folder of a base model; for a name on the hub that in the hub's cache.

    Raises:
        ModelError: it is not on this machine; nothing is downloaded.
    """
    name = model.name_or_path
    if (folder := local_folder(name)) is not None:
        return folder
    try:
        return Path(snapshot_download(name, revision=model.revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        revision = f" --revision {model.revision}" if model.revision else ""
        raise ModelError(
            f"model {name!r} is not in this machine's cache of the hub; fetch it with: "
            f"hf download {name}{revision}"
        ) from error


def near(path: Path) -> str:
    """Returns ``; did you mean 'x'?`` for the folder beside ``path`` with the closest name."""
    if not path.parent.is_dir():
        return ""
    names = [p.name for p in path.parent.iterdir() if p.is_dir()]
    close = get_close_matches(path.name, names, n=1)
    return f"; did you mean '{path.parent / close[0]}'?" if close else ""


def check_folder(folder: Path) -> None:
    """Checks that ``folder`` holds a config.json and whole safetensors files.

    Raises:
        ModelError: something is missing or damaged.
    """
    read_config(folder)
    read_headers(folder)


def check_tokenizer_files(folder: Path) -> None:
    """Checks that ``folder`` holds a vocabulary.

    Without one, transformers makes an empty tokenizer for some models and says nothing.

    Raises:
        ModelError: there is none.
    """
    if not any((folder / name).is_file() for name in _VOCABULARY_FILES):
        raise ModelError(
            f"model folder {str(folder)!r} has no tokenizer: none of "
            f"{', '.join(_VOCABULARY_FILES)}; save the tokenizer beside the model"
        )


def read_config(folder: Path) -> Mapping[str, Any]:
    """Returns the folder's config.json.

    Raises:
        ModelError: it is missing or no JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"model folder {str(folder)!r} has no config.json; name the folder that "
            "save_pretrained wrote"
        )
    return _read_json(path)


def read_headers(folder: Path) -> Mapping[str, TensorHeader]:
    """Returns the header of every stored tensor by name, in the order of the files.

    Raises:
        ModelError: there are no safetensors files, or one is missing or damaged.
    """
    headers: dict[str, TensorHeader] = {}
    for path in _weight_files(folder):
        headers.update(_read_header(path))
    return headers


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if (folder / INDEX_FILE).is_file():
        return _shards(folder)
    unsafe = sorted(p.name for p in folder.iterdir() if p.suffix in _UNSAFE_SUFFIXES)
    if unsafe:
        raise ModelError(
            f"model folder {str(folder)!r} holds its weights only as {unsafe[0]}, a pickle that "
            "may run code when it is read; only safetensors files are: convert it with "
            "save_pretrained(..., safe_serialization=True) where you trust it"
        )
    raise ModelError(f"model folder {str(folder)!r} has no weights: no {WEIGHTS_FILE}")


def _shards(folder: Path) -> list[Path]:
    weight_map = _read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelError(f"{folder / INDEX_FILE}: no 'weight_map'; fetch the model again")
    paths = [folder / Path(str(name)).name for name in sorted(set(weight_map.values()), key=str)]
    for path in paths:
        if not path.is_file():
            raise ModelError(
                f"{path}: missing, though {INDEX_FILE} names it; fetch the model again"
            )
    return paths


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: a JSON object is expected, not {type(value).__name__}")
    return value


def _read_header(path: Path) -> dict[str, TensorHeader]:
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if file_bytes < 8 or header_bytes > min(file_bytes - 8, _MOST_HEADER_BYTES):
            raise _damaged(path, f"{file_bytes} bytes cannot hold its header of {header_bytes}")
        text = file.read(header_bytes)
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        headers = {name: _tensor_header(entry) for name, entry in entries.items()}
        stored = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"its header cannot be read ({error})") from error
    if stored != file_bytes - 8 - header_bytes:
        raise _damaged(
            path, f"its header promises {stored} bytes of tensors, "
            f"the file has {file_bytes - 8 - header_bytes}"
        )  # fmt: skip
    return headers


def _tensor_header(entry: Mapping[str, Any]) -> TensorHeader:
    begin, end = entry["data_offsets"]
    shape = tuple(int(size) for size in entry["shape"])
    return TensorHeader(dtype=str(entry["dtype"]), shape=shape, total_bytes=int(end) - int(begin))


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(f"{path}: damaged safetensors file: {why}; fetch the model again")
