"""The answers of a row with lettered choices as token ids, to ask which of them is likeliest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from msft_lite.data.chat import as_chat
from msft_lite.data.prompts import Encoder, encode_rows
from msft_lite.data.rows import Row
from msft_lite.data.task import Options
from msft_lite.data.token_cache import Ids
from msft_lite.errors import DataError


def encode_options(rows: Sequence[Row], encoder: Encoder, *, as_chats: bool) -> list[Options]:
    """Returns the options of every row, encoded as its answer is for training.

    What comes after the letter, an end of text or of a turn, is the same for all and left out. So
    the likeliest letter after all that comes before it makes the likeliest answer.

    Args:
        rows: with options; not yet in the form of chats.
        encoder: of the model to train.
        as_chats: whether they are put into the chat template.

    Raises:
        DataError: the answers of a row differ in more than one token.
    """
    if as_chats:
        chats = [as_chat(replace(row, answer=text)) for row in rows for text in row.options]
        ids = iter(pair.answer for pair in encode_rows(chats, encoder)[0])
        return [_options(row, [next(ids) for _ in row.options]) for row in rows]
    texts = sorted({text for row in rows for text in row.options})
    known = dict(zip(texts, encoder.ids(texts), strict=True))
    return [_options(row, [known[text] for text in row.options]) for row in rows]


def _options(row: Row, answers: Sequence[Ids]) -> Options:
    columns = enumerate(zip(*answers, strict=False))
    place = next((place for place, tokens in columns if len(set(tokens)) > 1), len(answers[0]))
    letters = tuple(ids[place] for ids in answers if place < len(ids))
    tails = {ids[place + 1 :] for ids in answers}
    if len(set(letters)) < len(answers) or len(tails) > 1:
        raise DataError(
            f'{row.where}: score = "logprob" compares one token an option, but the tokenizer '
            f"writes {row.options[0]!r} and {row.options[1]!r} as {list(answers[0])} and "
            f'{list(answers[1])}; take score = "generate"'
        )
    return Options(answers[0][:place], letters)
