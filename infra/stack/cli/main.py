"""The `tutti` command: the local stack, orders, sagas, contracts, reconciliation."""

import typer

from infra.stack.cli import contracts, orders, reconcile, sagas, stack

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Order orchestration: run it, look into it, mend it. Start with `tutti up`, or `make demo`.",
)
for command in (stack.up, stack.down, stack.status, stack.doctor, stack.reset, stack.logs, reconcile.reconcile):
    app.command()(command)
app.add_typer(orders.app, name="order")
app.add_typer(sagas.app, name="saga")
app.add_typer(contracts.app, name="contracts")


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
