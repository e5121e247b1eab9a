"""What is logged within a test: a line of JSON on the stdout of that moment, whatever the test before has set up."""

import sys
from collections.abc import Iterator

import pytest
import structlog

OURS = ("contracts", "dlq_tools", "infra", "orchestrator", "services")


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """Without this, structlog prints every traceback with all locals in colour, which takes seconds."""
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    yield
    if structlog.get_config()["cache_logger_on_first_use"]:
        _forget_loggers()
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def _forget_loggers() -> None:
    """A test has set up the logs of a whole process: each logger that was used since then has kept a file that is closed by now."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in OURS and (log := vars(module).get("log")) is not None:
            vars(log).pop("bind", None)
