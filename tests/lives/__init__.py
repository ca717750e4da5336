"""Whole lives of tasks, made up by chance: users, dispatchers, agents and consumers who hear what the gate says.

`people` says what is said and when, `policies` draws what a task asks for, `told` takes down what the gate tells. Pure:
time is an argument. In memory it runs in `tests/unit`, on a broker and under `kill -9` in `tests/broker`.
"""
