"""`tidegate replay`: recorded agent conversations, played through a running gate.

Data flows one way: file → `conversations` → `tools` (what a call reads and writes) → `store` (which values things had)
→ `plan` (who sends what when; pure) → `player` (Kafka) → `report`.
"""
