"""Logs: our lines and those of libraries have one format, and contain no secrets."""

import io
import json
import logging
import time
import warnings
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from stream_app.ops.log_throttle import MOST, ThrottledHandler
from stream_app.ops.logging import MASK, redact, setup_logging


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Undo what a test sets for the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def json_lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_from_us_and_from_libraries() -> None:
    """A structured record and a library's record are one JSON object each, with level, name and time."""
    stream = io.StringIO()
    setup_logging("info", "json", stream)
    structlog.stdlib.get_logger("foreclick.test").info("recovered", partition=3, records=1000)
    logging.getLogger("faust.app").warning("lost %s of %d", "contact", 2)
    ours, theirs = json_lines(stream)
    assert (ours["message"], ours["level"], ours["partition"], ours["records"]) == (
        "recovered",
        "info",
        3,
        1000,
    )
    assert (theirs["message"], theirs["level"], theirs["logger"]) == (
        "lost contact of 2",
        "warning",
        "faust.app",
    )
    assert str(ours["timestamp"]).endswith("Z")


def test_console_lines_are_for_a_person() -> None:
    """The console format has message and values, without escape codes if the output is not a terminal."""
    stream = io.StringIO()
    setup_logging("info", "console", stream)
    structlog.stdlib.get_logger("foreclick.test").info("recovered", partition=3)
    text = stream.getvalue()
    assert "recovered" in text and "partition=3" in text
    assert "\x1b" not in text


def test_levels() -> None:
    """Nothing below the level is written; some libraries log at info only if the level is debug."""
    stream = io.StringIO()
    setup_logging("info", "json", stream)
    structlog.stdlib.get_logger("foreclick.test").debug("hidden")
    logging.getLogger("aiokafka.consumer").info("hidden")
    logging.getLogger("aiokafka.consumer").warning("seen")
    assert [line["message"] for line in json_lines(stream)] == ["seen"]
    setup_logging("debug", "json", stream)
    logging.getLogger("aiokafka.consumer").info("now seen")
    assert json_lines(stream)[-1]["message"] == "now seen"


def test_a_second_set_up_replaces_the_first() -> None:
    """No line is written twice."""
    first, second = io.StringIO(), io.StringIO()
    setup_logging("info", "json", first)
    setup_logging("info", "json", second)
    logging.getLogger("x").info("once")
    assert first.getvalue() == ""
    assert len(json_lines(second)) == 1


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_are_masked_wherever_they_stand(form: str) -> None:
    """Secrets are masked by key, nested, in a text, in a URL, in a library's arguments and in a traceback."""
    stream = io.StringIO()
    setup_logging("info", form, stream)
    log = structlog.stdlib.get_logger("foreclick.test")
    log.info("connect", sasl_plain_password="hunter2", config={"api_token": "hunter2", "group": "g"})
    log.info("url kafka://user:hunter2@broker:9092/ used")
    logging.getLogger("aiokafka").warning("config %s", {"sasl_password": "hunter2", "acks": "all"})
    logging.getLogger("aiohttp").warning("Authorization: Bearer hunter2")
    try:
        raise ValueError("password=hunter2, refused")
    except ValueError:
        log.exception("failed")
    text = stream.getvalue()
    assert "hunter2" not in text
    assert text.count(MASK) >= 6
    assert "broker:9092" in text and "refused" in text and "all" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password=abc def", "password=***"),
        ("password=abc def ghi\nnext line", "password=***\nnext line"),
        ("sasl.password=abc def, acks=all", "sasl.password=***, acks=all"),
        ("sasl.jaas.config=a b; acks=all", "sasl.jaas.config=***; acks=all"),
        ("FORECLICK_KAFKA_SASL_PASSWORD=abc def user=bob", "FORECLICK_KAFKA_SASL_PASSWORD=*** user=bob"),
        ("FORECLICK_WEB_TOKEN = abc  def client.id = bob", "FORECLICK_WEB_TOKEN = *** client.id = bob"),
        ("password=abc) d]e f}", "password=***"),
        ('password="abc, def" refused', 'password="***" refused'),
        ("password='abc; x=1 def' refused", "password='***' refused"),
        (r'password="ab\"c d" refused', 'password="***" refused'),
        ('password="abc def', "password=***"),
        ("password='it's mine', refused", "password=***, refused"),
        ('{"token": "abc, def", "acks": 1}', '{"token": "***", "acks": 1}'),
        ('{"x": {"sasl_plain_password":"abc def"}}', '{"x": {"sasl_plain_password":"***"}}'),
        (r"said {\"token\": \"abc, def\", \"acks\": 1}", r"said {\"token\": \"***\", \"acks\": 1}"),
        ("{'client_secret': 'abc def', 'acks': 1}", "{'client_secret': '***', 'acks': 1}"),
        ("{'sasl_password': None, 'acks': 1}", "{'sasl_password': ***, 'acks': 1}"),
        ('private_key="--BEGIN\nabc\n--END" read', 'private_key="***" read'),
        ("GET /?token=abc&user=bob", "GET /?token=***&user=bob"),
        ("password=a&b c", "password=***"),
        ("Authorization: Bearer a,b c", "Authorization: ***"),
        ("Authorization: Basic abc\nHost: h", "Authorization: ***\nHost: h"),
        ("passphrase: abc def", "passphrase: ***"),
        (
            "the broker refuses the token, which may be expired",
            "the broker refuses the token, which may be expired",
        ),
        ("TokenError: the endpoint is gone", "TokenError: the endpoint is gone"),
        ("SASLError: 58, password=abc def", "SASLError: 58, password=***"),
    ],
)
def test_a_secret_is_masked_to_its_end(text: str, shown: str) -> None:
    """A secret with spaces, quotes and escapes is masked completely; the text after it stays if its end is clear."""
    assert redact(None, "info", {"event": text}) == {"event": shown}
    assert redact(None, "info", {"event": shown}) == {"event": shown}


