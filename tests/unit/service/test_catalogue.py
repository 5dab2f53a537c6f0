"""The catalogue of questions, and what becomes of a user's text."""

import json
import re
from datetime import date
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rowcast import ConfigurationError
from rowcast.service.handlers import HandlerError
from rowcast.service.handlers.asking import read_request
from rowcast.service.handlers.catalogue import load_catalogue, parse_question
from rowcast.service.handlers.question import Asked
from rowcast.service.handlers.questions import list_questions

CATALOGUE = load_catalogue()
DOCUMENTATION = Path(__file__).parents[3] / "docs/reference/demo-data.md"


def ask(text: str) -> tuple[str, dict[str, object]]:
    asked = read_request(text, CATALOGUE)
    return asked.question.name, dict(asked.arguments)


def refusal(text: str) -> str:
    with pytest.raises(HandlerError) as caught:
        read_request(text, CATALOGUE)
    return str(caught.value)


# The files -----------------------------------------------------------------------------------------------------------


def test_the_catalogue_has_what_the_contract_names() -> None:
    assert {"sales_by_month", "every_pair", "broken"} <= set(CATALOGUE)
    assert len(CATALOGUE) >= 6
    assert next(iter(CATALOGUE)) == "sales_by_month"


def test_every_question_reads_its_own_example() -> None:
    for question in CATALOGUE.values():
        assert ask(question.example)[0] == question.name


def test_the_list_is_json_and_complete() -> None:
    listed = json.loads(json.dumps(list_questions()))
    assert [question["name"] for question in listed] == list(CATALOGUE)
    for question in listed:
        assert set(question) == {"name", "title", "description", "parameters", "example"}
        assert all(question[field] for field in ("title", "description", "example"))
        for parameter in question["parameters"]:
            assert {"name", "type", "description", "required", "default"} <= set(parameter)
            assert parameter["type"] in {"integer", "text", "date"}
            assert (
                {"choices"} <= set(parameter) or {"minimum", "maximum"} <= set(parameter) or parameter["type"] == "text"
            )
    (year,) = listed[0]["parameters"]
    assert year == {
        "name": "year",
        "type": "integer",
        "description": "The year to show.",
        "required": False,
        "default": 2025,
        "minimum": 2021,
        "maximum": 2025,
    }


def test_the_sql_is_one_statement_that_reads() -> None:
    for question in CATALOGUE.values():
        assert ";" not in question.sql
        assert re.match(r"(select|with)\b", question.sql), question.name


def test_the_documentation_names_every_question_and_parameter() -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    for question in CATALOGUE.values():
        (row,) = re.findall(rf"^\| `{question.name}` \| (.*?) \|", text, re.MULTILINE)
        assert re.findall(r"`(\w+)`", row) == [parameter.name for parameter in question.parameters]


def test_the_example_of_the_documentation_is_a_question() -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    (example,) = re.findall(r"```sql\n(-- order.*?)```", text, re.DOTALL)
    question = parse_question("customers_of", example)
    assert read_request(question.example, {question.name: question}).arguments["since"] == date(2021, 1, 1)


HEAD = "-- order: 1\n-- title: T\n-- description: D\n-- example: e\n"


@pytest.mark.parametrize(
    "text",
    [
        "select 1",
        HEAD + "\nselect $1",
        HEAD + "-- parameter: n integer = 1 (1..2) N\n\nselect 1",
        HEAD + "-- parameter: n integer = 3 (1..2) N\n\nselect $1",
        HEAD + "-- parameter: n integer (a|b) N\n\nselect $1",
        HEAD + "-- parameter: t text (A|b) N\n\nselect $1",
        HEAD + "-- parameter: n number (1..2) N\n\nselect $1",
        HEAD + "-- parameter: question integer (1..2) N\n\nselect $1",
        HEAD + "-- parameter: d date (2021-01-01..2021-02-30) N\n\nselect $1",
        HEAD + "-- order: 2\n\nselect 1",
        HEAD + "-- colour: red\n\nselect 1",
        HEAD.replace("order: 1", "order: first") + "\nselect 1",
    ],
)
def test_a_malformed_file_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"the question mine\.sql is malformed"):
        parse_question("mine", text)


