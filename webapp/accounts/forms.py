"""The forms of the app, each with its fields; pages and API use the same ones.

A form checks only that its fields are there, have the right type, and can be stored. `usernames`
and `password_rules` decide which names and passwords are accepted. The OpenAPI description is
built from these classes too. No `repr` of a form shows a password.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import TypeVar

from webapp.accounts import password_rules
from webapp.http.refusals import FieldsRefused

MAX_TEXT_LENGTH = password_rules.MAX_LENGTH
"""Characters in one field; a password is the longest."""

MAX_UNKNOWN_SHOWN = 10
"""Unknown fields that a refusal names; with thousands it would be many times their size."""


@dataclass(frozen=True, kw_only=True)
class SignUp:
    """What a new account needs."""

    username: str
    email: str
    password: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class SignIn:
    """What signing in needs; `remember` keeps the session when the browser closes.

    `email` may also be the user name; the field is called `email` in every form and program.
    """

    email: str
    password: str = field(repr=False)
    remember: bool = False


@dataclass(frozen=True, kw_only=True)
class PasswordChange:
    """The old password and the new one."""

    current_password: str = field(repr=False)
    new_password: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The password again, before something that cannot be undone."""

    current_password: str = field(repr=False)


Form = TypeVar("Form", SignUp, SignIn, PasswordChange, Confirmation)


def from_page(kind: type[Form], values: Mapping[str, object]) -> Form:
    """Fill in a form with what a page submitted; fields that it does not know are ignored.

    A checkbox is sent when it is ticked and missing when it is not. Raises `FieldsRefused`.
    """
    wanted: dict[str, object] = {}
    for declared in fields(kind):
        name = declared.name
        wanted[name] = name in values if declared.type == "bool" else values.get(name, "")
    return _filled(kind, wanted, {})


def from_json(kind: type[Form], values: Mapping[str, object]) -> Form:
    """Fill in a form with a JSON object; fields that it does not know are refused.

    An API client that misspells a field must see that. Raises `FieldsRefused`.
    """
    known = {declared.name for declared in fields(kind)}
    unknown = islice((name for name in values if name not in known), MAX_UNKNOWN_SHOWN)
    wrong = {_shown(name): "This field is not known here." for name in unknown}
    return _filled(kind, values, wrong)


def _filled(kind: type[Form], values: Mapping[str, object], wrong: dict[str, str]) -> Form:
    wrong = wrong | dict(_problems(kind, values))
    if wrong:
        raise FieldsRefused(wrong)
    return kind(**values)  # type: ignore[arg-type]  # _problems has compared every type


def _problems(kind: type[Form], values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for declared in fields(kind):
        value = values.get(declared.name)
        if declared.type == "bool":
            if declared.name in values and not isinstance(value, bool):
                yield declared.name, "Must be true or false."
        elif problem := _text_problem(value):
            yield declared.name, problem


def _text_problem(value: object) -> str | None:
    if value is None or value == "":
        return "Please fill in this field."
    if not isinstance(value, str):
        return "Must be text."
    if len(value) > MAX_TEXT_LENGTH:
        return f"Use at most {MAX_TEXT_LENGTH} characters."
    if "\0" in value or not _is_unicode(value):
        return "Contains a character that cannot be used."
    return None


def _is_unicode(text: str) -> bool:
    """Tell whether `text` has no lone surrogates, which a JSON escape can contain."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: str) -> str:
    """Return the name of an unknown field, short and safe to repeat."""
    return name[:40].encode("ascii", "backslashreplace").decode()
