"""The catalogue of questions: one SQL file each, with typed parameters.

The values of the parameters are bound to `$1`, `$2`, ... in the order in which the file declares its parameters.

The comments at the head of a file describe the question, one `-- field: value` a line:

    -- order: 10                                                   its place in the list
    -- title: Sales by month
    -- description: One sentence for the person who chooses.
    -- parameter: year integer = 2025 (2021..2025) The year.       name type [= default] (limits) description
    -- parameter: channel text = all (all|app|web) The channel.    a text has choices ...
    -- parameter: name text (2..40) A part of the name.            ... or a length; without a default it is required
    -- when 22012: What the user reads if the SQL fails with this SQLSTATE.
    -- example: sales_by_month year=2025
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from functools import cache
from importlib.resources import files
from typing import cast

from rowcast import ConfigurationError
from rowcast.service.handlers import HandlerError
from rowcast.service.handlers.question import Parameter, ParameterType, Question, read_date, read_integer

__all__ = ["RESERVED_NAMES", "load_catalogue", "parse_question"]

RESERVED_NAMES = frozenset({"question", "parameters"})  # a user's text in JSON needs them for itself


@cache
def load_catalogue() -> Mapping[str, Question]:
    """Read the catalogue that comes with the package: name → question, in the order in which it is listed.

    Raises `ConfigurationError`, naming the file, if one is malformed.
    """
    questions = [
        parse_question(file.name.removesuffix(".sql"), file.read_text(encoding="utf-8"))
        for file in files(__package__).joinpath("questions_sql").iterdir()
        if file.name.endswith(".sql")
    ]
    return {question.name: question for question in sorted(questions, key=lambda question: question.order)}


def parse_question(name: str, text: str) -> Question:
    """Parse one SQL file of the catalogue; `name` is its file name without the ending.

    Raises `ConfigurationError` if the head of the file is malformed or does not fit the SQL.
    """
    try:
        return _parse_question(name, text)
    except (ValueError, KeyError, HandlerError) as error:
        raise ConfigurationError(f"the question {name}.sql is malformed: {error}") from error


_FIELD = re.compile(r"-- (order|title|description|parameter|example|when [0-9A-Z]{5}): (.+)")
_PARAMETER = re.compile(
    r"(?P<name>[a-z][a-z0-9_]*) (?P<type>integer|text|date)(?: = (?P<default>\S+))?"
    r" \((?P<limits>[^)]+)\) (?P<description>.+)"
)


def _parse_question(name: str, text: str) -> Question:
    head, _, sql = text.partition("\n\n")
    fields: dict[str, str] = {}
    parameters: list[Parameter] = []
    for line in head.splitlines():
        field = _FIELD.fullmatch(line)
        if field is None or field[1] in fields:
            raise ValueError(f"not a field, or given twice: {line}")
        if field[1] == "parameter":
            parameters.append(_parse_parameter(field[2]))
        else:
            fields[field[1]] = field[2]
    if {int(number) for number in re.findall(r"\$([0-9]+)", sql)} != set(range(1, len(parameters) + 1)):
        raise ValueError(f"the SQL must use each of its {len(parameters)} parameters, and no other")
    return Question(
        name=name,
        order=int(fields["order"]),
        title=fields["title"],
        description=fields["description"],
        parameters=tuple(parameters),
        example=fields["example"],
        hints={key.removeprefix("when "): hint for key, hint in fields.items() if key.startswith("when ")},
        sql=sql.strip().removesuffix(";"),
    )


def _parse_parameter(text: str) -> Parameter:
    match = _PARAMETER.fullmatch(text)
    if match is None or match["name"] in RESERVED_NAMES:
        raise ValueError(f"not a parameter: {text}")
    parameter_type = cast("ParameterType", match["type"])
    minimum, maximum, choices = _parse_limits(parameter_type, match["limits"])
    parameter = Parameter(
        name=match["name"],
        type=parameter_type,
        default=None,
        minimum=minimum,
        maximum=maximum,
        choices=choices,
        description=match["description"],
    )
    # A default has to pass the limits too.
    return parameter if match["default"] is None else replace(parameter, default=parameter.read(match["default"]))


def _parse_limits(
    parameter_type: ParameterType, text: str
) -> tuple[int | date | None, int | date | None, tuple[str, ...]]:
    """Parse `a..b` or `a|b|c`: minimum, maximum, choices."""
    low, dots, high = text.partition("..")
    if not dots:
        if parameter_type != "text":
            raise ValueError(f"only a text has choices: ({text})")
        if text != text.casefold():
            raise ValueError(f"choices are compared in lower case: ({text})")
        return None, None, tuple(text.split("|"))
    if parameter_type == "date":
        return read_date(low), read_date(high), ()
    return read_integer(low), read_integer(high), ()