# A user's text -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "sales_by_month year=2024",
        "  Sales-By-Month\n year = 2024  ",
        'sales_by_month year="2024"',
        "sales_by_month\N{NO-BREAK SPACE}year=+2024,",
        '{"question": "sales_by_month", "parameters": {"year": 2024}}',
        '{"question": "sales_by_month", "year": 2024}',
        '{"question": "sales_by_month", "year": "2024"}',
    ],
)
def test_notations_of_the_same_request(text: str) -> None:
    assert ask(text) == ("sales_by_month", {"year": 2024})


def test_defaults_and_the_order_of_parameters() -> None:
    assert ask("top_customers count=5") == ("top_customers", {"year": 2025, "count": 5})
    assert list(ask("top_customers count=5 year=2022")[1]) == ["year", "count"]
    assert ask('{"question": "top_customers", "year": null}')[1] == {"year": 2025, "count": 20}
    assert ask("busiest_hours channel=APP")[1]["channel"] == "app"
    assert ask("late_deliveries since=2024-02-29")[1]["since"] == date(2024, 2, 29)


def test_quoted_values() -> None:
    assert ask('find_product name="bread knife"')[1] == {"name": "bread knife"}
    assert ask("find_product name='bread knife'")[1] == {"name": "bread knife"}
    assert ask(r'find_product name="a \"b\" \\ c=d, e"')[1] == {"name": r'a "b" \ c=d, e'}
    assert ask('{"question": "find_product", "name": 42}')[1] == {"name": "42"}


def test_an_unknown_question_is_answered_with_the_nearest() -> None:
    text = refusal("sales_by_moth year=2024")
    assert "'sales_by_moth'" in text
    assert "Did you mean sales_by_month?" in text
    assert all(name in text for name in CATALOGUE)
    assert refusal("").startswith("Name a question. The questions are: sales_by_month")
    assert refusal("{}").startswith("Name a question.")
    assert "Did you mean" not in refusal("qqqqqqqqqq")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sales_by_month year=2031", "year must be an integer from 2021 to 2025, not '2031'."),
        ("sales_by_month year=2024.0", "year must be an integer from 2021 to 2025, not '2024.0'."),
        ("sales_by_month year=٢٠٢٤", "year must be an integer from 2021 to 2025, not '٢٠٢٤'."),
        ("busiest_hours channel=fax", "channel must be one of all, app, web, telephone, not 'fax'."),
        ("late_deliveries since=2024-02-30", "since must be a date (YYYY-MM-DD) from 2021-01-01 to 2025-12-31"),
        ("late_deliveries since=2020-12-31", "since must be a date (YYYY-MM-DD) from 2021-01-01 to 2025-12-31"),
        ("find_product name=a", "name must be a text of 2 to 40 characters, not 'a'."),
        ("find_product", "find_product needs name: a text of 2 to 40 characters."),
        ("sales_by_month yaer=2024", "sales_by_month has no parameter 'yaer'. Did you mean year? It takes year, an"),
        ("broken year=2024", "broken has no parameter 'year'. It takes none."),
        ("sales_by_month year=2024 YEAR=2023", "year is given twice."),
        (
            "sales_by_month 2024",
            "Write parameters as name=value, not '2024'. It takes year, an integer from 2021 to 2025.",
        ),
        ("sales_by_month year=", "Write parameters as name=value, not 'year='."),
        ('sales_by_month year="2024', "Write parameters as name=value"),
        ('sales_by_month year="2024"x', "Write parameters as name=value"),
        ('{"question": "sales_by_month", "year": true}', "year must be an integer"),
        ('{"question": "sales_by_month", "year": [2024]}', "'year' must be one value"),
        ('{"question": "sales_by_month", "parameters": 2024}', '"parameters" must be an object'),
        ('{"question": ["sales_by_month"]}', '"question" must be the name of a question'),
        ('{"question": "broken", "question": "broken"}', "The request in JSON gives a member twice."),
        ('{"question": "sales_by_month", "year": 2024, "parameters": {"year": 2023}}', "year is given twice."),
        ('{"question": "sales_by_month"', "The request looks like JSON but is not."),
    ],
)
def test_what_is_wrong_is_said(text: str, expected: str) -> None:
    assert refusal(text).startswith(expected)


