"""Tables in the documentation that hold what the tests saw.

    MODELS = Table("docs/models.md", ("family", "layers"))

    def test_family(...):
        MODELS.check({"family": name, "layers": seen})

    def test_families_are_documented():
        MODELS.check_names(FAMILIES)

Normally the file must hold these rows. With `--write-docs` (make docs) they are collected, and written when the session
ends; the prose around the table stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

writing = False
"""Whether rows are collected rather than compared; the session's `--write-docs`."""

_tables: list[Table] = []


class Table:
    """The table with these columns in a Markdown file; a row is known by its first cell."""

    def __init__(self, path: str | Path, columns: Sequence[str]):
        """`path`: of the file, relative to the checkout; it has to hold the table's head at least."""
        self.path, self.columns = CHECKOUT / path, tuple(columns)
        self.collected: dict[str, str] = {}
        self.names: list[str] | None = None
        _tables.append(self)

    def check(self, cells: Mapping[str, object] | Sequence[object]) -> None:
        """The file holds this row, whole; `cells` are in the order of the columns, or by column."""
        if isinstance(cells, Mapping):
            assert set(cells) == set(self.columns), f"{self.path.name} has the columns {self.columns}"
            cells = [cells[column] for column in self.columns]
        assert len(cells) == len(self.columns), f"{self.path.name} has the columns {self.columns}"
        name, row = _cell(cells[0]), _row(cells)
        if writing:
            assert self.collected.setdefault(name, row) == row, f"two rows for {name!r}"
        else:
            held = self._rows().get(name)
            assert held == row, self._stale(f"it holds\n{held}\nwhere the run gave\n{row}")

    def check_names(self, names: Iterable[object]) -> None:
        """The file holds a row for each of these first cells, in this order, and no other."""
        expected = [_cell(name) for name in names]
        if writing:
            self.names = expected
        else:
            assert list(self._rows()) == expected, self._stale("its rows are not the expected ones")

    def write(self) -> None:
        """Put the collected rows into the file. Rows that were not collected stay, where `check_names` knows them."""
        if not self.collected and self.names is None:
            return
        rows = self._rows() | self.collected
        names = list(rows) if self.names is None else [name for name in self.names if name in rows]
        before, _, after = self._parts()
        self.path.write_text("\n".join([*before, *(rows[name] for name in names), *after]), encoding="utf-8")

    def _rows(self) -> dict[str, str]:
        lines = self._parts()[1]
        rows = {line.split(" | ")[0].strip("| "): line for line in lines}
        assert len(rows) == len(lines), f"{self.path.name} holds a row twice"
        return rows

    def _parts(self) -> tuple[list[str], list[str], list[str]]:
        """Lines of the file up to the table's head, its rows, and the lines after."""
        lines = self.path.read_text(encoding="utf-8").split("\n")
        head = _row(self.columns)
        assert lines.count(head) == 1, f"{self.path.name} does not hold one table with the head\n{head}"
        first = last = lines.index(head) + 2
        while last < len(lines) and lines[last].startswith("|"):
            last += 1
        return lines[:first], lines[first:last], lines[last:]

    def _stale(self, why: str) -> str:
        return f"{self.path.relative_to(CHECKOUT)} is not current, `make docs` rewrites it: {why}"


def write_tables() -> None:
    """Write every table of the session."""
    for table in _tables:
        table.write()


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", r"\|")


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"
