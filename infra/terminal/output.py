"""How a command looks: one JSON document for programs, tables and sentences for people."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

PIPE_COLUMNS: Final = 200

# What is piped into a file or a pager is not cut to the 80 columns that a terminal is taken to have.
console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_COLUMNS)
errors = Console(stderr=True)


def print_json(document: Any) -> None:
    """The one document on stdout.

    In ASCII: what partners send may hold half a surrogate pair, which no UTF-8 stream takes, or control characters beyond ASCII,
    which a terminal would obey.
    """
    sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table for people. The first column is what the next command wants; values are shown as they are, never as markup."""
    first, *others = columns
    table = Table(
        id_column(first),
        *(Column(name, overflow="fold") for name in others),
        title=title,
        title_justify="left",
        header_style="bold",
    )
    for row in rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row))
    console.print(table)


def id_column(name: str) -> Column:
    """What the next command wants is never cut: an id that ends at the terminal's edge cannot be copied."""
    return Column(name, no_wrap=True, overflow="ignore")


def say(words: str) -> None:
    """A sentence on stdout, never taken as markup and never broken in the middle of a command to be copied."""
    console.print(words, markup=False, highlight=False, soft_wrap=True)


def complain(words: str) -> None:
    """A sentence on stderr, so that stdout stays what it is for programs."""
    errors.print(words, markup=False, highlight=False, soft_wrap=True, style="red")
