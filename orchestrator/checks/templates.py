"""The fields of a message that is to be written: known, complete, and each with an expression that fits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from contracts.message import Message
from contracts.registry import Entry
from orchestrator.checks.messages import nearest
from orchestrator.checks.reading import Reading, Scope
from orchestrator.names import Expression
from orchestrator.source import Path, Source
from orchestrator.template import Template

# Stands where a message is unknown, so that the other checks can go on.
_NO_MESSAGE: Final = Message


@dataclass(frozen=True, slots=True)
class Templates:
    """Compiles what a definition says under `with`."""

    source: Source
    reading: Reading

    def template(
        self,
        entry: Entry | None,
        given: Mapping[str, str],
        at: Path,
        word: str,
        scope: Scope,
        inherited: Mapping[str, Expression] | None = None,
    ) -> Template:
        """`at` is where the `with` stands, `word` what names the message there; `inherited` fills fields not given."""
        if entry is None:
            for field, text in given.items():
                self.reading.expression(text, (*at, "with", field), scope)
            return Template(_NO_MESSAGE, ())
        known = entry.model.model_fields
        fields = self._given(entry, given, at, scope)
        for field, expression in {**self.reading.subject_of(entry.model), **(inherited or {})}.items():
            if field in known and field not in given:
                fields[field] = expression
                self.reading.fits(expression, known[field].annotation, (*at, word), field, scope)
        missing = [field for field, info in known.items() if info.is_required() and field not in fields and field not in given]
        if missing:
            self.source.report(
                (*at, word),
                f"{entry.wire_name} needs {', '.join(f'`{field}`' for field in missing)}",
                "say it in `with`",
            )
        return Template(entry.model, tuple(fields.items()))

    def _given(self, entry: Entry, given: Mapping[str, str], at: Path, scope: Scope) -> dict[str, Expression]:
        known = entry.model.model_fields
        fields: dict[str, Expression] = {}
        for field, text in given.items():
            path = (*at, "with", field)
            if field not in known:
                self.source.report(
                    path,
                    f"{entry.wire_name} has no field `{field}`",
                    nearest(field, known, "leave it out"),
                    at_key=True,
                )
                continue
            expression = self.reading.expression(text, path, scope)
            if expression is not None:
                fields[field] = expression
                self.reading.fits(expression, known[field].annotation, path, field, scope)
        return fields
