"""The catalogue of questions: one SQL file each, with typed parameters, and how a user's text picks one of them.

A user's text chooses a question and gives values for its parameters. It never becomes SQL: the SQL is what stands in
the file, and the values are bound to `$1`, `$2`, ... in the order in which the file declares its parameters.

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

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias, cast

from rowcast import ConfigurationError

from . import HandlerError

__all__ = [
    "Asked",
    "Parameter",
    "ParameterType",
    "Question",
    "Value",
    "load_catalogue",
    "parse_question",
    "read_request",
]

Value: TypeAlias = int | str | date
ParameterType: TypeAlias = Literal["integer", "text", "date"]

TEXT_LIMIT = 4_096  # characters of a request; the longest sensible one has about a hundred
SHOWN_LIMIT = 40  # characters of a user's text that an error repeats
RESERVED_NAMES = frozenset({"question", "parameters"})  # a request in JSON needs them for itself


def _read_integer(text: str) -> int:
    # Nine digits fit every integer type; int() itself would take thousands, and digits of any script.
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text.strip()):
        raise ValueError(text)
    return int(text)


def _read_date(text: str) -> date:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text.strip()):
        raise ValueError(text)
    return date.fromisoformat(text.strip())


_READERS: Mapping[ParameterType, Callable[[str], Value]] = {"integer": _read_integer, "date": _read_date, "text": str}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One typed parameter of a question.

    It has `choices`, or a `minimum` and a `maximum`: of the value, or of the length if it is a text.
    Without a `default` it is required.
    """

    name: str
    type: ParameterType
    default: Value | None
    minimum: int | date | None = None
    maximum: int | date | None = None
    choices: tuple[str, ...] = ()
    description: str

    @property
    def accepts(self) -> str:
        """What this parameter accepts, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        nouns = {"integer": "an integer from", "date": "a date (YYYY-MM-DD) from", "text": "a text of"}
        unit = " characters" if self.type == "text" else ""
        return f"{nouns[self.type]} {self.minimum} to {self.maximum}{unit}"

    def read(self, text: str) -> Value:
        """Turn what a user wrote into a value that this parameter accepts.

        Raises `HandlerError`, which names the parameter and what it accepts.
        """
        try:
            # No control characters, no NUL, no lone surrogates: PostgreSQL refuses some, terminals obey others.
            value = _READERS[self.type](text) if text.isprintable() else None
        except ValueError:
            value = None
        if isinstance(value, str) and self.choices:
            value = value.strip().casefold()
        if value is None or not self._allows(value):
            raise HandlerError(f"{self.name} must be {self.accepts}, not {shown(text)}.")
        return value

    def _allows(self, value: Value) -> bool:
        if self.choices:
            return value in self.choices
        measure: Any = len(value) if isinstance(value, str) else value
        return bool(self.minimum <= measure <= self.maximum)

    def describe(self) -> dict[str, Any]:
        """This parameter as `GET /api/questions` lists it."""
        described: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "description": self.description,
            "required": self.default is None,
            "default": plain(self.default),
        }
        if self.choices:
            return described | {"choices": list(self.choices)}
        if self.type == "text":
            return described | {"minimum_length": self.minimum, "maximum_length": self.maximum}
        return described | {"minimum": plain(self.minimum), "maximum": plain(self.maximum)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question of the catalogue.

    `hints` maps an SQLSTATE to what the user reads when the SQL fails with it.
    """

    name: str
    order: int
    title: str
    description: str
    parameters: tuple[Parameter, ...]
    example: str
    hints: Mapping[str, str]
    sql: str

    def describe(self) -> dict[str, Any]:
        """This question as `GET /api/questions` lists it."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "parameters": [parameter.describe() for parameter in self.parameters],
            "example": self.example,
        }

    def read_arguments(self, given: Iterable[tuple[str, str]]) -> dict[str, Value]:
        """Turn what a user wrote into one value for every parameter, in the order of `$1`, `$2`, ...

        Raises `HandlerError` for a parameter that is unknown, given twice, missing or not acceptable.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        read: dict[str, Value] = {}
        for written, text in given:
            name = written.lower()
            if name not in known:
                raise HandlerError(
                    f"{self.name} has no parameter {shown(written)}.{_nearest(name, known)} {self.takes}"
                )
            if name in read:
                raise HandlerError(f"{name} is given twice.")
            read[name] = known[name].read(text)
        values: dict[str, Value] = {}
        for parameter in self.parameters:
            value = read.get(parameter.name, parameter.default)
            if value is None:
                raise HandlerError(
                    f"{self.name} needs {parameter.name}: {parameter.accepts}. For example: {self.example}"
                )
            values[parameter.name] = value
        return values

    @property
    def takes(self) -> str:
        """What parameters this question takes, in a sentence."""
        if not self.parameters:
            return "It takes none."
        return f"It takes {'; '.join(f'{parameter.name}, {parameter.accepts}' for parameter in self.parameters)}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a user asked for: a question, and a value for each of its parameters, in order."""

    question: Question
    arguments: Mapping[str, Value]


