"""Pure decisions and read models: what events make of a session, and what that says of a result."""
