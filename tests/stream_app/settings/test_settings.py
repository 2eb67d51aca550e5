"""Settings: their sources and precedence, and all mistakes reported at once."""

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.contract.topics import SHOP
from stream_app.errors import ForeclickError, SettingsError
from stream_app.lab.generated_docs.settings_page import settings_page
from stream_app.settings import DAY_MS, Settings, fields, load_settings
from stream_app.settings.sources import Field, expected

FIELDS = {field.name: field for field in fields()}


def value_of(settings: Settings, field: Field) -> Any:
    found: Any = settings
    for key in field.path:
        found = getattr(found, key)
    return found


def problems(**sources: Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(**{"env": {}, **sources})
    return caught.value.problems


def values_of(field: Field) -> st.SearchStrategy[Any]:
    """Draw any valid value of the field, as a Python value."""
    meta = field.meta
    if field.base is int:
        high = meta.le if meta.le is not None else 10**6
        return st.integers(meta.ge, high)
    if field.base is float:
        low = meta.ge if meta.ge is not None else meta.gt
        return st.floats(low, meta.le if meta.le is not None else 1e6, exclude_min=meta.ge is None)
    if field.base is bool:
        return st.booleans()
    if get_origin(field.base) is Literal:
        return st.sampled_from(get_args(field.base))
    if field.base is Path:
        return st.sampled_from(["a", "some/folder", "/abs/folder"]).map(Path)
    return {
        "brokers": st.lists(st.sampled_from(["a:1", "kafka-1.shop:9092", "[::1]:65535"]), min_size=1).map(
            tuple
        ),
        "web": st.sampled_from(["", "127.0.0.1:0", "0.0.0.0:6066"]),
        "model_name": st.sampled_from(["", "shop", "gru-2"]),
        "model_not_before": st.sampled_from(["", "2026-11-27", "2026-11-27T08:00:00Z"]),
        "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:3"]),
        "group": st.from_regex(r"[A-Za-z0-9._-]{1,100}", fullmatch=True),
        "instance_id": st.from_regex(r"[A-Za-z0-9._-]{0,100}", fullmatch=True),
        "topic_prefix": st.from_regex(r"[A-Za-z0-9._-]{0,100}", fullmatch=True),
    }[field.name]


#: Settings without a meaning on their own are tested with others, in `test_security.py` and `test_web.py`.
ALONE = [name for name in FIELDS if not name.startswith(("web_", "kafka_"))]

one_value = st.sampled_from(ALONE).flatmap(lambda name: st.tuples(st.just(name), values_of(FIELDS[name])))


def as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_defaults_without_any_source() -> None:
    """The defaults are a local broker, the web port of the design, and at_least_once."""
    settings = load_settings(env={})
    assert settings == Settings()
    assert settings.brokers == ("127.0.0.1:9092",)
    assert settings.web_address == ("127.0.0.1", 6066)
    assert settings.guarantee == "at_least_once"


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `env` the variables of the process count."""
    monkeypatch.setenv("FORECLICK_K", "7")
    assert load_settings().k == 7


def test_names_that_programs_rely_on() -> None:
    """The variables of the design's section 8 exist under exactly these names."""
    fixed = (
        "BROKERS GROUP MODEL DEVICE WEB DATA_DIR GUARANTEE MAX_DELAY_MS LATENESS_MS HORIZON_MS TOPIC_PREFIX"
    )
    assert {f"FORECLICK_{name}" for name in fixed.split()} <= {field.env for field in FIELDS.values()}


def test_every_setting_is_documented_and_its_default_is_valid() -> None:
    """Each declaration has a line of text, describes the expected value, and accepts its own default."""
    for field in FIELDS.values():
        assert field.doc and "\n" not in field.doc, field.name
        assert expected(field), field.name
        if field.default is not None:
            assert value_of(load_settings(env={field.env: as_text(field.default)}), field) == field.default


