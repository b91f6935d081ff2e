"""Rows as the hub has them, column for column, and the text that they become."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msft_lite.data.grade import grader
from msft_lite.data.rows import Record
from msft_lite.data.tasks import PRESETS
from msft_lite.data.tasks.items import preset_row
from msft_lite.errors import DataError

HubRow = Mapping[str, object]

CSQA: HubRow = {
    "id": "1",
    "question": "Where does ice melt?",
    "question_concept": "ice",
    "choices": {
        "label": ["A", "B", "C", "D", "E"],
        "text": ["freezer", "oven", "igloo", "arctic", "fridge"],
    },
    "answerKey": "B",
}
OPENBOOK: HubRow = {
    "id": "7-1",
    "question_stem": "Ice is",
    "choices": {"text": ["hot", "cold", "soft", "loud"], "label": ["A", "B", "C", "D"]},
    "answerKey": "B",
}
AQUA: HubRow = {
    "question": "What is 7 + 14?",
    "options": ["A)21", "B)22", "C) 23", "D)24", "E)25"],
    "rationale": "7 + 14 = 21\n\nAnswer is A",
    "correct": "A",
}
GSM8K: HubRow = {
    "question": "What do 2 bikes at $600 cost?",
    "answer": "They cost 2*600 = $<<2*600=1200>>1,200.\n#### 1,200",
}
SCIQ: HubRow = {
    "question": "What is ice?",
    "distractor3": "fire",
    "distractor1": "air",
    "distractor2": "sand",
    "correct_answer": "frozen water",
    "support": "Ice is water below zero degrees.",
}
ARC: HubRow = {
    "id": "Mercury_1",
    "question": "Ice is",
    "choices": {"text": ["hot", "cold", "loud", "soft"], "label": ["A", "B", "C", "D"]},
    "answerKey": "B",
}
HELLASWAG: HubRow = {
    "ind": 4,
    "activity_label": "Removing ice from car",
    "ctx_a": "A man scrapes ice from a car.",
    "ctx_b": "he",
    "ctx": "A man scrapes ice from a car. he",
    "endings": ["gets in.", "eats it.", "sleeps.", "sings."],
    "source_id": "activitynet~v_1",
    "split": "train",
    "split_type": "indomain",
    "label": "3",
}
WINOGRANDE: HubRow = {
    "sentence": "The ice beat the fire because the _ was wet.",
    "option1": "ice",
    "option2": "fire",
    "answer": "1",
}
BOOLQ: HubRow = {"question": "is ice cold", "answer": True, "passage": "Ice is cold water."}
MEDMCQA: HubRow = {
    "id": "e9ad",
    "question": "Ice is put on",
    "opa": "Sprains",
    "opb": "Frostbite",
    "opc": "Eyes",
    "opd": "None of the above",
    "cop": 0,
    "choice_type": "single",
    "exp": None,
    "subject_name": "Surgery",
    "topic_name": None,
}
PIQA: HubRow = {"goal": "To make ice,", "sol1": "boil water.", "sol2": "freeze water.", "label": 1}
MMLU: HubRow = {
    "question": "Ice is",
    "subject": "high_school_physics",
    "choices": ["hot", "cold", "loud", "soft"],
    "answer": 1,
}
SVAMP: HubRow = {
    "ID": "chal-1",
    "Body": "Mary has 12 cubes of ice.",
    "Question": "If 4 melt, how many are left?",
    "Equation": "( 12.0 - 4.0 )",
    "Answer": "8.0",
    "Type": "Subtraction",
    "question_concat": "Mary has 12 cubes of ice. If 4 melt, how many are left?",
}
EXAMPLES: Mapping[str, HubRow] = {
    "commonsenseqa": CSQA,
    "openbookqa": OPENBOOK,
    "aqua_rat": AQUA,
    "gsm8k": GSM8K,
    "sciq": SCIQ,
    "arc_easy": ARC,
    "hellaswag": HELLASWAG,
    "winogrande": WINOGRANDE,
    "boolq": BOOLQ,
    "medmcqa": MEDMCQA,
    "arc_challenge": ARC,
    "piqa": PIQA,
    "mmlu": MMLU,
    "svamp": SVAMP,
}
NUMBERED = {"text": ["hot", "cold", "loud"], "label": ["1", "2", "3"]}
FIVE = {"text": ["hot", "cold", "wet", "loud", "soft"], "label": ["A", "B", "C", "D", "E"]}

TEXTS: list[tuple[str, HubRow, str, str]] = [
    (
        "commonsenseqa",
        CSQA,
        "Where does ice melt?\noptions: A. freezer, B. oven, C. igloo, D. arctic, E. fridge",
        "#### B",
    ),
    (
        "commonsenseqa",
        {**CSQA, "answerKey": "E", "question": " Where?\r\n\r\nWhere? "},
        "Where?\nWhere?\noptions: A. freezer, B. oven, C. igloo, D. arctic, E. fridge",
        "#### E",
    ),
    ("openbookqa", OPENBOOK, "Ice is\noptions: A. hot, B. cold, C. soft, D. loud", "#### B"),
    (
        "openbookqa",
        {**OPENBOOK, "answerKey": "D"},
        "Ice is\noptions: A. hot, B. cold, C. soft, D. loud",
        "#### D",
    ),
    (
        "aqua_rat",
        AQUA,
        "What is 7 + 14?\noptions: A. 21, B. 22, C. 23, D. 24, E. 25",
        "7 + 14 = 21\nAnswer is A #### A",
    ),
    (
        "aqua_rat",
        {**AQUA, "rationale": "", "options": ["A)a)b", "B)", "C)C) 2", "D )3", "4"]},
        "What is 7 + 14?\noptions: A. a)b, B. , C. C) 2, D. 3, E. 4",
        "#### A",
    ),
    ("aqua_rat", {**AQUA, "rationale": "Add.\n#### 21 ####"}, "", "Add. #### A"),
    (
        "gsm8k",
        GSM8K,
        "What do 2 bikes at $600 cost?",
        "They cost 2*600 = $<<2*600=1200>>1,200. #### 1200",
    ),
    (
        "gsm8k",
        {"question": "1-2?", "answer": "One.\n\nLess two.\n#### -1\n"},
        "1-2?",
        "One.\nLess two. #### -1",
    ),
    ("sciq", SCIQ, "What is ice?", "#### frozen water"),
    ("sciq", {**SCIQ, "correct_answer": "frozen\nwater ", "support": ""}, "", "#### frozen water"),
    ("arc_easy", ARC, "Ice is\noptions: A. hot, B. cold, C. loud, D. soft", "#### B"),
    (
        "arc_easy",
        {**ARC, "choices": NUMBERED, "answerKey": "3"},
        "Ice is\noptions: A. hot, B. cold, C. loud",
        "#### C",
    ),
    (
        "arc_challenge",
        {**ARC, "choices": FIVE, "answerKey": "E"},
        "Ice is\noptions: A. hot, B. cold, C. wet, D. loud, E. soft",
        "#### E",
    ),
    ("arc_challenge", ARC, "Ice is\noptions: A. hot, B. cold, C. loud, D. soft", "#### B"),
    (
        "hellaswag",
        HELLASWAG,
        '"A man scrapes ice from a car. he"\n'
        'options: A. "gets in.", B. "eats it.", C. "sleeps.", D. "sings."',
        "#### D",
    ),
    (
        "hellaswag",
        {
            **HELLASWAG,
            "ctx": "[header] How to make ice [title] Fill a tray. [step] Use water [1]. [substeps]",
            "endings": ["[step] Drink.  Eat.", "Wait [title] Why? [title] So", "b", "c"],
            "label": "0",
        },
        '"How to make ice. Fill a tray. Use water [1]."\n'
        'options: A. "Drink. Eat.", B. "Wait. Why? So", C. "b", D. "c"',
        "#### A",
    ),
    (
        "winogrande",
        WINOGRANDE,
        "The ice beat the fire because the _ was wet.\noptions: A. ice, B. fire",
        "#### A",
    ),
    ("winogrande", {**WINOGRANDE, "answer": "2"}, "", "#### B"),
    ("boolq", BOOLQ, "Ice is cold water.\nis ice cold?", "#### True"),
    (
        "boolq",
        {**BOOLQ, "answer": False, "question": "is ice cold ??", "passage": "Ice.\n \nCold."},
        "Ice.\nCold.\nis ice cold?",
        "#### False",
    ),
    (
        "medmcqa",
        MEDMCQA,
        "Ice is put on\noptions: A. Sprains, B. Frostbite, C. Eyes, D. None of the above",
        "#### A",
    ),
    (
        "medmcqa",
        {**MEDMCQA, "cop": 3, "opc": None, "opd": "All\nof them", "subject_name": None},
        "Ice is put on\noptions: A. Sprains, B. Frostbite, C. , D. All of them",
        "#### D",
    ),
    ("piqa", PIQA, "To make ice,\noptions: A. boil water., B. freeze water.", "#### B"),
    ("piqa", {**PIQA, "label": 0}, "", "#### A"),
    ("mmlu", MMLU, "Ice is\noptions: A. hot, B. cold, C. loud, D. soft", "#### B"),
    ("mmlu", {**MMLU, "subject": "", "answer": 3, "choices": ["", "1", "2", "3"]}, "", "#### D"),
    (
        "svamp",
        SVAMP,
        "Mary has 12 cubes of ice. If 4 melt, how many are left?",
        "#### 8",
    ),
    ("svamp", {**SVAMP, "Answer": "2.5"}, "", "#### 2.5"),
    ("svamp", {**SVAMP, "Answer": 1024.0}, "", "#### 1024"),
]
REFUSED: list[tuple[str, HubRow, str]] = [
    ("commonsenseqa", {**CSQA, "answerKey": ""}, r"'answerKey' is '', none of A, B, C, D, E"),
    ("commonsenseqa", {**CSQA, "choices": ["a", "b"]}, r"'choices' must be an object .* list"),
    ("commonsenseqa", {**CSQA, "choices": {"text": ["a", "b"]}}, r"no column 'label'"),
    ("openbookqa", {**OPENBOOK, "question_stem": " "}, r"'question_stem' is empty"),
    ("openbookqa", ARC, r"no column 'question_stem'; did you mean 'question'"),
    ("aqua_rat", {**AQUA, "correct": "F"}, r"answer is 'F'; needed is .* A to E"),
    ("aqua_rat", {**AQUA, "options": "A)1 B)2"}, r"'options' must be a list .* string"),
    ("gsm8k", {**GSM8K, "answer": "It costs 1200."}, r"does not end with '#### ' and a number"),
    ("gsm8k", {**GSM8K, "answer": "Add. #### "}, r"does not end with '#### ' and a number"),
    ("sciq", {**SCIQ, "correct_answer": ""}, r"'correct_answer' is empty"),
    ("arc_easy", {**ARC, "answerKey": "5"}, r"'answerKey' is '5', none of A, B, C, D"),
    ("arc_easy", {**ARC, "choices": {"text": ["a"], "label": ["A", "B"]}}, r"1 texts and 2 labels"),
    ("arc_challenge", {**ARC, "answerKey": None}, r"'answerKey' is None"),
    ("hellaswag", {**HELLASWAG, "label": ""}, r"'label' is '', none of 0, 1, 2, 3; where it is"),
    ("hellaswag", {**HELLASWAG, "label": "4"}, r"'label' is '4', none of 0, 1, 2, 3"),
    ("winogrande", {**WINOGRANDE, "answer": ""}, r"'answer' is '', none of 1, 2"),
    ("winogrande", {**WINOGRANDE, "answer": "0"}, r"'answer' is '0', none of 1, 2"),
    ("boolq", {**BOOLQ, "answer": None}, r"answer is 'None'; needed is True, False, yes or no"),
    (
        "boolq",
        {"question": "a", "answer": True},
        r"no column 'passage'; the columns are 'question'",
    ),
    ("medmcqa", {**MEDMCQA, "cop": -1}, r"'cop' is -1, none of 0, 1, 2, 3; where it is withheld"),
    ("medmcqa", {**MEDMCQA, "cop": True}, r"'cop' is True"),
    ("piqa", {**PIQA, "label": -1}, r"'label' is -1, none of 0, 1"),
    ("mmlu", {**MMLU, "answer": 4}, r"'answer' is 4, none of 0, 1, 2, 3"),
    ("mmlu", {**MMLU, "choices": ["a"], "answer": 0}, r"there are 1 choices; needed are 2 to 26"),
    ("svamp", {**SVAMP, "Answer": None}, r"'Answer' must be .* null"),
    ("svamp", {**SVAMP, "Body": "half \ud83d"}, r"'Body' holds half a surrogate pair"),
]


def test_every_preset_has_rows_here() -> None:
    assert set(EXAMPLES) == set(PRESETS)
    assert all([name for name, *_ in TEXTS].count(preset) >= 2 for preset in PRESETS)
    assert {name for name, *_ in REFUSED} == set(PRESETS)


@pytest.mark.parametrize(("name", "values", "question", "answer"), TEXTS)
def test_text(name: str, values: HubRow, question: str, answer: str) -> None:
    row = preset_row(PRESETS[name], Record("the hub, row 3", values), local=False)
    assert row.where == "the hub, row 3"
    assert row.answer == answer
    if question:
        assert row.prompt == f"Q: {question}\nA: "
    assert row.group == ""


@pytest.mark.parametrize(("name", "values", "message"), REFUSED)
def test_refused(name: str, values: HubRow, message: str) -> None:
    start = rf"^the hub, row 3: no row of preset '{name}': .*"
    with pytest.raises(DataError, match=start + message):
        preset_row(PRESETS[name], Record("the hub, row 3", values), local=False)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("medmcqa", "Surgery"),
        ("mmlu", "high_school_physics"),
        ("hellaswag", "Removing ice from car"),
        ("svamp", "Subtraction"),
    ],
)
def test_subjects(name: str, group: str) -> None:
    record = Record("row 1", EXAMPLES[name])
    assert preset_row(PRESETS[name], record, local=False, group_by="subject").group == group


@pytest.mark.parametrize(("name", "values", "_question", "answer"), TEXTS)
def test_gold_is_right_and_all_else_wrong(
    name: str, values: HubRow, _question: str, answer: str
) -> None:
    scored = grader(PRESETS[name].grade)
    row = preset_row(PRESETS[name], Record("row 1", values), local=False)
    gold = scored.gold_of(row.answer)
    assert gold == answer.rpartition("#### ")[2]
    for right in (row.answer, f"#### {gold}.", f"Because. #### {gold}\n\nQ: next?\nA: #### Z"):
        assert scored.grade(right, gold)
    for wrong in ("#### Z", "", "####", "####\n" + gold, f"#### {gold} {gold}", f"It is {gold}"):
        assert not scored.grade(wrong, gold)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(["A", "#### ", "\ud800", "A)", "[title]", "####"]),
    st.lists(st.one_of(st.none(), st.text(max_size=3), st.integers()), max_size=30),
    st.dictionaries(st.sampled_from(["text", "label"]), st.lists(st.text(max_size=2), max_size=3)),
)


# Tables of characters are built in the first draw, which takes seconds on a busy machine.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), name=st.sampled_from(sorted(PRESETS)), local=st.booleans())
def test_no_row_ends_in_another_error(data: st.DataObject, name: str, *, local: bool) -> None:
    start = {"question": "Ice is?", "choices": ["a", "b"], "answer": "A", "context": "Cold."}
    values = dict(start if local else EXAMPLES[name])
    for column in data.draw(st.lists(st.sampled_from(sorted(values)), max_size=3)):
        values[column] = data.draw(ODD)
    for column in data.draw(st.sets(st.sampled_from(sorted(values)), max_size=1)):
        del values[column]
    try:
        row = preset_row(PRESETS[name], Record("row 1", values), local=local)
    except DataError as error:
        assert str(error).startswith("row 1: ")
        return
    assert row.prompt.startswith("Q: ")
    assert row.prompt.endswith("\nA: ")
    assert "\n\n" not in row.prompt + row.answer
    assert row.answer.count("#### ") == 1
    assert "\n" not in row.answer.partition("#### ")[2]
    row.prompt.encode()
    row.answer.encode()
