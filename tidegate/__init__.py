"""What a person runs: command line, settings, local broker, demo."""

__version__ = "0.1.0"
