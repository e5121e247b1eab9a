"""Options that mean the same in every command, and how several of them become one argument."""

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, TypeVar

import typer

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept in the history.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]
Actor = Annotated[str | None, typer.Option("--actor", help="Who does it; default: the operator whose token is used.")]


def given(**makers: Callable[..., Any]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Replaces a parameter of a command by the options of its maker, and calls the command with what the maker returns.

    Typer reads options from the signature, so in the signature that it sees the maker's parameters stand in the place of the replaced
    one. A maker may be given options in the same way. An option that two makers ask for is one option, and both get it.
    """

    def joined(command: Callable[..., T]) -> Callable[..., T]:
        asked = {name: tuple(signature(maker).parameters.values()) for name, maker in makers.items()}
        options: dict[str, Parameter] = {}
        own: set[str] = set()
        for parameter in signature(command).parameters.values():
            if parameter.name not in makers:
                own.add(parameter.name)
            for option in asked.get(parameter.name, (parameter,)):
                # By keyword, since a required option may now follow one that has a default.
                options[option.name] = option.replace(kind=Parameter.KEYWORD_ONLY)

        @wraps(command)
        def run(**values: Any) -> T:
            made = {name: maker(**{one.name: values[one.name] for one in asked[name]}) for name, maker in makers.items()}
            return command(**made, **{name: values[name] for name in own})

        run.__dict__["__signature__"] = Signature(list(options.values()))
        run.__annotations__ = {option.name: option.annotation for option in options.values()}
        return run

    return joined
