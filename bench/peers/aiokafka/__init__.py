"""A hand-written loop over aiokafka."""
