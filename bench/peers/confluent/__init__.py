"""A hand-written loop over librdkafka."""
