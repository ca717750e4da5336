"""The floor for the gateway's figures: the least that streams deliveries to browsers, `python -m bench.sse_floor PORT`.

One aiokafka consumer, one asyncio server, one dictionary. No tokens, no resuming, no bounds: a slow client fills
memory, and a client that reconnects has missed what came meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import unquote

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.topics import topic_name
from tidegate.settings import Settings, load_settings


async def main(settings: Settings, port: int) -> None:
    """Serve until killed."""
    followers: dict[str, list[asyncio.StreamWriter]] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        session_id = unquote(head.split(b" ")[1].split(b"/")[3].decode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nid: 0\n\n")
        followers.setdefault(session_id, []).append(writer)

    async with AIOKafkaConsumer(
        **settings.kafka_kwargs(), isolation_level="read_committed", enable_auto_commit=False
    ) as consumer:
        topic = topic_name("delivered", settings.topic_prefix)
        tps = [TopicPartition(topic, number) for number in range(settings.partitions)]
        consumer.assign(tps)
        for tp, end in (await consumer.end_offsets(tps)).items():
            consumer.seek(tp, end)
        server = await asyncio.start_server(connected, "127.0.0.1", port, backlog=4096)
        async with server:
            async for record in consumer:
                body = orjson.loads(record.value)
                for writer in followers.get(record.key.decode(), ()):
                    writer.write(b"event: delivered\ndata: %s\n\n" % orjson.dumps(body))


if __name__ == "__main__":
    asyncio.run(main(load_settings(), int(sys.argv[1])))
