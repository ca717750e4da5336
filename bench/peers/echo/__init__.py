"""The floor of the latency benchmark: what an exactly-once hop through this broker costs when it does nothing."""
