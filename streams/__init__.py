"""The engine: record batches in, transactions out, on Faust and aiokafka."""
