"""A question, its typed parameters, and what makes a user's words into their values."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias

from rowcast.service.handlers import HandlerError

__all__ = [
    "Asked",
    "Parameter",
    "ParameterType",
    "Question",
    "Value",
    "nearest",
    "plain",
    "read_date",
    "read_integer",
    "shown",
]

Value: TypeAlias = int | str | date
ParameterType: TypeAlias = Literal["integer", "text", "date"]

SHOWN_LIMIT = 40  # characters of a user's text that an error repeats


def read_integer(text: str) -> int:
    """Read a whole number. Raises ValueError."""
    # Nine digits fit every integer type; int() itself would take thousands, and digits of any script.
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text.strip()):
        raise ValueError(text)
    return int(text)


def read_date(text: str) -> date:
    """Read a date, YYYY-MM-DD. Raises ValueError."""
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text.strip()):
        raise ValueError(text)
    return date.fromisoformat(text.strip())


_READERS: Mapping[ParameterType, Callable[[str], Value]] = {"integer": read_integer, "date": read_date, "text": str}


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
                raise HandlerError(f"{self.name} has no parameter {shown(written)}.{nearest(name, known)} {self.takes}")
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


def nearest(name: str, known: Iterable[str]) -> str:
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
