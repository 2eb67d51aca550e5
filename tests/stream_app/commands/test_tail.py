"""`foreclick tail` on a real broker: both encodings, all three topics, bad bytes."""

import json
from typing import Any

import msgpack
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.structs import ConsumerRecord

from stream_app.cli import main
from stream_app.commands.printable import duration, printable
from stream_app.commands.tail import (
    dead_letter_json,
    dead_letter_line,
    flag_line,
    prediction_line,
    value_json,
)
from stream_app.contract.topics import SHOP
from stream_app.kafka.topics import ensure_topics
from stream_app.lab.broker import EmbeddedKafka
from stream_app.settings import load_settings

pytestmark = [pytest.mark.kafka, pytest.mark.usefixtures("restored")]

PREDICTION = {
    "id": "clicks-0-1",
    "user_id": "u1",
    "ts": 1,
    "event_id": None,
    "model": "gru@1",
    "next_event": {"click": 0.6, "browse": 0.3, "purchase": 0.1},
    "purchase_probability": 0.12,
    "items": [{"item_id": "[red]7", "score": 0.25}],
}
FLAG = {
    "id": "clicks-0-1",
    "user_id": "u1",
    "ts": 1,
    "event_id": None,
    "model": "gru@1",
    "kind": "fraud",
    "score": 0.98,
    "reasons": [{"code": "click_rate", "value": 88, "expected": 60}],
}
HEADERS = [
    ("foreclick.reason", b"bad_json"),
    ("__streams.errors.topic", b"clicks"),
    ("__streams.errors.partition", b"0"),
    ("__streams.errors.offset", b"17"),
    ("__streams.errors.message", b"not JSON"),
]


@pytest.fixture
async def written(kafka: EmbeddedKafka, prefix: str) -> tuple[str, ...]:
    """The options for a shop whose outputs are two predictions, a flag and a dead letter."""
    options = {"brokers": kafka.bootstrap, "topic_prefix": prefix, "partitions": 1}
    settings = load_settings(env={}, options=options)
    await ensure_topics(settings, SHOP.of(settings))
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        await producer.send_and_wait(f"{prefix}predictions", json.dumps(PREDICTION).encode(), b"u1")
        await producer.send_and_wait(f"{prefix}predictions", msgpack.packb(PREDICTION), b"u1")
        await producer.send_and_wait(f"{prefix}flags", json.dumps(FLAG).encode(), b"u1")
        await producer.send_and_wait(f"{prefix}dead-letters", b"\xff{bad", b"u\xff", headers=HEADERS)
    return ("--brokers", kafka.bootstrap, "--topic-prefix", prefix, "--from-beginning")