@given(one_value)
def test_any_valid_value_arrives_from_every_source(chosen: tuple[str, Any]) -> None:
    """A valid value is the same from the environment, as an option's text and as a typed option."""
    name, value = chosen
    field = FIELDS[name]
    # Some settings depend on each other; the other one is set to match.
    beside = {
        "session_timeout_ms": {"heartbeat_ms": 100},
        "heartbeat_ms": {"session_timeout_ms": 1_800_000},
        "max_future_ms": {"lateness_ms": 30 * DAY_MS},
    }.get(name, {})
    text = as_text(value)
    for env, options in (({field.env: text}, {}), ({}, {name: text}), ({}, {name: value})):
        settings = load_settings(env=env, options={**beside, **options})
        assert value_of(settings, field) == value


@given(st.sampled_from([name for name in FIELDS if not name.startswith("web_")]), st.text(max_size=200))
def test_any_text_is_taken_or_refused_in_words(name: str, text: str) -> None:
    """A setting either accepts a text or names in one sentence what it expects."""
    try:
        settings = load_settings(env={FIELDS[name].env: text})
    except SettingsError as error:
        (problem,) = error.problems
        assert FIELDS[name].env in problem or re.search("heartbeat_ms|max_future_ms", problem)
    else:
        assert isinstance(settings, Settings)


def test_later_sources_win(tmp_path: Path) -> None:
    """Defaults < file < environment < options, one setting at a time."""
    file = tmp_path / "f.toml"
    file.write_text('group = "file"\nk = 3\nmax_batch = 30\n[rules]\nclicks_1m = 9\namount_jump = 2.5\n')
    env = {"FORECLICK_GROUP": "env", "FORECLICK_K": "4", "FORECLICK_RULES_CLICKS_1M": "10"}
    settings = load_settings(file, env, {"group": "option", "max_delay_ms": None})
    assert (settings.group, settings.k, settings.max_batch, settings.max_delay_ms) == ("option", 4, 30, 3)
    assert (settings.rules.clicks_1m, settings.rules.amount_jump) == (10, 2.5)


def test_file_named_by_the_environment(tmp_path: Path) -> None:
    """`FORECLICK_CONFIG` names the file; `--config` overrides it."""
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text('brokers = ["a:1", "b:2"]')
    two.write_text('brokers = "c:3"')
    env = {"FORECLICK_CONFIG": str(one)}
    assert load_settings(env=env).bootstrap == "a:1,b:2"
    assert load_settings(two, env).bootstrap == "c:3"


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    """One error lists the mistakes of every source, each with its place and the expected value."""
    file = tmp_path / "f.toml"
    file.write_text("max_batc = 3\nmax_batch = true\n[rules]\nclicks = 3\nsurprise_p = 2\n")
    env = {"FORECLICK_MAX_DELY_MS": "3", "FORECLICK_K": "", "OTHER": "x"}
    found = problems(config=file, env=env, options={"emit": "x", "grup": "a"})
    assert [
        "max_batc: did you mean max_batch?" in found[0],
        "rules.clicks: did you mean rules.clicks_1m?" in found[1],
        "FORECLICK_MAX_DELY_MS is unknown: did you mean FORECLICK_MAX_DELAY_MS?" in found[2],
        "--grup is unknown: did you mean group?" in found[3],
    ] == [True] * 4
    rest = "\n".join(found[4:])
    assert f"file {file}, key max_batch, is True, expected a whole number, at least 1" in rest
    assert f"file {file}, key rules.surprise_p, is 2, expected a number, at least 0, at most 1" in rest
    assert "variable FORECLICK_K is '', expected a whole number" in rest
    assert "option --emit is 'x', expected all or latest" in rest
    assert len(found) == 8


def test_the_text_of_the_error_counts_and_lists() -> None:
    """The text of the exception is the list, ready to be printed."""
    with pytest.raises(ForeclickError, match=re.escape("2 settings are wrong:\n  - variable FORECLICK_")):
        load_settings(env={"FORECLICK_K": "none", "FORECLICK_EMIT": "some"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("brokers", "localhost"),
        ("brokers", "a:0"),
        ("brokers", ""),
        ("brokers", "a:99999"),
        ("web", "6066"),
        ("device", "gpu"),
        ("group", "two words"),
        ("topic_prefix", "a/b"),
        ("rules_surprise_p", "nan"),
        ("rules_amount_jump", "inf"),
        ("max_delay_ms", "5ms"),
        ("lateness_ms", "-1"),
        ("correct_clock", "maybe"),
        ("data_dir", ""),
    ],
)
def test_wrong_values(name: str, text: str) -> None:
    """Values that look almost right are refused with a text of what is expected."""
    field = FIELDS[name]
    assert problems(env={field.env: text}) == (
        f"variable {field.env} is {text!r}, expected {expected(field)}",
    )


