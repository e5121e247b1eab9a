"""Structured logs: JSON for machines, colour on a terminal; with correlation, and without secrets or personal data.

Values are logged as fields, never formatted into the event's name. What may be secret or personal is masked by field name at the
sink, as the last line of defence: nobody is meant to log it in the first place. Secrets have their names here, personal data in the
contracts. Both are looked for inside structures as well, and what is too deep to be looked into is masked whole, as bytes are: these are
bodies, and nobody has read them yet.
"""

import dataclasses
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import structlog
from pydantic import BaseModel

from contracts.personal import MASK, personal_fields

VALUE_LENGTH_MAX: Final = 2000
NESTING_MAX: Final = 4
_SECRET_NAMES: Final = re.compile(
    r"(password|secret|token|api_?key|authorization|cookie|dsn|credential|^body$|^data$|^payload$)",
    re.IGNORECASE,
)
_URL_PASSWORD: Final = re.compile(r"(\w+://[^:/@\s]+):[^@\s]+@")
_KEY: Final = re.compile(r"\btk_[A-Za-z0-9]+_[A-Za-z0-9_\-]+")


def mask(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Masks secret and personal fields by name and passwords inside URLs, and cuts what is longer than 2,000 characters."""
    for name, value in event.items():
        # The standard library's records travel under names of their own until the formatter takes them out.
        if not name.startswith("_"):
            event[name] = _masked("" if name == "event" else name, value, 0)
    return event


def _masked(name: str, value: Any, depth: int) -> Any:
    if _SECRET_NAMES.search(name) or isinstance(value, bytes | bytearray | memoryview):
        return MASK
    named = _named(value)
    if named is None and isinstance(value, list | tuple | set | frozenset):
        return [_masked(name, item, depth + 1) for item in value] if depth < NESTING_MAX else MASK
    if personal_fields().hides(name, value):
        return MASK
    if named is not None:
        return {key: _masked(str(key), item, depth + 1) for key, item in named.items()} if depth < NESTING_MAX else MASK
    if isinstance(value, str):
        return clean(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    # What is left is printed by its repr, which may show anything: an URL in an exception, for example.
    return clean(repr(value)) if not isinstance(value, BaseException) else clean(f"{type(value).__name__}: {value}")


def _named(value: Any) -> Mapping[Any, Any] | None:
    """The fields of a structure, as far as its repr would show them; None for what has no fields.

    One may be built only in part: a line of a log must not fail by it.
    """
    if isinstance(value, Mapping):
        return value
    if isinstance(value, BaseModel):
        return {name: getattr(value, name, None) for name, field in type(value).model_fields.items() if field.repr}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value) if field.repr}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        named: Mapping[Any, Any] = value._asdict()
        return named
    return None


def clean(text: str) -> str:
    """Text without passwords in URLs and without API keys, cut to 2,000 characters."""
    return _KEY.sub(MASK, _URL_PASSWORD.sub(rf"\1:{MASK}@", text))[:VALUE_LENGTH_MAX]


def configure(process: str, *, level: int = logging.INFO) -> None:
    """Sets up structlog and the standard library's logging, once per process."""
    # The contracts take some fifty milliseconds to say what is personal: not during somebody's message.
    personal_fields()
    terminal = sys.stderr.isatty()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask,
    ]
    renderer: Any = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer], foreign_pre_chain=shared
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    # These log frames with bodies at DEBUG, and every reconnect at WARNING with the URL.
    for noisy in ("aiormq", "aio_pika", "aiormq.connection", "aio_pika.robust_connection"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
