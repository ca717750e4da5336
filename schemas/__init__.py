"""The contract: events, topics, envelope, and decoding batches of records."""
