"""The forms as Python objects; what they accept is tested over HTTP."""

from __future__ import annotations

import pytest

from webapp.accounts.forms import Confirmation, Form, PasswordChange, SignIn, SignUp, from_page

PASSWORD = "orchid-lamp-that-stays-out-of-logs"
FIELDS = {
    "username": "Ada",
    "email": "ada@example.org",
    "password": PASSWORD,
    "current_password": PASSWORD,
    "new_password": PASSWORD,
}


@pytest.mark.parametrize("kind", [SignUp, SignIn, PasswordChange, Confirmation])
def test_repr_of_a_form_shows_no_password(kind: type[Form]) -> None:
    """A form that gets into a log line or an error message does not show its passwords."""
    form = from_page(kind, FIELDS)

    assert PASSWORD in vars(form).values()
    assert PASSWORD not in repr(form)
