"""What users read. `python -m docs.generate` fills in the tables that the code decides."""
