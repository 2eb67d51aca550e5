"""Rights on topics, groups and transactional ids: the smallest sufficient set, and the errors without one of them."""

import asyncio
from pathlib import Path

import pytest

from stream_app.contract.topics import SHOP
from stream_app.kafka.security import RightsError
from stream_app.kafka.topics import require_topics
from stream_app.lab.generator import GeneratorSettings, write
from tests.integration.harness import Start, clicks, committed, make_topics, produce, wait_for
from tests.integration.secure_broker import PASSWORD, Right, SecureKafka
from tests.integration.security_helpers import answers_all, run, settings_of

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]


def least(prefix: str) -> dict[str, Right]:
    """The rights that a worker needs, by name, as in docs/security.md."""
    rights = {f"Read on topic {prefix}{t}": Right("TOPIC", prefix + t, "READ") for t in ("clicks", "browses")}
    rights |= {f"Read on topic {prefix}purchases": Right("TOPIC", f"{prefix}purchases", "READ")}
    for name in ("predictions", "flags", "dead-letters"):
        rights[f"Write on topic {prefix}{name}"] = Right("TOPIC", prefix + name, "WRITE")
    changelog = f"{prefix}{prefix}group-users-changelog"
    rights[f"Read on topic {changelog}"] = Right("TOPIC", changelog, "READ")
    rights[f"Write on topic {changelog}"] = Right("TOPIC", changelog, "WRITE")
    rights[f"Read on group {prefix}group"] = Right("GROUP", f"{prefix}group", "READ")
    ids = Right("TRANSACTIONAL_ID", f"{prefix}group-", "WRITE", prefixed=True)
    rights[f"Write on transactional ids {prefix}group-*"] = ids
    return rights


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
async def test_a_worker_with_the_least_rights(
    secure: SecureKafka, prefix: str, start: Start, tmp_path: Path, password_file: Path, guarantee: str
) -> None:
    """With only the documented rights, a worker answers and commits, writes a dead letter and restarts."""
    await make_topics(secure.plain, prefix)
    user = f"{prefix}bob"
    secure.add_user(user)
    secure.grant(user, *least(prefix).values())
    login = secure.login_settings(user) | {"kafka_sasl_password_file": password_file, "guarantee": guarantee}
    worker = start(tmp_path / "a", secure.login, prefix, **login).wait_ready()
    await asyncio.to_thread(answers_all, secure, prefix, worker)
    produce(secure.plain, prefix, [clicks(1)[0]._replace(value=b"{")])
    wait_for(
        "the dead letter", lambda: worker.metric("foreclick_dead_letters_total", reason="malformed") == 1
    )
    assert worker.stop() == 0
    again = start(tmp_path / "b", secure.login, prefix, **login).wait_ready()
    assert again.metric("foreclick_recovered_records_total") > 0
    assert again.stop() == 0


async def test_each_missing_right_is_named(secure: SecureKafka, prefix: str) -> None:
    """Without any right, all are listed at once; without one of them, only that one; with all of them, none."""
    await make_topics(secure.plain, prefix)
    user = f"{prefix}bob"
    secure.add_user(user)
    login = secure.login_settings(user) | {"kafka_sasl_password": PASSWORD}
    settings = settings_of(secure.login, prefix, **login)

    async def named() -> set[str]:
        try:
            await require_topics(settings, SHOP.of(settings))
        except RightsError as error:
            head, _, rest = str(error).partition(": ")
            assert head == f"user {user} lacks rights in Kafka"
            return set(rest.partition(";")[0].split(", "))
        return set()

    async def named_are(wanted: set[str]) -> None:
        # A change of rights takes effect a moment after the broker's answer.
        async with asyncio.timeout(20):
            while (found := await named()) != wanted:
                await asyncio.sleep(0.1)
        assert found == wanted

    rights = least(prefix)
    await named_are(set(rights))
    secure.grant(user, *rights.values())
    await named_are(set())
    for name, right in rights.items():
        secure.revoke(user, right)
        await named_are({name})
        secure.grant(user, right)
    await named_are(set())


def test_a_worker_and_short_commands_without_a_right(
    secure: SecureKafka, prefix: str, tmp_path: Path, password_file: Path
) -> None:
    """Each command names in one sentence the right it lacks, and ends with exit code 1."""
    asyncio.run(make_topics(secure.plain, prefix))
    user = f"{prefix}bob"
    secure.add_user(user)
    rights = least(prefix)
    lacking = f"Write on topic {prefix}predictions"
    secure.grant(user, *(right for name, right in rights.items() if name != lacking))
    login = secure.login_settings(user) | {"kafka_sasl_password_file": password_file}
    recording = tmp_path / "R"
    write(GeneratorSettings(events=100, users=20, items=20, categories=5), recording, lambda _: None)
    for words, right in (
        (["worker"], f"user {user} lacks rights in Kafka: {lacking};"),
        (["tail", "predictions"], f"user {user} lacks rights in Kafka: Read on topic {prefix}predictions;"),
        (["replay", str(recording)], f"Write on topic {prefix}clicks"),
        (["record", f"{recording}.new", "--topic", "flags"], f"Read on topic {prefix}flags;"),
    ):
        code, text = run(words, secure.login, prefix, tmp_path, **login)
        assert code == 1, (words, text)
        assert "Traceback" not in text
        assert right in text.strip().splitlines()[-1]


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
async def test_a_right_that_is_taken_from_a_running_worker(
    secure: SecureKafka, prefix: str, start: Start, tmp_path: Path, password_file: Path, guarantee: str
) -> None:
    """A worker that loses the right to write stops, names the right, and has not committed too much."""
    await make_topics(secure.plain, prefix)
    user = f"{prefix}bob"
    secure.add_user(user)
    rights = least(prefix)
    secure.grant(user, *rights.values())
    login = secure.login_settings(user) | {"kafka_sasl_password_file": password_file, "guarantee": guarantee}
    worker = start(tmp_path / "a", secure.login, prefix, **login).wait_ready()
    await asyncio.to_thread(answers_all, secure, prefix, worker)
    secure.revoke(user, rights[f"Write on topic {prefix}predictions"])
    produce(secure.plain, prefix, [r._replace(offset=r.offset + 50) for r in clicks(200)])
    code, text = worker.wait_end(90)
    assert code == 1
    last = text.strip().splitlines()[-1]
    assert "TopicAuthorizationFailed" in last and f"{prefix}predictions" in last, last
    topic = f"{prefix}clicks"
    assert sum(committed(secure.plain, f"{prefix}group", [topic])[topic]) == 200