def test_masking_a_long_text_takes_no_long_time() -> None:
    """Chosen log texts cannot make masking slow: its time grows with the length, not with the square of it."""
    n = 100_000
    texts = (
        "token" * n,
        "a" * n,
        "token=" + " " * n,
        "token=" + " a" * n,
        "token='" + "\\'" * n,
        "token=" * n,
    )
    began = time.process_time()
    for text in texts:
        redact(None, "info", {"event": text})
    assert time.process_time() - began < 10


keys = st.sampled_from(["password", "SASL_MECHANISM", "api_token", "client.secret", "group", "user_id", "k"])
values = st.recursive(
    st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(keys, values, max_size=4))
def test_masking_keeps_the_shape_and_hides_secret_keys(event: dict[str, object]) -> None:
    """Keys stay, values under a secret key are masked at every depth, and masking twice changes nothing more."""

    def check(before: object, after: object) -> None:
        if isinstance(before, dict):
            assert isinstance(after, dict) and list(before) == list(after)
            for key, value in before.items():
                if key in ("group", "user_id", "k"):
                    check(value, after[key])
                else:
                    assert after[key] == MASK
        elif isinstance(before, list):
            assert isinstance(after, list) and len(before) == len(after)
            for one, other in zip(before, after, strict=True):
                check(one, other)
        elif isinstance(before, int):
            assert before == after

    masked = redact(None, "info", dict(event))
    check(event, masked)
    assert redact(None, "info", masked) == masked


def test_ordinary_text_is_left_alone() -> None:
    """Masking does not remove text that only resembles a secret."""
    event = {"event": "user u:1 at 10:30, key=3, http://127.0.0.1:6066/metrics", "user": "a@b.c"}
    assert redact(None, "info", dict(event)) == event


def test_warnings_become_log_lines() -> None:
    """A library's warning is also a JSON line."""
    stream = io.StringIO()
    setup_logging("info", "json", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old habit", DeprecationWarning, stacklevel=1)
    (line,) = json_lines(stream)
    assert line["logger"] == "py.warnings" and "old habit" in str(line["message"])


def test_a_library_does_not_repeat_itself() -> None:
    """Lines that aiokafka repeats within 10 s are counted; lines of other libraries, and ours, are always shown."""
    now = 1000.0
    stream = io.StringIO()
    setup_logging("info", "json", stream)
    (handler,) = (h for h in logging.getLogger().handlers if isinstance(h, ThrottledHandler))
    handler._clock = lambda: now
    for attempt in range(5):
        logging.getLogger("aiokafka.conn").error("cannot reach %s (%d)", "broker", attempt)
        logging.getLogger("faust.app").error("faust %d", attempt)
        structlog.stdlib.get_logger("foreclick.test").error("ours")
    now += 10.0
    logging.getLogger("aiokafka.conn").error("cannot reach %s (%d)", "broker", 5)
    logging.getLogger("aiokafka.conn").error("something else")
    said = [str(line["message"]) for line in json_lines(stream)]
    assert [m for m in said if "cannot" in m] == [
        "cannot reach broker (0)",
        "cannot reach broker (5) (and 4 more like it)",
    ]
    assert len(said) == 2 + 5 + 5 + 1


def test_debug_shows_all_that_a_library_says() -> None:
    """At the level debug, each record is shown."""
    stream = io.StringIO()
    setup_logging("debug", "json", stream)
    for _ in range(3):
        logging.getLogger("aiokafka.conn").error("cannot reach it")
    assert len(json_lines(stream)) == 3


def test_messages_that_are_all_different_take_no_memory() -> None:
    """Different lines are all shown, and at most a thousand are remembered."""
    handler = ThrottledHandler(stream := io.StringIO(), ("aiokafka",), clock=lambda: 0.0)
    for i in range(3 * MOST):
        handler.handle(logging.LogRecord("aiokafka", logging.ERROR, "", 0, f"message {i}", None, None))
    assert stream.getvalue().count("message") == 3 * MOST
    assert len(handler._seen) <= MOST
