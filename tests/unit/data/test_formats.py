"""Rows as people shape them: what each form becomes, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from msft_lite.data.formats import row_of
from msft_lite.data.rows import Message, Record, Row
from msft_lite.errors import DataError

WHERE = "add.jsonl, line 2"
USER, ASSISTANT = {"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}
HUMAN, GPT = {"from": "human", "value": "1+1"}, {"from": "gpt", "value": "2"}
CHAT = (("user", "1+1"), ("assistant", "2"))
CHOICES = ["sand", "milk", "iron"]
LABELLED = {"text": CHOICES, "label": ["1", "2", "3"]}

Values = Mapping[str, object]


def refused(values: Values, columns: Mapping[str, str] | None = None) -> str:
    """Returns the message about a row that cannot be used."""
    with pytest.raises(DataError) as caught:
        row_of(Record(WHERE, values), columns=columns)
    message = str(caught.value)
    message.encode()  # can be printed
    assert message.startswith(WHERE)
    return message


@pytest.mark.parametrize(
    ("values", "prompt", "answer"),
    [
        ({"prompt": "1+1=", "answer": "2"}, "1+1=", "2"),
        ({"prompt": "1+1=", "completion": " 2 "}, "1+1=", " 2 "),
        (
            {"instruction": "Add.", "input": "1 1", "output": "2"},
            "### Instruction:\nAdd.\n\n### Input:\n1 1\n\n### Response:\n",
            "2",
        ),
        ({"question": "1+1?", "answer": "2"}, "Q: 1+1?\nA: ", "#### 2"),
        ({"question": "1+1?", "answer": "2", "choices": None}, "Q: 1+1?\nA: ", "#### 2"),
        ({"question": "1+1?", "answer": "Two.\n#### 2"}, "Q: 1+1?\nA: ", "Two.\n#### 2"),
        ({"question": "1+1?", "answer": "2", "rationale": "."}, "Q: 1+1?\nA: ", ". #### 2"),
        ({"question": "1+1?", "answer": "2", "solution": "."}, "Q: 1+1?\nA: ", ". #### 2"),
        ({"question": "1+1?", "answer": " 2", "solution": ""}, "Q: 1+1?\nA: ", "#### 2"),
        ({"question": "a?", "answer": "2", "context": "a = 2."}, "Q: a = 2.\na?\nA: ", "#### 2"),
        (
            {"question": "Which is white?", "choices": CHOICES, "answer": "B"},
            "Q: Which is white?\noptions: A. sand, B. milk, C. iron\nA: ",
            "#### B",
        ),
        ({"prompt": "a", "answer": "b", "messages": None, "id": 7, "input": [{}]}, "a", "b"),
        ({"prompt": "\U0001f600\u2028", "answer": "\u00e9"}, "\U0001f600\u2028", "\u00e9"),
    ],
)
def test_plain_forms(values: Values, prompt: str, answer: str) -> None:
    found = row_of(Record(WHERE, values))
    assert dataclasses.replace(found, options=()) == Row(WHERE, prompt, answer)


@pytest.mark.parametrize("given", [{}, {"input": ""}, {"input": " \n"}, {"input": None}])
def test_instruction_without_input(given: Values) -> None:
    made = row_of(Record(WHERE, {"instruction": "Add.", "output": "2", **given}))
    assert made.prompt == "### Instruction:\nAdd.\n\n### Response:\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "7"), (7.0, "7"), (-0.0, "0"), (0.5, "0.5"), (10**20, "1" + "0" * 20), (1e300, "1e+300")],
)
@pytest.mark.parametrize("form", ["prompt answer", "prompt completion", "instruction output"])
def test_numbers_as_answers(form: str, value: float, text: str) -> None:
    first, second = form.split()
    assert row_of(Record(WHERE, {first: "a", second: value})).answer == text


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({"messages": [USER, ASSISTANT]}, CHAT),
        ({"messages": [USER, ASSISTANT], "prompt": "as some datasets have it"}, CHAT),
        ({"messages": [USER, ASSISTANT], "tools": [], "system": None}, CHAT),
        ({"messages": [USER, ASSISTANT | {"tool_calls": None, "name": "x"}]}, CHAT),
        ({"messages": [HUMAN, GPT]}, CHAT),
        ({"conversations": [HUMAN, GPT]}, CHAT),
        ({"conversations": [USER, ASSISTANT]}, CHAT),
        ({"conversations": [HUMAN | {"role": None}, GPT | {"content": None}]}, CHAT),
        ({"prompt": [USER], "completion": [ASSISTANT]}, CHAT),
        (
            {"prompt": [USER, ASSISTANT, USER], "completion": [ASSISTANT]},
            (*CHAT, *CHAT),
        ),
        (
            {"conversations": [{"from": "system", "value": "s"}, HUMAN, HUMAN, GPT, HUMAN, GPT]},
            (("system", "s"), CHAT[0], *CHAT, *CHAT),
        ),
        (
            {"messages": [USER, ASSISTANT, {"role": "tool", "content": "t"}, ASSISTANT]},
            (*CHAT, ("tool", "t"), CHAT[1]),
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "+1"}],
                    },
                    ASSISTANT,
                ]
            },
            CHAT,
        ),
    ],
)
def test_chats(values: Values, messages: tuple[Message, ...]) -> None:
    made = row_of(Record(WHERE, values))
    assert made.messages == messages
    assert made.prompt == "\n".join(content for _, content in messages[:-1])
    assert made.answer == "2"


@pytest.mark.parametrize(
    ("choices", "answer", "letter"),
    [
        (CHOICES, "C", "C"),
        (CHOICES, " c ", "C"),
        (CHOICES, 2, "C"),
        (CHOICES, 2.0, "C"),
        (CHOICES, 0, "A"),
        (CHOICES, "iron", "C"),
        (LABELLED, "3", "C"),
        (LABELLED, "iron", "C"),
        ({"text": CHOICES, "label": [1, 2, 3]}, "3", "C"),
        ({"text": CHOICES, "label": ["x", "y", "z"]}, "Z", "C"),
        ({"text": CHOICES}, "C", "C"),
        ([5, 6, 7.0], "7", "C"),
        ([9, 8, 2], 2, "C"),  # index and text of the same choice
        (["b", "c", "a "], "C", "C"),  # texts are compared as they are written, labels are not
    ],
)
def test_right_choice(choices: object, answer: object, letter: str) -> None:
    values = {"question": "Which?", "choices": choices, "answer": answer}
    assert row_of(Record(WHERE, values)).answer == f"#### {letter}"


@pytest.mark.parametrize(
    ("choices", "answer", "says"),
    [
        (CHOICES, "D", "'answer' is 'D', which is none of the 3 choices; give a label (A, B, C)"),
        (CHOICES, 3, "'answer' is '3', which is none of the 3 choices"),
        (CHOICES, -1, "'answer' is '-1', which is none of the 3 choices"),
        (CHOICES, 0.5, "'answer' is '0.5', which is none of the 3 choices"),
        (CHOICES, "1", "'answer' is '1', which is none of the 3 choices"),
        (CHOICES, True, "'answer' must be a string, found true or false"),
        (CHOICES, ["B"], "'answer' must be a string, found a list"),
        (["B", "A"], "A", "'answer' is 'A', which can mean 'B' and 'A'"),
        ([1, 2, 3], 1, "can mean '1' and '2'"),
        (LABELLED, 1, "can mean 'sand' and 'milk'"),
        (["x", "x"], "x", "can mean 'x' and 'x'"),
        ("sand, milk", "A", "'choices' must be a list of strings, found a string"),
        ({"label": ["A"]}, "A", "'choices' must be a list of strings, found null"),
        ({"text": CHOICES, "label": ["A", "B"]}, "A", "has 3 texts and the labels A, B; give each"),
        ({"text": CHOICES, "label": ["A", "B", "B"]}, "A", "give each text a label of its own"),
        (["x"], "A", "'choices' holds 1; needed are 2 to 26"),
        (list(range(27)), "A", "'choices' holds 27"),
        (["x", ""], "A", "'choices', entry 2 is empty"),
        (["x", None], "A", "'choices', entry 2 must be a string, found null"),
    ],
)
def test_unclear_choice(choices: object, answer: object, says: str) -> None:
    assert says in refused({"question": "Which?", "choices": choices, "answer": answer})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "the columns (none) fit no format; formats: prompt + completion; prompt + answer;"),
        ({"promt": "a", "answer": "b"}, "'prompt' is missing; did you mean 'promt'?"),
        ({"prompt": "a", "Answer": "b"}, "'answer' is missing; did you mean 'Answer'?"),
        ({"x": 1, "y": 2}, "columns 'x', 'y' fit no format; formats:"),
        ({"prompt": 5, "answer": "b"}, "'prompt' must be a string, found a number"),
        ({"prompt": "a", "answer": True}, "'answer' must be a string, found true or false"),
        ({"prompt": "a", "answer": None}, "'answer' is null; give it a value or delete the row"),
        ({"question": "a", "choices": None, "answer": None}, "'answer' is null"),
        ({"prompt": "a", "answer": ["b"]}, "'answer' must be a string, found a list"),
        ({"prompt": "a", "answer": b"b"}, "'answer' must be a string, found bytes"),
        ({"prompt": "a", "answer": float("nan")}, "'answer' is nan; give it a text or a finite"),
        ({"prompt": "a", "answer": float("-inf")}, "'answer' is -inf"),
        ({"prompt": "a", "answer": " \n"}, "'answer' is empty; give it a text or delete the row"),
        ({"prompt": "", "answer": "b"}, "'prompt' is empty"),
        ({"prompt": "ab\ud83d", "answer": "b"}, "half a surrogate pair, '\\ud83d' at character 2"),
        (
            {"instruction": "a", "output": "b", "input": 5},
            "'input' must be a string, found a number",
        ),
        (
            {"question": "a", "answer": "b", "rationale": "c", "solution": "d"},
            "has 'rationale' and 'solution'; keep one",
        ),
        ({"prompt": [USER], "completion": "2"}, "of 'prompt' and 'completion' one is a list"),
        ({"prompt": [USER], "answer": "2"}, "'prompt' must be a string, found a list"),
    ],
)
def test_refused_rows(values: Values, says: str) -> None:
    assert says in refused(values)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ({}, "'messages' must be a list of messages, found an object"),
        ([], "a chat needs at least one message.*found 0, the last from nobody"),
        ([ASSISTANT], "found 1, the last from 'assistant'"),
        ([USER, ASSISTANT, USER], "found 3, the last from 'user'; add the answer"),
        ([1], "message 1: expected an object, found a number"),
        ([{"role": "user"}], "message 1: key 'content' is missing .keys: 'role'."),
        ([{"role": "user", "contents": "a"}], "did you mean 'contents'"),
        ([{"from": "human", "content": "a"}], "key 'value' is missing"),
        ([{}], "key 'role' is missing .keys: none."),
        ([USER | {"role": "asistant"}], "message 1: unknown role 'asistant'; did you mean 'assis"),
        ([USER | {"role": 5}], "message 1: 'role' must be a string, found a number"),
        ([USER | {"content": None}], "message 1: 'content' must be a string, found null"),
        ([USER | {"content": " "}], "message 1: 'content' is empty"),
        ([USER | {"content": []}], "message 1: 'content' is empty"),
        ([USER | {"content": [1]}], "message 1: 'content', part 1: expected an object"),
        (
            [USER | {"content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}],
            "message 1: 'content', part 2 is of type 'image_url'; only text is learned",
        ),
        ([USER | {"content": [{"type": "text"}]}], "part 1: 'text' must be a string, found null"),
        ([ASSISTANT | {"tool_calls": [{}]}], "message 1: has 'tool_calls'; tool calls are not"),
        ([ASSISTANT | {"function_call": {"name": "f"}}], "message 1: has 'function_call'"),
        ([{"from": "function_call", "value": "f()"}], "message 1: is a 'function_call'; tool"),
    ],
)
def test_refused_chats(messages: object, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        row_of(Record(WHERE, {"messages": messages}))
    assert str(caught.value).startswith(WHERE)


@pytest.mark.parametrize("column", ["tools", "functions", "images", "videos", "audios", "system"])
@pytest.mark.parametrize("form", ["messages", "conversations"])
def test_columns_that_change_a_chat(form: str, column: str) -> None:
    assert f"has '{column}'; " in refused({form: [USER, ASSISTANT], column: "x"})


def test_messages_of_a_prompt_are_named() -> None:
    message = refused({"prompt": [USER, USER | {"role": "x"}], "completion": [ASSISTANT]})
    assert message.startswith(f"{WHERE}, prompt, message 2: unknown role 'x'")
    message = refused({"prompt": [USER], "completion": [USER]})
    assert "found 2, the last from 'user'" in message


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"prompt": "a", "answer": "b", "completion": "c"}, "prompt + completion; prompt + answer"),
        ({"prompt": "a", "answer": "b", "question": "c"}, "prompt + answer; question + answer"),
        ({"prompt": "a", "answer": "b", "messages": []}, "prompt + answer; messages"),
        (
            {"question": "a", "choices": ["b"], "answer": "b", "messages": []},
            "messages; question + choices + answer",
        ),
    ],
)
def test_a_row_that_fits_two_formats(values: Values, names: str) -> None:
    message = refused(values)
    assert f"fits more than one format: {names}; leave a column out, or say which" in message


def test_columns_rename() -> None:
    values = {"stem": "1+1?", "key": 2.0, "question": "other", "answer": "other", "prompt": "p"}
    made = row_of(Record(WHERE, values), columns={"question": "stem", "answer": "key"})
    assert (made.prompt, made.answer) == ("Q: 1+1?\nA: ", "#### 2")


def test_columns_choose_between_formats() -> None:
    values = {"prompt": "p", "answer": "a", "question": "q"}
    assert row_of(Record(WHERE, values), columns={"prompt": "prompt"}).prompt == "p"
    assert row_of(Record(WHERE, values), columns={"question": "question"}).prompt == "Q: q\nA: "
    assert row_of(Record(WHERE, values), columns={"prompt": "question"}).prompt == "q"


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"qestion": "stem"}, "columns.qestion: no format has a column 'qestion'; did you mean"),
        ({"question": "stm"}, "columns.question: there is no column 'stm'; did you mean 'stem'?"),
        ({"question": "empty"}, "'empty' (question) is empty"),
        ({"question": "none"}, "'none' (question) is null"),
        ({"question": "stem", "prompt": "key"}, "fit no format"),
        ({"answer": "list"}, "fit no format; formats: prompt + answer; question + choices"),
    ],
)
def test_columns_that_do_not_fit(columns: Mapping[str, str], says: str) -> None:
    values = {"stem": "a", "key": "b", "answer": "b", "empty": "", "none": None, "list": []}
    assert says in refused(values, columns)


@pytest.mark.parametrize(("value", "group"), [("law ", "law"), (3, "3"), (3.0, "3")])
def test_group(value: object, group: str) -> None:
    values = {"prompt": "a", "answer": "b", "subject": value}
    assert row_of(Record(WHERE, values), group_by="subject").group == group
    assert row_of(Record(WHERE, values)).group == ""


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"subjct": "law"}, "split_by: there is no column 'subject'; did you mean 'subjct'?"),
        ({"subject": None}, "'subject' must be a string, found null"),
        ({"subject": " "}, "'subject' is empty"),
    ],
)
def test_row_without_a_group(values: Values, says: str) -> None:
    with pytest.raises(DataError) as caught:
        row_of(Record(WHERE, {"prompt": "a", "answer": "b", **values}), group_by="subject")
    assert str(caught.value).startswith(WHERE)
    assert says in str(caught.value)
