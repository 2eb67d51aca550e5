"""The comparison's counts in plain Python, only in memory; `FAULT` makes a mistake at every hundredth event."""

import asyncio
import json
import os
from collections import defaultdict

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

BROKER, FAULT = os.environ["BROKER"], os.environ.get("FAULT")
NAMES = {"click": "clicks", "browse": "browses", "purchase": "purchases"}


async def main() -> None:
    """Read from the beginning, even after a restart, and answer until killed."""
    counts: dict[tuple[str, int], dict[str, int]] = defaultdict(lambda: dict.fromkeys(NAMES.values(), 0))
    consumer = AIOKafkaConsumer(os.environ["IN"], bootstrap_servers=BROKER, auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=BROKER, linger_ms=20)
    await consumer.start()
    await producer.start()
    async for record in consumer:
        event = json.loads(record.value)
        user, start = event["user_id"], int(event["ts"] // 60) * 60
        faulty = FAULT if int(event["event_id"][:8]) % 100 == 0 else None
        if faulty != "counts":
            counts[user, start][NAMES[event["event_type"]]] += 1
        answer = {
            "event_id": event["event_id"],
            "user_id": user,
            "window_start": start,
            **counts[user, start],
        }
        key = b"nobody" if faulty == "key" else user.encode()
        for _ in range({"missing": 0, "twice": 2}.get(faulty or "", 1)):
            await producer.send(os.environ["OUT"], json.dumps(answer).encode(), key)


asyncio.run(main())
