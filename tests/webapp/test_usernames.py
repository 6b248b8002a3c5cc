"""Which user names and email addresses are accepted, and when two are the same."""

# ruff: noqa: RUF001 -- look-alike characters are what is tested here

from __future__ import annotations

import pytest

from webapp.accounts.usernames import (
    clean_email,
    clean_username,
    fold_email,
    fold_username,
    problem_with_email,
    problem_with_username,
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("A", id="one character"),
        pytest.param("x" * 64, id="sixty-four"),
        pytest.param("Zoë  O'Neill-Šašić", id="accents and signs"),
        pytest.param("עדה לאבלייס", id="right to left"),
        pytest.param("愛達", id="Chinese"),
        pytest.param("👩‍👩‍👧‍👦", id="a family of emoji, joined"),
        pytest.param("🏴󠁧󠁢󠁳󠁣󠁴󠁿 ❤️", id="a flag and a heart, of several characters each"),
        pytest.param("می\u200cخواهم", id="Persian with a joiner"),
        pytest.param("<b>Ada</b>", id="HTML"),
        pytest.param("  Ada  ", id="blanks around"),
    ],
)
def test_name_of_any_script_is_accepted(name: str) -> None:
    """A user name is 1 to 64 characters of any script."""
    assert problem_with_username(name) is None


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param(" \u3000\t ", id="blank"),
        pytest.param("\u200d\u2060", id="invisible"),
        pytest.param("x" * 65, id="too long"),
        pytest.param("\ufdfa" * 4, id="too long once normalised"),
        pytest.param("A\u200bda", id="zero-width space"),
        pytest.param("A\u00adda", id="soft hyphen"),
        pytest.param("A\ufeffda", id="byte order mark"),
        pytest.param("\u3164", id="a letter that fills"),
        pytest.param("\u2800\u2800", id="blank Braille"),
        pytest.param("A\u202eda", id="right-to-left override"),
        pytest.param("A\u200fda", id="right-to-left mark"),
        pytest.param("A\u2067da", id="isolate"),
        pytest.param("A\x07da", id="bell"),
        pytest.param("A\nda", id="line end"),
        pytest.param("A\u2028da", id="line separator"),
    ],
)
def test_invisible_or_misleading_name_is_refused(name: str) -> None:
    """Control and direction characters, blank names and names that are too long are refused."""
    assert problem_with_username(name)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("Ada", "ADA", id="capitals"),
        pytest.param("Straße", "STRASSE", id="sharp s"),
        pytest.param("Ａｄａ", " ada ", id="full width and blanks"),
        pytest.param("e\u0301", "É", id="composed"),
    ],
)
def test_names_that_read_the_same_are_one_name(one: str, other: str) -> None:
    """Names are compared after normalisation and case folding."""
    assert fold_username(one) == fold_username(other)


def test_shown_name_keeps_its_capitals() -> None:
    """The shown name is not folded."""
    assert clean_username(" Ada L. ") == "Ada L."


@pytest.mark.parametrize(
    "email",
    [
        pytest.param("ada@example.org", id="plain"),
        pytest.param("Ada.Byron+web@sub.example.co.uk", id="dots and a tag"),
        pytest.param("ada@localhost", id="a host without a dot"),
        pytest.param("аня@пример.рф", id="another script"),
        pytest.param("ada@straße.example", id="a sharp s"),
        pytest.param("ada@r3---mail.my_host.example", id="a domain that is in use despite IDNA"),
        pytest.param("a" * 64 + "@example.org", id="the longest local part"),
    ],
)
def test_email_address_is_accepted(email: str) -> None:
    """Anything with the shape of an address is accepted."""
    assert problem_with_email(email) is None


@pytest.mark.parametrize(
    "email",
    [
        pytest.param("ada", id="no at"),
        pytest.param("@example.org", id="no local part"),
        pytest.param("ada@", id="no domain"),
        pytest.param("ada@@example.org", id="two ats"),
        pytest.param("ada@example..org", id="two dots"),
        pytest.param("ada@.org", id="leading dot"),
        pytest.param("ada @example.org", id="a blank inside"),
        pytest.param("ada@example.org\r\nBcc: x@y.z", id="header injection"),
        pytest.param("a\u200bda@example.org", id="an invisible character"),
        pytest.param("\u202eada@example.org", id="a bidi override"),
        pytest.param("a" * 65 + "@example.org", id="local part too long"),
        pytest.param("a@" + "b." * 130 + "org", id="too long"),
        pytest.param("a@" + "ä." * 60 + "org", id="too long as DNS has it"),
        pytest.param("ada@" + "ä" * 60 + ".example", id="a label too long as DNS has it"),
        pytest.param("ada@☃.example", id="a domain that IDNA 2008 refuses"),
        pytest.param("ada@a。。example", id="two dots in another script"),
    ],
)
def test_malformed_email_address_is_refused(email: str) -> None:
    """Text that cannot be an address, or has invisible characters, is refused."""
    assert problem_with_email(email)


@pytest.mark.parametrize(
    ("typed", "folded"),
    [
        pytest.param(" Ada@Example.ORG ", "ada@example.org", id="capitals and blanks around"),
        pytest.param("Ada@Bücher.Example", "ada@xn--bcher-kva.example", id="domain in A-labels"),
        pytest.param("ada@XN--BCHER-KVA.example", "ada@xn--bcher-kva.example", id="A-labels typed"),
        pytest.param("ada@bu\u0308cher.example", "ada@xn--bcher-kva.example", id="decomposed"),
        pytest.param("ada@bücher。example。", "ada@xn--bcher-kva.example", id="other dots"),
        pytest.param("ada@straße.example", "ada@xn--strae-oqa.example", id="sharp s in a domain"),
        pytest.param("Strauß@example.org", "strauß@example.org", id="sharp s before the @"),
        pytest.param("E\u0301@example.org", "é@example.org", id="local part in NFC"),
        pytest.param("J\u030c@example.org", "ǰ@example.org", id="in NFC only as a small letter"),
        pytest.param("Aⅷ@example.org", "aⅷ@example.org", id="look-alikes stay apart"),
        pytest.param("ada@☃.EXAMPLE", "ada@☃.example", id="no domain"),
        pytest.param("Ada", "ada", id="no address"),
    ],
)
def test_email_addresses_are_folded(typed: str, folded: str) -> None:
    """Local part in NFC and lower case, domain as DNS has it; folding again changes nothing."""
    assert fold_email(typed) == folded
    assert fold_email(folded) == folded


def test_shown_email_address_is_the_typed_one() -> None:
    """Only blanks around it are removed."""
    assert clean_email(" Ada@Straße.example ") == "Ada@Straße.example"
