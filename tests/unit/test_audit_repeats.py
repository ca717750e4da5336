"""The audit knows repeats and equal payloads by the contract's definition: no false alarm, and no excuse."""

from __future__ import annotations
