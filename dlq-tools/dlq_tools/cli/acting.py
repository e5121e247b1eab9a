"""How a command changes dead letters: it selects them, looks what would happen, asks, and does it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from dlq_tools.cli.options import All, Ids, Limit, filters
from dlq_tools.desk_client import Desk, find_desk
from infra.terminal.changing import Change, changing
from infra.terminal.exit_codes import ExitCode
from infra.terminal.failures import Misused, NotFound
from infra.terminal.options import Actor, given

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Act:
    """A change of dead letters: looked at first, confirmed, then done."""

    desk: Desk
    name: str
    selection: dict[str, Any]
    actor: str
    change: Change

    def carry_out(self) -> dict[str, Any]:
        """What the desk did, or would do. Raises NotFound when nothing matches, and what Change.confirm raises."""
        if not self.change.dry_run and not self.change.yes:
            would = self._ask(dry_run=True)
            if would["items"]:
                self.change.confirm(f"{self.name.capitalize()} {would['items']} dead letter(s)?")
        made = self._ask(dry_run=self.change.dry_run)
        if not made["items"] and not made["refused"]:
            unknown = ", ".join(made["unknown"])
            raise NotFound(f"no dead letter {unknown}; see `dlq list`" if unknown else "no dead letter matches; see `dlq list`")
        return made

    def _ask(self, *, dry_run: bool) -> dict[str, Any]:
        body = {"selection": self.selection, "reason": self.change.reason, "actor": self.actor, "dry_run": dry_run}
        answer: dict[str, Any] = self.desk.ask("POST", f"/internal/dead-letters/{self.name}", json=body)
        return answer


def acts(name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Gives a command, as its parameter `act`, the act of this name, with the options that say on what, why and by whom."""

    @given(filters=filters, change=changing)
    def act(
        filters: dict[str, Any],
        change: Change,
        ids: Ids = None,
        limit: Limit = None,
        all: All = False,
        actor: Actor = None,
    ) -> Act:
        selection = _selection(ids, filters, all=all, limit=limit)
        desk = find_desk()
        return Act(desk, name, selection, actor or desk.operator.name, change)

    return given(act=act)


def _selection(ids: list[str] | None, narrowed: dict[str, Any], *, all: bool, limit: int | None) -> dict[str, Any]:
    """The selection as the API takes it. Raises Misused for one of nothing, or of two kinds."""
    if not ids and not narrowed and not all:
        raise Misused("select dead letters: by id, by filters such as --queue, or with --all")
    if ids and (narrowed or all):
        raise Misused("ids stand alone; leave out filters and --all")
    return {"ids": list(ids or ()), **narrowed, "all": all, **({"limit": limit} if limit else {})}


def ended(made: dict[str, Any], *, failed: bool = False) -> ExitCode:
    """What an act comes to: refused where nothing was done, some failed where not everything was."""
    if not made["items"]:
        return ExitCode.REFUSED
    return ExitCode.SOME_FAILED if failed or made["refused"] or made["unknown"] else ExitCode.DONE
