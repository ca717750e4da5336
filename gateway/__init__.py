"""The HTTP edge: requests become events on Kafka, and what the gate writes becomes server-sent events."""
