"""Copies predictions from Kafka into a SQLite table, each exactly once.

Usage, after pip install confluent-kafka:
python subscribe.py 127.0.0.1:9092 predictions predictions.db
"""

import json
import signal
import sqlite3
import sys

from confluent_kafka import Consumer, KafkaException

TABLE = """CREATE TABLE IF NOT EXISTS predictions
           (id TEXT PRIMARY KEY, user_id TEXT, ts INTEGER, purchase_probability REAL, items TEXT)"""


def main(brokers: str, topic: str, file: str) -> None:
    """Run until SIGTERM or Ctrl-C, then print how many predictions were new."""
    database = sqlite3.connect(file)
    database.execute(TABLE)
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": f"{topic}-to-sqlite",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,  # offsets are committed below, after the rows are on disk
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe([topic])
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    new = repeats = 0
    try:
        while not stopping:
            records = consumer.consume(500, timeout=1.0)
            with database:  # one transaction for all rows of this batch
                for record in records:
                    if record.error():
                        raise KafkaException(record.error())
                    found = json.loads(record.value())
                    row = (
                        found["id"],
                        found["user_id"],
                        found["ts"],
                        found["purchase_probability"],
                        json.dumps(found["items"]),
                    )
                    # The primary key drops repeats: a row with this id is already there.
                    added = database.execute("INSERT OR IGNORE INTO predictions VALUES (?, ?, ?, ?, ?)", row)
                    new += added.rowcount
                    repeats += 1 - added.rowcount
            if records:
                consumer.commit(asynchronous=False)
    finally:
        consumer.close()
        database.close()
    print(f"{new} new predictions, {repeats} repeats dropped")


if __name__ == "__main__":
    main(*sys.argv[1:])
