"""Token ids on disk, found again by what went in: the tokenizer and the texts, nothing else.

A chat template needs no place in the key, because chats are rendered first: its effect is in the
texts. So is the effect of shots. What does not change texts (shares, the order of tasks, tasks
left out, lengths) tokenises nothing anew.

A file is safetensors: ``ids`` int32 [N], ``bounds`` int64 [texts + 1], ``places`` int32 [N, 2] or
[0, 2], and ``seal`` uint8 [32], the SHA-256 of the key and the other three. Its name is the key.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import tokenizers
from safetensors import SafetensorError
from safetensors.numpy import load, save

from msft_lite.data.task import Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1  # of keys and files; another number finds nothing of before

Ids = tuple[int, ...]
Arrays = Mapping[str, numpy.ndarray]


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenised text.

    Attributes:
        ids: its tokens.
        places: the characters that each token stands for; empty where they were not asked for.
    """

    ids: Ids
    places: tuple[Span, ...] = ()


class TokenCache:
    """A folder of tokenised lists of texts, safe to delete and to share between runs.

    A file that is damaged or not of this cache is removed and its texts are tokenised anew. Where
    nothing can be written the cache gives up writing and says so once, in `problem`.
    """

    def __init__(self, folder: Path) -> None:
        """Touches nothing; the folder is made with the first file."""
        self._folder = folder
        self.problem = ""

    def read(self, key: str, *, vocabulary: int) -> list[Tokens] | None:
        """Returns what `write` was given under ``key``; None where there is nothing sound.

        Args:
            key: from `key_of`.
            vocabulary: every id is below it.
        """
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        tokens = _unpacked(content, key, vocabulary=vocabulary)
        if tokens is None:
            with contextlib.suppress(OSError):
                path.unlink()
        return tokens

    def write(self, key: str, tokens: Sequence[Tokens]) -> None:
        """Keeps ``tokens`` under ``key``, unless writing failed once; never raises for the disk.

        Writers of one key do not disturb each other: each has a file of its own, and the last to
        put it in place wins with the same content.
        """
        if self.problem:
            return
        path = self._path(key)
        partial = path.with_name(f"{key}.{secrets.token_hex(8)}.partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(_packed(tokens, key))
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            self.problem = (
                f"the cache of tokens {self._folder} cannot be written: "
                f"{error.strerror or error}; the run goes on without it"
            )

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Returns the SHA-256 of all that decides a text's ids; None where it cannot be told.

    That is the tokenizer's engine with its vocabulary and rules, the special tokens, and the
    version of the library. A tokenizer written in Python has no such text.
    """
    if not tokenizer.is_fast:
        return None
    backend: Any = tokenizer.backend_tokenizer
    engine = json.loads(backend.to_str())
    # Left there by whoever called the tokenizer last; every call sets both.
    engine["truncation"] = engine["padding"] = None
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    described = [
        tokenizers.__version__,
        engine,
        special,
        sorted(tokenizer.all_special_ids),
        tokenizer.split_special_tokens,
    ]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def key_of(tokenizer: str, texts: Sequence[str], *, special: bool, places: bool) -> str:
    """Returns the SHA-256 that stands for a list of texts and how they are tokenised.

    Args:
        tokenizer: from `tokenizer_digest`.
        texts: in order.
        special: whether the tokenizer adds its special tokens.
        places: whether the characters of tokens are kept.
    """
    digest = hashlib.sha256(repr((FORMAT, tokenizer, special, places, len(texts))).encode())
    for text in texts:
        content = text.encode()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def seal(arrays: Arrays, key: str) -> numpy.ndarray:
    """Returns the SHA-256 of a key and the arrays kept under it, uint8 [32]."""
    digest = hashlib.sha256(key.encode())
    for name in ("ids", "bounds", "places"):
        digest.update(repr(arrays[name].shape).encode())
        digest.update(arrays[name].tobytes())
    return numpy.frombuffer(digest.digest(), dtype=numpy.uint8)


def _packed(tokens: Sequence[Tokens], key: str) -> bytes:
    bounds = numpy.cumsum([0, *(len(text.ids) for text in tokens)], dtype=numpy.int64)
    ids = numpy.fromiter(chain.from_iterable(text.ids for text in tokens), numpy.int32)
    places = [place for text in tokens for place in text.places]
    arrays = {
        "ids": ids,
        "bounds": bounds,
        "places": numpy.array(places, dtype=numpy.int32).reshape(-1, 2),
    }
    return save({**arrays, "seal": seal(arrays, key)})


def _unpacked(content: bytes, key: str, *, vocabulary: int) -> list[Tokens] | None:
    """Returns the tokens in a file's ``content``, or None where they are not to be believed."""
    try:
        arrays = load(content)
    # Beside its own error the library lets through what numpy says of odd types and shapes.
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError):
        return None
    if not _is_sound(arrays, key, vocabulary=vocabulary):
        return None
    ids, places = arrays["ids"].tolist(), arrays["places"].tolist()
    pairs = [(start, stop) for start, stop in places]
    return [
        Tokens(tuple(ids[start:stop]), tuple(pairs[start:stop]))
        for start, stop in pairwise(arrays["bounds"].tolist())
    ]


def _is_sound(arrays: Arrays, key: str, *, vocabulary: int) -> bool:
    if arrays.keys() != {"ids", "bounds", "places", "seal"}:
        return False
    ids, bounds, places = arrays["ids"], arrays["bounds"], arrays["places"]
    forms = [(array.dtype, array.ndim) for array in (ids, bounds, places)]
    if forms != [(numpy.int32, 1), (numpy.int64, 1), (numpy.int32, 2)]:
        return False
    if not numpy.array_equal(arrays["seal"], seal(arrays, key)):
        return False
    return (
        len(bounds) > 0
        and bounds[0] == 0
        and bounds[-1] == len(ids)
        and bool((bounds[1:] >= bounds[:-1]).all())
        and places.shape in ((0, 2), (len(ids), 2))
        and (not len(ids) or 0 <= ids.min() <= ids.max() < vocabulary)
    )
