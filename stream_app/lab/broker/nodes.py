"""Several Kafka nodes on this machine, for tests that one node does not allow, such as a change of leader."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from stream_app.lab.broker.embedded import EmbeddedKafka
from stream_app.lab.broker.install import install
from stream_app.lab.broker.ports import free_port
from stream_app.lab.broker.storage import format_storage

CONTROLLER = 1  # the only one, so it must stay up


class KafkaNodes:
    """Nodes 1 to `count`, each a process on a folder of its own below `folder`.

    Node 1 is broker and controller, the others are brokers. Internal topics have `copies` replicas, of which all
    but one must be in sync. `properties` override Kafka's settings on every node.
    """

    def __init__(self, folder: Path, count: int = 3, properties: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._properties = dict(properties or {})
        self._controller_port = free_port()
        copies, in_step = str(count), str(max(1, count - 1))
        self._internal = {
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": in_step,
            "min.insync.replicas": in_step,
            "default.replication.factor": copies,
        }
        self.nodes = [self._node(number) for number in range(1, count + 1)]

    def _node(self, number: int) -> EmbeddedKafka:
        port = free_port(besides=self._controller_port)
        listeners = [f"PLAINTEXT://127.0.0.1:{port}"]
        if number == CONTROLLER:
            listeners.append(f"CONTROLLER://127.0.0.1:{self._controller_port}")
        properties = {
            "node.id": str(number),
            "process.roles": "broker,controller" if number == CONTROLLER else "broker",
            "controller.quorum.voters": f"{CONTROLLER}@127.0.0.1:{self._controller_port}",
            "listeners": ",".join(listeners),
            **self._internal,
            **self._properties,
        }
        return EmbeddedKafka(self._folder / f"node-{number}", port, 384, properties)

    @property
    def bootstrap(self) -> str:
        """The addresses of all nodes, for clients."""
        return ",".join(node.bootstrap for node in self.nodes)

    def __getitem__(self, number: int) -> EmbeddedKafka:
        """The node with this number, which is its id in Kafka."""
        return self.nodes[number - 1]

    def start(self) -> Self:
        """Start all nodes. Raises the same errors as `EmbeddedKafka.start`, after which no node is left running."""
        checkpoint = install().bootstrap_checkpoint
        with ExitStack() as started:
            cluster_id = ""
            for number, node in enumerate(self.nodes, 1):
                storage = node.data_dir / "data"
                storage.mkdir(parents=True, exist_ok=True)
                cluster_id = format_storage(storage, checkpoint, number, cluster_id)
                node.start()
                started.callback(node.stop)
            started.pop_all()
        return self

    def stop(self) -> None:
        """Shut all nodes down, the controller last."""
        for node in reversed(self.nodes):
            node.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
