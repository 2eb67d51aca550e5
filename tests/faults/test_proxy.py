"""The proxy in front of a real broker: everything that a client does goes through it; it can hold, cut and strike."""

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from stream_app.lab.broker import EmbeddedKafka, Listener
from stream_app.lab.broker.config import server_properties
from tests.faults.proxy import Gate, Trap
from tests.faults.steps import Step
from tests.faults.topics import read_topic
from tests.integration.harness import wait_for
from tests.integration.holding import kafka_for_a_proxy

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker with a second listener, and two topics."""
    with kafka_for_a_proxy(tmp_path_factory.mktemp("kafka")) as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        for future in admin.create_topics([NewTopic(name, 1, 1) for name in ("predictions", "log")]).values():
            future.result(30)
        yield broker


@pytest.fixture
def gate(broker: EmbeddedKafka) -> Iterator[Gate]:
    """The proxy in front of that listener."""
    listener = broker.listeners[0]
    gate = Gate("at_least_once", "predictions", "log", listener.port).start(listener.advertised)
    yield gate
    gate.stop()


class Client:
    """A producer that knows only the proxy's address."""

    def __init__(self, gate: Gate) -> None:
        self.producer = Producer(
            {"bootstrap.servers": f"127.0.0.1:{gate.port}", "linger.ms": 0, "log_level": 0}
        )
        self.acknowledged = 0

    def send(self, topic: str, value: bytes = b"v") -> None:
        self.producer.produce(topic, value, on_delivery=self._delivered)

    def _delivered(self, error: object, _: object) -> None:
        assert error is None, error
        self.acknowledged += 1

    def wait(self, n: int) -> None:
        wait_for(
            f"{n} acknowledgements", lambda: self.producer.poll(0.05) is None or self.acknowledged >= n, 30
        )


def test_all_goes_through_the_proxy(broker: EmbeddedKafka, gate: Gate) -> None:
    """The broker gives the proxy's port to clients of the proxy, and its own port to the others."""
    through = AdminClient({"bootstrap.servers": f"127.0.0.1:{gate.port}"}).list_topics(timeout=20)
    assert [b.port for b in through.brokers.values()] == [gate.port]
    around = AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=20)
    assert [b.port for b in around.brokers.values()] == [broker.port]


def test_a_black_hole(gate: Gate) -> None:
    """Nothing passes during a hold; requests sent meanwhile arrive when it ends, even after a reset."""
    client = Client(gate)
    client.send("predictions")
    client.wait(1)
    assert gate.progress.acknowledged
    gate.hold()
    client.send("predictions")
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        client.producer.poll(0.1)
    assert client.acknowledged == 1
    gate.release()
    client.wait(2)
    gate.hold()
    client.send("predictions")
    client.producer.poll(0.2)
    gate.reset()
    gate.release()
    client.wait(3)


def test_a_trap(broker: EmbeddedKafka, gate: Gate) -> None:
    """A trap strikes at the state record of a commit with outputs, which then never arrives."""
    struck: list[float] = []

    def strike() -> None:
        struck.append(time.monotonic())
        gate.hold()  # so that the client cannot send it again meanwhile

    trap = Trap(Step.OUTPUTS, strike)
    gate.arm(trap)
    client = Client(gate)
    client.send("log", b"without outputs before it")
    client.wait(1)
    assert not struck
    client.send("predictions")
    client.wait(2)
    client.send("log", b"state")
    assert trap.sprung.wait(10) and len(struck) == 1
    assert [m.value() for m in read_topic(broker.bootstrap, "log")] == [b"without outputs before it"]
    gate.release()
    client.wait(3)  # the trap is no longer set
    assert len(struck) == 1


def test_further_listeners_in_the_settings() -> None:
    """Without further listeners the broker's settings do not change; with them, each is opened and advertised."""
    plain = server_properties("data", 9092, 9093)
    assert "advertised" not in plain and "inter.broker.listener.name" not in plain
    lines = server_properties("data", 9092, 9093, listeners=[Listener("A", 1, 2)]).splitlines()
    assert "listeners=PLAINTEXT://127.0.0.1:9092,A://127.0.0.1:1,CONTROLLER://127.0.0.1:9093" in lines
    assert "advertised.listeners=PLAINTEXT://127.0.0.1:9092,A://127.0.0.1:2" in lines
    assert "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,A:PLAINTEXT" in lines
