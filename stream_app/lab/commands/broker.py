"""`foreclick broker start | stop | status`: a real Kafka on this machine."""

import json
import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from stream_app.lab.broker import BrokerEndedError, BrokerInfo, EmbeddedKafka
from stream_app.lab.broker import status as broker_status

NOT_RUNNING = 3  #: exit code of `status`, the same as that of service managers

app = typer.Typer(
    help="Run a real Apache Kafka on this machine: one node, no Docker, no installed Java.",
    add_completion=False,
)

DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the records of the broker. Default: broker in FORECLICK_DATA_DIR (.foreclick)."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def start(
    *,
    data_dir: DataDir = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 for any free port.")
    ] = 9092,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Run until Ctrl-C, then stop the broker.")
    ] = False,
    heap_mb: Annotated[int, typer.Option(min=128, help="Java heap in MB.")] = 512,
    timeout_s: Annotated[float, typer.Option(min=1, help="Seconds until Kafka must be ready.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Start the broker and return once it serves requests; it continues to run."""
    folder = _folder(data_dir)
    broker = EmbeddedKafka(folder, port=port, heap_mb=heap_mb)
    if foreground:
        _stay(broker, timeout_s, as_json)
    else:
        _start(broker, timeout_s)
        _say_started(broker, f"foreclick broker stop --data-dir {shlex.quote(str(folder))}", as_json)


@app.command()
def stop(
    data_dir: DataDir = None,
    timeout_s: Annotated[float, typer.Option(min=0, help="Seconds until the broker is killed.")] = 30.0,
) -> None:
    """Stop the broker; its records stay for the next start."""
    folder = _folder(data_dir)
    info = broker_status(folder)
    if info is None:
        typer.echo(f"No broker runs on {folder}.")
        return
    clean = EmbeddedKafka.attach(folder).stop(timeout_s)
    typer.echo(
        f"Kafka on {info.bootstrap} stopped"
        + ("." if clean else f" by force: it did not stop within {timeout_s:g} s.")
    )


@app.command()
def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show whether the broker is running; the exit code is 0 if it is, 3 if it is not."""
    folder = _folder(data_dir)
    info = broker_status(folder)
    if as_json:
        typer.echo(json.dumps({"running": info is not None, "data_dir": str(folder), **_facts(info)}))
    elif info is not None:
        typer.echo(f"Kafka runs on {info.bootstrap} (process {info.pid}), records in {folder}.")
    else:
        typer.echo(f"No broker runs on {folder}.")
    if info is None:
        raise typer.Exit(NOT_RUNNING)


def _folder(data_dir: Path | None) -> Path:
    return data_dir or Path(os.environ.get("FORECLICK_DATA_DIR") or ".foreclick") / "broker"


def _facts(info: BrokerInfo | None) -> dict[str, str | int]:
    if info is None:
        return {}
    return {"bootstrap": info.bootstrap, "pid": info.pid, "cluster_id": info.cluster_id}


def _say_started(broker: EmbeddedKafka, how_to_stop: str, as_json: bool) -> None:
    if as_json:
        info = broker_status(broker.data_dir)
        typer.echo(
            json.dumps({"running": info is not None, "data_dir": str(broker.data_dir), **_facts(info)})
        )
        return
    typer.echo(f"Kafka runs on {broker.bootstrap} (process {broker.pid}), records in {broker.data_dir}.")
    typer.echo(f"  a worker on it:  FORECLICK_BROKERS={broker.bootstrap} foreclick worker")
    typer.echo(f"  to stop it:      {how_to_stop}")


def _start(broker: EmbeddedKafka, timeout_s: float) -> None:
    broker.start(timeout_s, progress=lambda text: typer.echo(text, err=True))


def _stay(broker: EmbeddedKafka, timeout_s: float, as_json: bool) -> None:
    """Start the broker and wait for its end. Stop it on Ctrl-C or SIGTERM, which can raise exceptions at any line."""
    try:
        _start(broker, timeout_s)
        _say_started(broker, "Ctrl-C", as_json)
        code = broker.wait()
    finally:
        broker.stop()
    raise BrokerEndedError(code, broker.data_dir / "logs" / "kafka.log")