# The catalogue -------------------------------------------------------------------------------------------------------


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
        return _read_date(low), _read_date(high), ()
    return _read_integer(low), _read_integer(high), ()


# A user's text -------------------------------------------------------------------------------------------------------

_ASSIGNMENT = re.compile(
    r"""(?P<name>[^\s,="']+)\s*=\s*
        (?: "(?P<double>(?:[^"\\]|\\["\\])*)" | '(?P<single>(?:[^'\\]|\\['\\])*)' | (?P<bare>[^\s,="']+) )
        (?=[\s,]|$)""",
    re.VERBOSE,
)
_SEPARATOR = re.compile(r"[\s,]*")


def read_request(text: str, catalogue: Mapping[str, Question]) -> Asked:
    """Find out which question a user's text asks, and with which values.

    The text is `name parameter=value parameter="a value"`, or a JSON object
    `{"question": "name", "parameters": {"parameter": value}}`, whose parameters may also stand beside `question`.

    Raises `HandlerError` with a hint for the user, and nothing else, whatever the text is.
    """
    if len(text) > TEXT_LIMIT:
        raise HandlerError(f"The request is too long: {len(text):,} characters, at most {TEXT_LIMIT:,} are read.")
    text = text.replace("\N{NO-BREAK SPACE}", " ").strip()
    for character in text:
        if not character.isprintable() and character not in "\t\r\n":
            raise HandlerError(f"The request contains a character that cannot be used: U+{ord(character):04X}.")
    if text.startswith("{"):
        name, given = _split_json(text)
        question = _find(name, catalogue)
    else:
        name, rest = [*text.split(maxsplit=1), "", ""][:2]
        question = _find(name, catalogue)
        given = _split_text(rest, question)
    return Asked(question=question, arguments=question.read_arguments(given))


def _find(name: str, catalogue: Mapping[str, Question]) -> Question:
    """Look a question up by the name that a user wrote."""
    question = catalogue.get(name.casefold().replace("-", "_"))
    if question is not None:
        return question
    problem = f"There is no question {shown(name)}.{_nearest(name, catalogue)}" if name else "Name a question."
    raise HandlerError(f"{problem} The questions are: {', '.join(catalogue)}.")


def _split_text(text: str, question: Question) -> list[tuple[str, str]]:
    """Split `year=2025 name="a b"` into names and values; blanks or commas stand between them."""
    given = []
    position = 0
    while position < len(text):
        match = _ASSIGNMENT.match(text, position)
        if match is None:
            raise HandlerError(
                f"Write parameters as name=value, not {shown(text[position:])}. {question.takes} "
                f"For example: {question.example}"
            )
        quoted = match["double"] if match["double"] is not None else match["single"]
        given.append((match["name"], match["bare"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)))
        separator = _SEPARATOR.match(text, match.end())
        position = separator.end() if separator else match.end()
    return given


def _split_json(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Split a request in JSON into the question's name, and names and values as if they had been written as text."""
    try:
        # Numbers stay as they are written: the parameter decides what it accepts, in one place for both notations.
        request = json.loads(
            text, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_refuse_doubles
        )
    except (ValueError, RecursionError):
        raise HandlerError(
            "The request looks like JSON but is not. "
            'For example: {"question": "sales_by_month", "parameters": {"year": 2025}}'
        ) from None
    name = request.pop("question", "")
    parameters = request.pop("parameters", {})
    if not isinstance(name, str):
        raise HandlerError('"question" must be the name of a question.')
    if not isinstance(parameters, dict):
        raise HandlerError('"parameters" must be an object, such as {"year": 2025}.')
    given = []
    for parameter, value in [*request.items(), *parameters.items()]:
        if isinstance(value, dict | list):
            raise HandlerError(f"{shown(parameter)} must be one value, not a list or an object.")
        if value is not None:
            given.append((parameter, str(value).lower() if isinstance(value, bool) else value))
    return name, given


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of the members of a JSON object, unless one of them is given twice."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise HandlerError("The request in JSON gives a member twice.")
    return members


def _nearest(name: str, known: Iterable[str]) -> str:
    """Guess which known name was meant, as the rest of a sentence; empty if none is near."""
    near = get_close_matches(name[:64].lower(), list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else ""


def shown(text: str) -> str:
    """Repeat a user's text in an error: the beginning, in quotes, without characters that could do harm."""
    start = "".join(character if character.isprintable() else "?" for character in text[:SHOWN_LIMIT])
    return f"'{start}{'…' if len(text) > SHOWN_LIMIT else ''}'"


def plain(value: Value | None) -> int | str | None:
    """Turn a value into what JSON has."""
    return value.isoformat() if isinstance(value, date) else value
