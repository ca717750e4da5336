"""`python -m bench`: the figures that are saved; with a name, such as `python -m bench drain`, one of them."""

import sys

from bench.compiled import compiled

AS_SOURCES = {"check", "plots", "--help"}
"""`check` counts what Python carries out: nothing of what is compiled can be counted."""


def main() -> None:
    """Run a command, with the gate's packages as the image has them."""
    if not AS_SOURCES & set(sys.argv[1:]):
        sys.path.insert(0, str(compiled()))
    from bench.commands import app
    from tidegate.errors import TidegateError

    try:
        app()
    except TidegateError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
