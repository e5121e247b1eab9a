"""Reading lists in the SDN format and trade rules, and reloading them while the service runs."""

import shutil
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

import services.compliance
from services.compliance.adapters.denied_parties import read_denied_parties
from services.compliance.adapters.list_source import ListSource
from services.compliance.adapters.refusal import ListRefusedError
from services.compliance.adapters.trade_rules import read_trade_rules
from services.compliance.denied import Alias, Kind

SAMPLE = Path(services.compliance.__file__).parent / "lists"
REST = "-0- ," * 7
REMARKS = "DOB 1961; a.k.a. 'OL' TEO'; a.k.a. 'MAP"

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class AtOnce(Executor):
    """Runs what is submitted within submit, so that a test need not wait."""

    def __init__(self) -> None:
        self.runs = 0

    def submit(self, fn: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Future[Result]:
        self.runs += 1
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            # An executor hands on whatever was raised.
            future.set_exception(error)
        return future


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small list of two entries, with everything the format has."""
    write(
        tmp_path,
        "sdn.csv",
        f'7,"ZARVONI, Teodric","individual","WMD] [EXPORT",{REST}"{REMARKS}"',
        f'8,"BRANDULAK GMBH",-0- ,"WMD",{REST}-0- ',
        "\x1a",
    )
    write(tmp_path, "alt.csv", '7,1,"aka","SARVENI, Teo",-0- ', '8,2,"fka","BRANDULAK ""PRECISION"" AG",-0- ')
    write(tmp_path, "add.csv", '7,1,-0- ,"Pyongyang","Korea, North",-0- ', '8,2,-0- ,-0- ,"undetermined",-0- ')
    write(tmp_path, "sdn_comments.csv", '7,"MAKER\'; Gender Male."', '99,"the rest of a remark on nobody"')
    write(tmp_path, "published.txt", "2026-01-31")
    for file in ("embargoes.yaml", "restricted-goods.yaml"):
        shutil.copy(SAMPLE / file, tmp_path / file)
    return tmp_path


def write(folder: Path, file: str, *lines: str, encoding: str = "utf-8") -> None:
    (folder / file).write_bytes("\r\n".join(lines).encode(encoding))


def watch(folder: Path) -> tuple[ListSource, Clock, AtOnce]:
    clock, executor = Clock(), AtOnce()
    return ListSource(folder, folder, check_every_seconds=5, clock=clock, executor=executor), clock, executor


def look_again(source: ListSource, clock: Clock) -> str:
    """The version in force after the next look and the batch that follows it."""
    clock.now += 5
    source.current()
    return source.current().denied.version


def test_reads_names_types_programs_aliases_and_countries(folder: Path) -> None:
    first, second = read_denied_parties(folder).parties

    assert (first.uid, first.name, first.kind) == ("7", "ZARVONI, Teodric", Kind.INDIVIDUAL)
    assert first.programs == ("WMD", "EXPORT")
    assert first.countries == {"KP"}
    assert first.aliases == (Alias("SARVENI, Teo"), Alias("OL' TEO", weak=True), Alias("MAPMAKER", weak=True))
    assert (second.kind, second.countries) == (Kind.ENTITY, frozenset())
    assert second.aliases == (Alias('BRANDULAK "PRECISION" AG'),)


def test_the_version_names_the_date_and_changes_with_the_content(folder: Path) -> None:
    before = read_denied_parties(folder).version
    again = read_denied_parties(folder).version
    write(folder, "add.csv", '7,1,-0- ,"Tallinn","Estonia",-0- ')

    assert before.startswith("2026-01-31.")
    assert again == before
    assert read_denied_parties(folder).version != before


def test_reads_latin_1_where_a_file_is_not_utf_8(folder: Path) -> None:
    write(folder, "alt.csv", '7,1,"aka","ZÁRVOÑI",-0- ', encoding="latin-1")

    assert read_denied_parties(folder).parties[0].aliases[0].name == "ZÁRVOÑI"


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("sdn.csv", '9,"NO END', "sdn.csv:2: not CSV"),
        ("sdn.csv", '9,"TOO FEW"', "sdn.csv:2: 2 fields instead of 12"),
        ("sdn.csv", f'x9,"NAME",-0- ,"P",{REST}-0- ', "sdn.csv:2: the entry number is not a number"),
        ("sdn.csv", f'7,"NAME",-0- ,"P",{REST}-0- ', "sdn.csv:2: the entry number was used before"),
        ("sdn.csv", f'9,-0- ,-0- ,"P",{REST}-0- ', "sdn.csv:2: the name is missing"),
        ("sdn.csv", f'9,"NAME","robot","P",{REST}-0- ', "sdn.csv:2: the type is not"),
        ("sdn.csv", "9," * 20_000, "sdn.csv:2: the line is longer"),
        ("alt.csv", '4711,1,"aka","NOBODY",-0- ', "alt.csv:2: belongs to no entry"),
        ("alt.csv", '7,1,"nickname","NAME",-0- ', "alt.csv:2: the type is not"),
        ("alt.csv", '7,1,"aka",-0- ,-0- ', "alt.csv:2: the name is missing"),
        ("add.csv", '4711,1,-0- ,-0- ,"Iran",-0- ', "add.csv:2: belongs to no entry"),
    ],
)
def test_names_file_and_line_of_a_bad_line_but_not_its_words(folder: Path, file: str, line: str, expected: str) -> None:
    good, *rest = (folder / file).read_text().split("\n")
    (folder / file).write_text("\n".join((good, line, *rest)))

    with pytest.raises(ListRefusedError) as refused:
        read_denied_parties(folder)

    assert expected in str(refused.value)
    assert "NAME" not in str(refused.value)


def test_reports_every_bad_line_not_only_the_first(folder: Path) -> None:
    write(folder, "alt.csv", "broken", '7,1,"aka","GOOD",-0- ', "broken too")

    with pytest.raises(ListRefusedError) as refused:
        read_denied_parties(folder)

    assert [problem.line for problem in refused.value.problems] == [1, 3]


@pytest.mark.parametrize("file", ["sdn.csv", "alt.csv", "add.csv"])
def test_refuses_a_folder_that_lacks_a_file(folder: Path, file: str) -> None:
    (folder / file).unlink()

    with pytest.raises(ListRefusedError, match=f"{file}"):
        read_denied_parties(folder)


def test_refuses_a_list_without_entries(folder: Path) -> None:
    for file in ("sdn.csv", "alt.csv", "add.csv"):
        write(folder, file, "\x1a")

    with pytest.raises(ListRefusedError, match="holds no entries"):
        read_denied_parties(folder)


def test_refuses_a_publication_date_that_is_none(folder: Path) -> None:
    write(folder, "published.txt", "yesterday")

    with pytest.raises(ListRefusedError, match=r"published\.txt:1"):
        read_denied_parties(folder)


def test_the_sample_that_we_ship_can_be_read_and_finds_its_own() -> None:
    denied = read_denied_parties(SAMPLE)

    assert len(denied) == 40
    assert all(denied.screen(party.name)[0].score == 100 for party in denied.parties)
    assert read_trade_rules(SAMPLE).embargoed.keys() >= {"KP"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("version: [", "embargoes.yaml:1: not YAML"),
        ("- a list", "embargoes.yaml: content"),
        ("version: v1\nembargoes: [{country: Korea, reason: r}]", "embargoes.0.country"),
        ("version: v1\nembargoes: []\nextra: 1", "extra"),
        ("embargoes: []", "version"),
    ],
)
def test_refuses_trade_rules_that_are_not_understood(folder: Path, content: str, expected: str) -> None:
    (folder / "embargoes.yaml").write_text(content)

    with pytest.raises(ListRefusedError) as refused:
        read_trade_rules(folder)

    assert expected in str(refused.value)


def test_trade_rules_that_were_edited_get_another_version(folder: Path) -> None:
    before = read_trade_rules(folder)
    with (folder / "embargoes.yaml").open("a") as rules:
        rules.write('  - {country: BY, reason: "new"}\n')
    after = read_trade_rules(folder)

    assert "BY" in after.embargoed
    assert after.version != before.version


def test_takes_a_new_list_into_force_without_a_restart(folder: Path) -> None:
    source, clock, _ = watch(folder)
    before = source.current().denied.version
    write(folder, "alt.csv", '8,1,"aka","VELTRASKA",-0- ')

    after = look_again(source, clock)

    assert after != before
    assert source.current().denied.screen("Veltraska")[0].uid == "8"
    assert source.problem is None


def test_a_change_of_the_rules_is_noticed_too(folder: Path) -> None:
    source, clock, _ = watch(folder)
    rules = folder / "embargoes.yaml"
    rules.write_text(rules.read_text() + '  - {country: BY, reason: "new"}\n')

    look_again(source, clock)

    assert "BY" in source.current().rules.embargoed


def test_looks_only_so_often_and_reads_only_what_changed(folder: Path) -> None:
    source, clock, executor = watch(folder)
    write(folder, "alt.csv", '8,1,"aka","VELTRASKA",-0- ')
    clock.now = 4.9
    for _ in range(100):
        source.current()
    early = executor.runs
    for _ in range(5):
        look_again(source, clock)

    assert (early, executor.runs) == (0, 1)


def test_a_broken_list_is_refused_and_the_old_one_stays_until_it_is_repaired(folder: Path) -> None:
    source, clock, executor = watch(folder)
    before = source.current().denied.version
    write(folder, "alt.csv", "broken")
    with capture_logs() as logs:
        versions = {look_again(source, clock) for _ in range(3)}
    refusals = [entry for entry in logs if entry["log_level"] == "error"]

    assert versions == {before}
    assert source.problem is not None
    assert "alt.csv:1" in source.problem
    assert (len(refusals), executor.runs) == (1, 1)

    write(folder, "alt.csv", '8,1,"aka","VELTRASKA",-0- ')

    assert look_again(source, clock) != before
    assert source.problem is None


def test_prometheus_is_told_while_a_list_is_refused(folder: Path) -> None:
    def told() -> float | None:
        return REGISTRY.get_sample_value("tutti_screening_lists_refused")

    source, clock, _ = watch(folder)
    at_first = told()
    write(folder, "alt.csv", "broken")
    look_again(source, clock)
    refused = told()
    write(folder, "alt.csv", '8,1,"aka","VELTRASKA",-0- ')
    look_again(source, clock)

    assert (at_first, refused, told()) == (0, 1, 0)


def test_a_list_that_lost_most_of_its_entries_is_refused(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    source, clock, _ = watch(tmp_path)
    before = source.current().denied.version
    lines = (tmp_path / "sdn.csv").read_bytes().splitlines(keepends=True)
    (tmp_path / "sdn.csv").write_bytes(b"".join(lines[:10]))
    for file in ("alt.csv", "add.csv"):
        (tmp_path / file).write_bytes(b"")

    assert look_again(source, clock) == before
    assert source.problem is not None
    assert "10 entries where 40 are in force" in source.problem


def test_a_service_without_a_usable_list_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ListRefusedError, match=r"sdn\.csv: is missing"):
        watch(tmp_path)


def test_reads_beside_the_message_loop_and_stops_when_closed(folder: Path) -> None:
    clock = Clock()
    source = ListSource(folder, folder, check_every_seconds=5, clock=clock)
    before = source.current().denied.version
    write(folder, "alt.csv", '8,1,"aka","VELTRASKA",-0- ')
    clock.now = 5
    first = source.current().denied.version
    # Closing waits for the list that is being read, so the next look finds it.
    source.close()
    source.close()

    assert first == before
    assert source.current().denied.version != before
