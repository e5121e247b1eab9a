"""`dlq`: dead letters from a terminal or a script. What it shares with `tutti` is in `infra/terminal`."""

import typer

from dlq_tools.cli import campaigns, letters, retries

app = typer.Typer(
    name="dlq",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Dead letters: see what failed and why, send it again, or give it up.\n\n"
    "Exit codes: 0 done; 1 ran, but some items failed; 2 usage; 3 nothing matched; 4 refused; 5 the system cannot be reached.",
)
app.add_typer(letters.app)
app.add_typer(campaigns.app, name="campaign")
app.add_typer(retries.app, name="retries")


def main() -> None:
    """The console script."""
    app()
