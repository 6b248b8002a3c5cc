"""Which passwords are accepted, each refusal with its reason."""

# ruff: noqa: RUF001 -- look-alike characters are what is tested here

from __future__ import annotations

import pytest

from webapp.accounts.password_rules import problem_with


@pytest.mark.parametrize(
    "password",
    [
        pytest.param("orchid lamp river stone", id="four words"),
        pytest.param("the cat sat on the mat", id="a phrase that repeats a word"),
        pytest.param("monkey see, monkey do, monkey pay", id="a phrase that repeats a listed word"),
        pytest.param("password of my grandmother", id="a phrase with a listed word in it"),
        pytest.param("Пароль моей бабушки", id="another script"),
        pytest.param("🦊🐢🦉🐙🦋🐝🦀🐬🦜🐌🦔🐞🦩🐫🦥", id="emoji"),
        pytest.param("tab\tand\nline end", id="control characters"),
        pytest.param("      spaces      ", id="blanks at both ends"),
        pytest.param("x9" + "q4 z7 w2" * 120, id="very long"),
        pytest.param("124816326412825", id="digits that are not a run"),
        pytest.param("summer rain 2026, summer sun", id="a phrase with a year that repeats a word"),
        pytest.param("dragon7fortress7dragon", id="two words, one of them listed and repeated"),
    ],
)
def test_good_password_is_accepted(password: str) -> None:
    """A long password that attackers do not try first is accepted, with any characters."""
    assert problem_with(password, min_length=15) is None


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        pytest.param("short", "too short", id="short"),
        pytest.param("14 characters!", "too short", id="one too short"),
        pytest.param("", "too short", id="empty"),
        pytest.param("\u00bd thirds of it", "too short", id="long once normalised only"),
        pytest.param("e\u0301" * 10, "too short", id="short once normalised"),
        pytest.param("x" * 1025, "at most 1024", id="too long"),
        pytest.param("\ufdfa" * 1024, "at most 1024", id="too long once normalised"),
        pytest.param("correcthorsebatterystaple", "try first", id="listed"),
        pytest.param("CorrectHorseBatteryStaple", "try first", id="listed, in capitals"),
        pytest.param("ｐａｓｓｗｏｒｄ１２３４５６７８", "try first", id="listed, full width"),
        pytest.param("1" * 20, "repeated", id="one digit repeated"),
        pytest.param("ééééééééééééééé", "repeated", id="one letter repeated"),
        pytest.param("345678901234567", "neighbouring keys", id="a run of digits"),
        pytest.param("987654321098765", "neighbouring keys", id="digits downwards"),
        pytest.param("qwertyuiopasdfghj", "neighbouring keys", id="a keyboard run"),
        pytest.param("mnbvcxzlkjhgfdsa", "neighbouring keys", id="a keyboard run backwards"),
        pytest.param("defghijklmnopqrs", "neighbouring keys", id="the alphabet"),
        pytest.param("2wsx3edc4rfv5tgb", "neighbouring keys", id="keyboard columns"),
        pytest.param("dragondragondragon", "repeated", id="a listed word repeated"),
        pytest.param("dragondragondrag", "repeated", id="a listed word repeated and cut"),
        pytest.param("dragon dragon dragon", "repeated", id="a listed word repeated with blanks"),
        pytest.param("Password1234567", "digits or signs", id="a listed word and digits"),
        pytest.param("Summer2026!Summer", "digits or signs", id="a listed word around a year"),
        pytest.param("!!!!!!!!dragon!!!!!!!", "digits or signs", id="a listed word among signs"),
        pytest.param("dragondragon2026", "digits or signs", id="a repeated word and a year"),
        pytest.param("2026dragon_2027dragon", "digits or signs", id="a word with two years"),
        pytest.param("123456!!!!!!!!!!", "digits or signs", id="a listed number and signs"),
        pytest.param("1234-5678-9012-3456", "digits or signs", id="a run in groups"),
        pytest.param("abzabzabzabzabz", "repeated", id="three letters repeated"),
        pytest.param("lovelace@example.org", "your name", id="the email address"),
        pytest.param("Countess Lovelace", "your name", id="the user name"),
    ],
)
def test_bad_password_is_refused_with_its_reason(password: str, reason: str) -> None:
    """Each refusal says what is wrong."""
    names = ("countess lovelace", "lovelace@example.org")

    problem = problem_with(password, min_length=15, names=names)

    assert problem is not None
    assert reason in problem


def test_minimum_length_is_the_configured_one() -> None:
    """Eight characters are enough where the operator says so."""
    assert problem_with("kq7 vx2z", min_length=8) is None
    assert problem_with("kq7 vx2", min_length=8) is not None


def test_common_passwords_of_every_length_are_refused_at_a_low_minimum() -> None:
    """With a minimum of 8 the list still catches what attackers try first."""
    for password in ("password", "12345678", "qwerty123", "iloveyou", "football"):
        assert problem_with(password, min_length=8) is not None
