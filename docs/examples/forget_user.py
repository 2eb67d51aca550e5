"""Deletes the state of one user from the changelog. All workers of the group must be stopped.

Usage, after pip install confluent-kafka:
python forget_user.py 127.0.0.1:9092 foreclick-users-changelog u17
"""

import sys

from confluent_kafka import Producer


def main(brokers: str, changelog: str, user_id: str) -> None:
    """Write a tombstone (a record without a value) for the user to every partition of the changelog."""
    failed: list[str] = []
    producer = Producer({"bootstrap.servers": brokers, "acks": "all"})
    partitions = producer.list_topics(changelog, timeout=20).topics[changelog].partitions
    if not partitions:
        sys.exit(f"there is no topic {changelog}")
    for partition in partitions:  # a tombstone for a user whom the partition does not have changes nothing
        producer.produce(
            changelog,
            key=user_id.encode(),
            value=None,
            partition=partition,
            on_delivery=lambda error, _: failed.append(str(error)) if error else None,
        )
    if producer.flush(30) or failed:
        sys.exit(f"not deleted: {failed or 'the broker did not answer'}")
    print(f"{user_id} deleted from {len(partitions)} partitions of {changelog}")


if __name__ == "__main__":
    main(*sys.argv[1:])