def test_heartbeats_must_fit_the_session() -> None:
    """Two settings that are valid alone but not together are found."""
    (problem,) = problems(options={"heartbeat_ms": 3000})
    assert "more than a third of session_timeout_ms (6000)" in problem


def test_a_clock_may_be_ahead_by_a_tenth_of_the_lateness() -> None:
    """A larger value is refused with the limit; its default is a tenth of the other default, and never too large."""
    assert load_settings(env={}).max_future_ms * 10 == load_settings(env={}).lateness_ms
    (problem,) = problems(options={"max_future_ms": 30_001})
    assert "more than a tenth of lateness_ms (300000)" in problem and problem.endswith("set at most 30000")
    load_settings(env={}, options={"max_future_ms": 60_000, "lateness_ms": 600_000})
    load_settings(env={}, options={"lateness_ms": 0})


def test_no_password_in_an_error(tmp_path: Path) -> None:
    """Neither a value with credentials nor the value of an unknown key is repeated."""
    file = tmp_path / "f.toml"
    file.write_text('sasl_password = "hunter2"\n[kafka]\nsasl_password = "hunter2"\n')
    env = {"FORECLICK_BROKERS": "user:hunter2@host:9092", "FORECLICK_SASL_PASSWORD": "hunter2"}
    found = problems(config=file, env=env)
    assert len(found) == 4
    assert not any("hunter2" in problem for problem in found)


@pytest.mark.parametrize("content", [None, b"k = ", b"\xff\xfe"])
def test_unreadable_file(tmp_path: Path, content: bytes | None) -> None:
    """A file that is missing, not TOML or not text is one clear problem."""
    file = tmp_path / "f.toml"
    if content is not None:
        file.write_bytes(content)
    (problem,) = problems(config=file)
    assert problem.startswith(f"file {file} ")


def test_variables_of_tests_and_the_broker_are_no_mistake() -> None:
    """Variables with our prefix that other code reads do not stop a worker."""
    env = {"FORECLICK_TEST_DATA": "x", "FORECLICK_CACHE_DIR": "y", "FORECLICK_MAVEN_URL": "z"}
    assert load_settings(env=env) == Settings()


def test_topic_names_take_the_prefix() -> None:
    """Inputs, outputs and the changelog have the prefix, so that two shops can share a cluster."""
    settings = load_settings(env={}, options={"topic_prefix": "eu.", "group": "g"})
    assert SHOP.of(settings).inputs == ("eu.clicks", "eu.browses", "eu.purchases")
    assert tuple(SHOP.of(settings).outputs.values()) == ("eu.predictions", "eu.flags", "eu.dead-letters")
    assert SHOP.of(settings).changelog == "eu.g-users-changelog"


def test_an_empty_model_or_web_turns_it_off() -> None:
    """Empty variables, as compose files leave them, mean none."""
    settings = load_settings(env={"FORECLICK_MODEL": "", "FORECLICK_WEB": ""})
    assert settings.model is None
    assert settings.web_address is None


def test_settings_are_frozen() -> None:
    """Settings are immutable."""
    with pytest.raises(AttributeError):
        Settings().k = 3  # type: ignore[misc]
    assert msgspec.structs.replace(Settings(), k=3).k == 3


def test_the_reference_page_is_up_to_date() -> None:
    """`docs/settings.md` matches the declarations."""
    page = Path(__file__).parents[3] / "docs" / "settings.md"
    assert page.read_text() == settings_page(), (
        "run: python -m stream_app.lab.generated_docs.settings_page > docs/settings.md"
    )
