"""`tidegate demo`: the gate at work, on a real broker with a real worker, between producer and consumer processes.

`story` and `life` say what happens, `told` puts the gate's answers into words, and `table` shows it; `producer` and
`consumer` are the child processes; `processes` keeps them; `command` runs the whole.
"""
