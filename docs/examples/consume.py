"""Print the parts that may be shown or applied, as the gate delivers them."""

import asyncio
import json
import os

from aiokafka import AIOKafkaConsumer


async def follow() -> None:
    brokers = os.environ.get("TIDEGATE_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
    options = {"group_id": "my-panel", "isolation_level": "read_committed", "auto_offset_reset": "earliest"}
    async with AIOKafkaConsumer("tidegate.delivered.v1", bootstrap_servers=brokers, **options) as consumer:
        async for record in consumer:
            event = json.loads(record.value)
            for part in event["parts"]:
                print(event["task_id"], part["kind"], part.get("payload"), event["verdict"]["reason"], flush=True)


asyncio.run(follow())
