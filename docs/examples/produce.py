"""Publish one event, given as topic and JSON: `produce.py context '{"type": "context.changed", "set": {...}}'`."""

import asyncio
import json
import os
import sys
import uuid
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer


async def publish(role: str, fields: dict[str, object], session_id: str = "acme/user-7") -> None:
    event = {"source": "my-service", "event_id": str(uuid.uuid4()), "session_id": session_id, **fields}
    event["occurred_at"] = datetime.now(UTC).isoformat()
    brokers = os.environ.get("TIDEGATE_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
    async with AIOKafkaProducer(bootstrap_servers=brokers, enable_idempotence=True, acks="all") as producer:
        await producer.send_and_wait(f"tidegate.{role}.v1", json.dumps(event).encode(), key=session_id.encode())


asyncio.run(publish(sys.argv[1], json.loads(sys.argv[2])))
