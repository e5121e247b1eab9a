"""How a command ends: with its exit code. A failure also has words on stderr and, for programs, a document on stdout."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import typer

from infra.terminal.exit_codes import ExitCode
from infra.terminal.failures import Failure
from infra.terminal.output import complain, print_json

P = ParamSpec("P")


def speaks(command: Callable[P, ExitCode]) -> Callable[P, None]:
    """Turns what a command returns, or the Failure that it raises, into its exit code.

    With `--json` a failure is the one document on stdout: `{"error", "exit_code"}`. The words are on stderr in any case.
    """

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except Failure as failure:
            code = failure.code
            if kwargs.get("as_json"):
                print_json({"error": str(failure), "exit_code": code})
            complain(str(failure))
        raise typer.Exit(code)

    return run