HOSTILE = [
    "'",
    '"' * 4_000,
    "x" * 65_536,
    "sales_by_month " + "year=2024 " * 6_000,
    "sales_by_month year=\x00",
    "\ud800",
    "sales_by_month year=\udfff",
    '{"question": "find_product", "name": "\\ud800\\u0000"}',
    '{"question": "\\u0000"}',
    "sales_by_month year=1e400",
    "sales_by_month year=" + "9" * 4_000,
    "sales_by_month year=" + "9" * 5_000,
    '{"question": "sales_by_month", "year": ' + "9" * 4_000 + "}",
    '{"question": "sales_by_month", "year": 1e400}',
    '{"question": "sales_by_month", "year": 1e99999999999999999999}',
    '{"question": "sales_by_month", "year": NaN}',
    '{"question": "sales_by_month", "year": -Infinity}',
    "sales_by_month year=NaN",
    "sales_by_month year=Infinity",
    '{"a":' * 10_000 + "1" + "}" * 10_000,
    '{"a":' * 600 + "1" + "}" * 600,
    '{"question":' + "[" * 4_000,
    "select pg_sleep(100)",
    "sales_by_month; drop schema demo cascade",
    "sales_by_month year=2024;drop",
    "sales_by_month year=2024--",
    "sales_by_month year=$1",
    "sales_by_month year='2024' or 1=1",
    "\x1b[2Jsales_by_month",
    "sales_by_month\u202e year=2024",
    "sales_by_month \x85year=2024",
    "\ufeffsales_by_month",
    "__class__",
    "../broken",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_end_as_a_short_hint(text: str) -> None:
    assert_presentable(refusal(text))


def assert_presentable(hint: str) -> None:
    assert hint.isprintable()
    assert len(hint) < 600
    hint.encode()


def assert_answered_or_refused(text: str) -> None:
    try:
        asked = read_request(text, CATALOGUE)
    except HandlerError as error:
        assert_presentable(str(error))
    else:
        assert_within_limits(asked)


def assert_within_limits(asked: Asked) -> None:
    assert list(asked.arguments) == [parameter.name for parameter in asked.question.parameters]
    for parameter, value in zip(asked.question.parameters, asked.arguments.values(), strict=True):
        assert parameter.read(str(value)) == value


ANY_CHARACTER = st.characters(exclude_categories=())  # lone surrogates too
ANY_TEXT = st.text(ANY_CHARACTER)
NAMES = st.one_of(st.sampled_from(list(CATALOGUE)), ANY_TEXT)
PARAMETERS = st.one_of(st.sampled_from(["year", "count", "name", "since", "channel", "share"]), ANY_TEXT)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), ANY_TEXT, st.integers(2021, 2025), st.dates().map(str)
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PARAMETERS, inner, max_size=3)
)


@given(ANY_TEXT)
@example("sales_by_month year=2024")
def test_any_text(text: str) -> None:
    assert_answered_or_refused(text)


@given(
    NAMES,
    st.lists(st.tuples(PARAMETERS, st.sampled_from(["=", " = ", "='", '="', ""]), SCALARS.map(str)), max_size=3),
    ANY_TEXT,
)
def test_any_assignments(name: str, assignments: list[tuple[str, str, str]], rest: str) -> None:
    assert_answered_or_refused(f"{name} {' '.join(''.join(assignment) for assignment in assignments)} {rest}")


@given(NAMES | TREES, st.dictionaries(PARAMETERS, TREES, max_size=3), st.booleans())
def test_any_json(name: object, parameters: dict[str, object], nested: bool) -> None:
    flat = {"question": name} | parameters
    assert_answered_or_refused(json.dumps({"question": name, "parameters": parameters} if nested else flat))
