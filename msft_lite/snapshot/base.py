"""Tensors of a base model's files, one at a time: what full tuning's snapshots differ from."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from msft_lite.errors import SnapshotError
from msft_lite.snapshot.delta import Form


class BaseFiles:
    """A `delta.Source`; the files hold the one copy, and memory one tensor at most.

    A model whose parameters have other names than its files, as some have, is simply told that
    the files have no such tensors.
    """

    def __init__(self, folder: Path) -> None:
        """Looks at the headers of the safetensors files in ``folder``.

        Raises:
            SnapshotError: one cannot be read.
        """
        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with _opened(path) as file:
                self._files.update(dict.fromkeys(file.keys(), path))

    def __call__(self, form: Form) -> torch.Tensor | None:
        """Returns the tensor of that name and shape in ``form``'s dtype, as the model is loaded.

        Raises:
            SnapshotError: the file cannot be read.
        """
        path = self._files.get(form.name)
        if path is None:
            return None
        with _opened(path) as file:  # anew, so that what was read does not stay mapped
            try:
                tensor = file.get_tensor(form.name)
            except SafetensorError as error:
                raise SnapshotError(f"{path}: tensor {form.name!a}: {error}") from error
        if tuple(tensor.shape) != form.shape or not tensor.is_floating_point():
            return None
        return tensor.to(form.dtype).contiguous()


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise SnapshotError(f"{path}: cannot read the base model: {error}") from error
