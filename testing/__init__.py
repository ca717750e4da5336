"""What tests and benchmarks share: processes of the gate, a workload and its records, writing and watching topics."""
