"""Cases in JSON lines, each with what must come out of it: the same file runs in memory and on a real broker.

A case has `steps`, in their order, and `expect`:

- a step with `topic` (the role) and `event` writes an event, whose envelope is filled in; `raw` is a value as it
  stands; `after_seconds` lets time pass; `await` waits for an output before the next step is written;
- `outputs` are records that must be there, each as often as its `times` says (once, if it says nothing). A record
  matches if it has at least these fields. `topic` is its role. Of a dead letter there are `error` and `detail`, which
  must contain every text of a list;
- `never` are records of which there must be none;
- `statuses` are the newest statuses of tasks; null means that the status was removed;
- `ignored` counts events that changed nothing, by type (in memory only).

`$session` in any text is a session of the case's own, `$now+N` a time N seconds later.
"""
