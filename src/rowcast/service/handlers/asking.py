"""How a user's text picks a question and gives values for its parameters. It never becomes SQL."""

import json
import re
from collections.abc import Mapping
from typing import Any

from rowcast.service.handlers import HandlerError
from rowcast.service.handlers.question import Asked, Question, nearest, shown

__all__ = ["read_request"]

TEXT_LIMIT = 4_096  # characters; the longest sensible text has about a hundred

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
    problem = f"There is no question {shown(name)}.{nearest(name, catalogue)}" if name else "Name a question."
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
