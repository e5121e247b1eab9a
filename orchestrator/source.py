"""YAML with places: reads a definition's text so that each finding can name its line and column."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

SOURCE_BYTES_MAX: Final = 128 * 1024
DEPTH_MAX: Final = 20
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something wrong with a definition: where it stands (line and column from 1), what it is, and what to do about it."""

    file: str
    line: int
    column: int
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.problem}; {self.remedy}"


class DefinitionError(ValueError):
    """The definition cannot be used. `findings` are all of them, in the order of the text."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = tuple(sorted(set(findings)))
        super().__init__("\n".join(map(str, self.findings)))


class _CoreSchema(yaml.SafeLoader):
    """YAML 1.2's core schema: `on` and `no` are words, a date is text, and only decimal digits are a number."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, Any]]] = {}  # noqa: RUF012  # PyYAML's own name and shape


_CoreSchema.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))
_CoreSchema.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^-?(?:0|[1-9]\d*)$"), list("-0123456789"))
_CoreSchema.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^-?\d+\.\d+$"), list("-0123456789"))
_CoreSchema.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^(?:null|~|)$"), ["n", "~", ""])


@dataclass(slots=True)
class Source:
    """One definition's text, its document, and where each value and key stands."""

    file: str
    text: str
    document: Any = None
    findings: list[Finding] = field(default_factory=list)
    _values: dict[Path, tuple[int, int]] = field(default_factory=dict, repr=False)
    _keys: dict[Path, tuple[int, int]] = field(default_factory=dict, repr=False)
    _styles: dict[Path, str | None] = field(default_factory=dict, repr=False)

    def report(self, path: Path, problem: str, remedy: str, *, at_key: bool = False) -> None:
        """Adds a finding at the value (or key) of `path`, or at the nearest place above it that the text has."""
        line, column = self.place(path, at_key=at_key)
        self.findings.append(Finding(self.file, line, column, problem, remedy))

    def report_within(self, path: Path, line: int, column: int, problem: str, remedy: str) -> None:
        """As `report`, at a place within the text of a scalar: `line` from 1 and `column` from 0, as a compiler counts."""
        start_line, start_column = self.place(path)
        if self._styles.get(path) in ("|", ">"):
            # The text of a block begins on the line below its sign; its indentation is not known to the parser.
            start_line, start_column, column = start_line + line, 1, 0
        elif line > 1:
            start_line, start_column, column = start_line + line - 1, 1, 0
        elif self._styles.get(path) in ("'", '"'):
            column += 1
        self.findings.append(Finding(self.file, start_line, start_column + column, problem, remedy))

    def place(self, path: Path, *, at_key: bool = False) -> tuple[int, int]:
        for length in range(len(path), -1, -1):
            known = self._keys if at_key and length == len(path) else self._values
            if path[:length] in known:
                return known[path[:length]]
        return (1, 1)


def read(text: str, file: str) -> Source:
    """Parses. What is wrong with the YAML itself is in `findings`; `document` is then None."""
    source = Source(file, text)
    if len(text.encode()) > SOURCE_BYTES_MAX:
        source.report((), "the file is too large", f"keep a definition below {SOURCE_BYTES_MAX // 1024} KiB")
        return source
    loader = _CoreSchema(text)
    try:
        # Aliases could make a small text a huge document; a definition has no use for them.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_CoreSchema)):
            source.report((), "the file uses a YAML alias", "write the value out where it is needed")
            return source
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = str(getattr(error, "problem", None) or error)
        source.findings.append(Finding(file, line, column, f"this is not YAML: {problem}", "mend the text here or just above"))
        return source
    if node is None:
        source.report((), "the file is empty", "begin with `workflow:` and `version:`")
        return source
    for path, child in _walk(source, (), node):
        source._values[path] = (child.start_mark.line + 1, child.start_mark.column + 1)
        if isinstance(child, yaml.ScalarNode):
            source._styles[path] = child.style
    if not source.findings:
        source.document = loader.construct_document(node)
    return source


def _walk(source: Source, path: Path, node: yaml.Node) -> Iterator[tuple[Path, yaml.Node]]:
    yield path, node
    if len(path) > DEPTH_MAX:
        source.report(
            path,
            "the text is nested too deeply",
            "see docs/workflow-language.md for the shape of a definition",
        )
        return
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(source, (*path, index), item)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            child = (*path, str(key.value))
            mark = (key.start_mark.line + 1, key.start_mark.column + 1)
            if child in source._keys:
                source.findings.append(Finding(source.file, *mark, f"`{key.value}` stands here twice", "keep one of the two"))
            source._keys[child] = mark
            yield from _walk(source, child, value)
