"""The same producer with librdkafka (confluent-kafka): it needs to be told the partitioner."""

import json
import os
import sys
import uuid
from datetime import UTC, datetime

from confluent_kafka import Producer

producer = Producer(
    {
        "bootstrap.servers": os.environ.get("TIDEGATE_BOOTSTRAP_SERVERS", "127.0.0.1:9092"),
        "partitioner": "murmur2_random",  # its own default is CRC32, which no other client agrees with
        "enable.idempotence": True,
    }
)
event = {"source": "my-service", "event_id": str(uuid.uuid4()), "session_id": "acme/user-7", **json.loads(sys.argv[2])}
event["occurred_at"] = datetime.now(UTC).isoformat()
producer.produce(f"tidegate.{sys.argv[1]}.v1", json.dumps(event).encode(), key=b"acme/user-7")
producer.flush()