def lines(capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    with pytest.raises(SystemExit) as caught:
        main(["tail", *args])
    assert not caught.value.code
    return capsys.readouterr().out.splitlines()


def test_readable_lines(written: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Each output is one line with the important values; an item's name is never interpreted as markup."""
    predictions = lines(capsys, "predictions", "--limit", "2", *written)
    assert len(predictions) == 2
    for line in predictions:
        assert "u1" in line and "click  60%" in line and "buys  12%" in line and "[red]7 0.25" in line
    (flag,) = lines(capsys, "flags", "--limit", "1", *written)
    assert "fraud 0.980" in flag and "click_rate 88 (limit 60)" in flag
    (dead,) = lines(capsys, "dead-letters", "--limit", "1", *written)
    assert "bad_json  clicks-0-17  not JSON" in dead


def test_a_prediction_without_a_model_is_readable() -> None:
    """The nulls of a worker without a model are shown as missing."""
    value = {**PREDICTION, "next_event": None, "purchase_probability": None, "items": [], "model": "none"}
    record = ConsumerRecord("predictions", 0, 0, 1, 0, b"u1", json.dumps(value).encode(), None, 0, 0, ())
    assert "no model" in prediction_line(record).plain


def record_of(value: object, key: bytes = b"u1", headers: Any = ()) -> ConsumerRecord:
    body = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
    return ConsumerRecord("t", 0, 0, 1, 0, key, body, None, 0, 0, headers)


def test_the_chance_of_a_purchase_names_its_horizon() -> None:
    """The line shows within which time the user is likely to buy."""
    shown = prediction_line(record_of({**PREDICTION, "horizon_ms": 1_800_000})).plain
    assert "buys within 30 min  12%" in shown
    assert [duration(ms) for ms in (1000, 90_000, 7_200_000, 604_800_000, 1500)] == [
        "1 s", "90 s", "2 h", "7 d", "1500 ms",
    ]  # fmt: skip


def test_a_line_says_which_event_it_is_about() -> None:
    """Type and place of the event distinguish lines of one user and moment; its time is shown if it differs."""
    of = {**PREDICTION, **FLAG, "id": "shop-purchases-12-345"}
    for line in (prediction_line, flag_line):
        lines = [line(record_of({**of, "ts": ts})).plain for ts in (1, 1_767_225_660_000)]
        assert all("purchase 12-345" in each for each in lines)
        assert ["of 2026-01-01 00:01:00 UTC" in each for each in lines] == [False, True]
        assert "event ?" in line(record_of({**of, "id": 7, "ts": "x"})).plain


def test_a_flag_shows_the_limit_that_was_broken() -> None:
    """Usual value and limit are shown separately; flags of older versions have only the limit."""
    reasons = [
        {"code": "amount_jump", "value": 500.0, "expected": 20.0, "limit": 160.0},
        {"code": "purchase_rate", "value": 11, "expected": 10, "limit": 10},
        {"code": "click_rate", "value": 61, "expected": 60},
    ]
    shown = flag_line(record_of({**FLAG, "reasons": reasons})).plain
    assert (
        "amount_jump 500 (usually 20, limit 160); purchase_rate 11 (limit 10); click_rate 61 (limit 60)"
        in shown
    )


#: Title of the window, clear screen, C1's own CSI, right-to-left override, line separator, a tag character, DEL.
EVIL = "\x1b]0;PWNED\x07\x1b[2J\x9b31m\u202egnp\u2028\U000e0041\x7f\r\n\t"


def test_nothing_of_a_user_reaches_the_terminal_as_a_command() -> None:
    """Whatever ids, items, keys, headers and values contain, a line has only visible characters."""
    evil = {
        **PREDICTION,
        "user_id": EVIL,
        "items": [{"item_id": EVIL, "score": 0.5}],
        "next_event": {EVIL: 0.5},
    }
    flag = {
        **FLAG,
        "user_id": EVIL,
        "kind": EVIL,
        "reasons": [{"code": EVIL, "value": EVIL, "expected": EVIL}],
    }
    headers = [(name, EVIL.encode()) for name, _ in HEADERS]
    lines = [
        prediction_line(record_of(evil)).plain,
        flag_line(record_of(flag)).plain,
        dead_letter_line(record_of(EVIL.encode(), EVIL.encode(), headers)).plain,
    ]
    for line in lines:
        assert line.isprintable()
        assert "\\x1b]0;PWNED\\x07" in line
    assert printable("a\\x1b ü😀") == "a\\\\x1b ü😀"


def test_json_of_a_user_reaches_the_terminal_escaped() -> None:
    """A line of JSON has only visible characters and the same meaning; an invalid value is an empty object."""
    evil = {**PREDICTION, "user_id": EVIL}
    as_json = value_json(record_of(json.dumps(evil, ensure_ascii=False, indent=1).encode()))
    assert as_json.isprintable() and json.loads(as_json) == evil
    packed = value_json(record_of(msgpack.packb(evil)))
    assert packed.isprintable() and json.loads(packed) == evil
    dead = dead_letter_json(record_of(b"{", EVIL.encode(), [("foreclick.reason", EVIL.encode())]))
    assert dead.isprintable() and json.loads(dead)["reason"] == EVIL
    assert value_json(record_of(b"{\x1b[2J")) == value_json(record_of(b'{"a":"\xff"}')) == "{}"


def test_json_lines(written: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """With JSON, programs get the unchanged values, msgpack as JSON, and the bytes of a dead letter."""
    predictions = [
        json.loads(each) for each in lines(capsys, "predictions", "--json", "--limit", "2", *written)
    ]
    assert predictions == [PREDICTION, PREDICTION]
    (flag,) = lines(capsys, "flags", "--json", "--limit", "1", *written)
    assert json.loads(flag) == FLAG
    (dead,) = map(json.loads, lines(capsys, "dead-letters", "--json", "--limit", "1", *written))
    assert (dead["reason"], dead["headers"]["__streams.errors.offset"]) == ("bad_json", "17")
    assert (dead["key_base64"], dead["value_base64"]) == ("df8=", "/3tiYWQ=")


def test_a_missing_topic_is_told(
    kafka: EmbeddedKafka, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong prefix gives one sentence and no endless wait."""
    with pytest.raises(SystemExit) as caught:
        main(["tail", "flags", "--brokers", kafka.bootstrap, "--topic-prefix", prefix])
    assert caught.value.code == 1
    assert f"topic {prefix}flags is missing" in capsys.readouterr().err
