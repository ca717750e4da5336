"""`tidegate demo`: the gate at work, on a real broker with a real worker, and producer and consumer processes of its own.

`story` says what happens and `table` shows it; `producer` and `consumer` are the child processes; `processes` keeps them;
`command` runs the whole.
"""
