"""The format of log lines, and what is never in them."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
from aiohttp.http_exceptions import BadHttpMessage

from webapp.http import logs
from webapp.http.metrics import Metrics


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, pymongo = logging.getLogger(), logging.getLogger("pymongo")
    before = (root.handlers[:], root.level, pymongo.level)
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], level, pymongo_level = before
    root.setLevel(level)
    pymongo.setLevel(pymongo_level)


def written(style: str, level: str = "DEBUG") -> io.StringIO:
    """Configure logging and return what it writes to."""
    stream = io.StringIO()
    logs.configure(style, level, stream)
    return stream


def test_json_record_is_always_one_line() -> None:
    """Line ends and tracebacks are escaped."""
    stream = written("json")

    logging.getLogger("some.library").error(
        "broken:\n%s", "here", exc_info=ValueError("two\nlines")
    )

    (line,) = stream.getvalue().splitlines()
    content = json.loads(line)
    assert set(content) == {"time", "level", "event", "logger", "message", "traceback"}
    assert (content["level"], content["event"]) == ("error", "log")
    assert content["message"] == "broken:\nhere"
    assert content["traceback"].endswith("ValueError: two\nlines")
    assert content["time"].endswith("Z")


def test_text_line_quotes_values_that_look_like_fields() -> None:
    """No value can be read as another line or field."""
    stream = written("text")

    logging.getLogger("webapp").info(
        "x", extra={"event": "sign_in", "fields": {"address": "::1", "label": "a=1 \n b"}}
    )

    assert stream.getvalue().splitlines() == [
        stream.getvalue()[:24] + ' info    sign_in address=::1 label="a=1 \\n b"'
    ]


def test_text_line_is_followed_by_the_traceback() -> None:
    """The traceback is on lines of its own."""
    stream = written("text")

    logging.getLogger("webapp").error("broken", exc_info=ValueError("what happened"))

    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("error   log broken logger=webapp")
    assert rest[-1] == "ValueError: what happened"


def test_debug_lines_of_the_driver_stay_off() -> None:
    """PyMongo's command logging shows password hashes and sealed values."""
    stream = written("json")

    logging.getLogger("pymongo.command").debug("a command")
    logging.getLogger("pymongo.client").warning("a warning")

    assert "a command" not in stream.getvalue()
    assert "a warning" in stream.getvalue()


def test_bytes_that_could_not_be_parsed_are_not_logged() -> None:
    """The parser quotes the line, perhaps with the cookie; other errors are logged."""
    stream = written("json")
    server = logging.getLogger("aiohttp.server")

    server.error("Error handling request", exc_info=BadHttpMessage("Cookie: session=private"))
    server.error("Unhandled exception", exc_info=ValueError("another fault"))

    assert "private" not in stream.getvalue()
    assert "another fault" in stream.getvalue()


def test_warnings_go_through_logging() -> None:
    """Python's own warnings are log lines too."""
    stream = written("json")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure("json", "INFO", stream)
        warnings.warn("outdated", DeprecationWarning, stacklevel=1)

    assert json.loads(stream.getvalue())["logger"] == "py.warnings"


def test_configuring_twice_does_not_double_the_lines() -> None:
    """One handler, one filter."""
    written("json")
    stream = written("json")

    logging.getLogger("webapp").info("once")

    assert len(stream.getvalue().splitlines()) == 1


def test_unknown_method_is_counted_as_other() -> None:
    """A client cannot create any number of labels."""
    metrics = Metrics()

    for method in ("GET", "BREW", "BREW2"):
        metrics.request("/", method, 405, 0.001)

    text = metrics.text().decode()
    assert 'webapp_requests_total{method="GET",route="/",status="405"} 1.0' in text
    assert 'webapp_requests_total{method="other",route="/",status="405"} 2.0' in text
    assert 'webapp_request_seconds_count{route="/"} 3.0' in text
    assert "BREW" not in text
