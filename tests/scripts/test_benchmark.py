"""The benchmark loses nothing: a case that cannot run costs its own rows, and the end says what was not kept."""

import csv

import pytest

import benchmark
from benchmarks.harness import Result

GOOD, OVER = Result("fast", "peer", 1.0, 2.0, bound=0.6), Result("slow", "peer", 2.0, 1.0, bound=1.0)


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the command with these cases: (exit code, the file's rows, the last line)."""
    path = tmp_path / "new" / "table.csv"

    def running(cases, *options):
        def rows_of(case, quick, data_dir):
            for row in cases[case]:
                if isinstance(row, BaseException):
                    raise row
                if callable(row):
                    row(path, data_dir)
                else:
                    yield row

        monkeypatch.setattr(benchmark, "CASES", list(cases))
        monkeypatch.setattr(benchmark, "rows_of", rows_of)
        monkeypatch.setattr(benchmark, "versions", lambda: "a machine")
        monkeypatch.setattr("sys.argv", ["benchmark.py", "--output", str(path), *options])
        code = benchmark.main()
        return code, read(path), capsys.readouterr().out.splitlines()

    return running


def read(path):
    with path.open(newline="") as file:
        return [(row["case"], row["what"]) for row in csv.DictReader(file)]


def test_a_case_that_cannot_run_costs_its_own_rows(run):
    code, rows, lines = run({"a": [GOOD, OSError("no MNIST\nin data"), GOOD], "b": [GOOD]})
    assert code == 1
    assert rows == [("a", "fast"), ("b", "fast")]
    assert any(line.split() == ["a", "failed:", "OSError:", "no", "MNIST", "in", "data"] for line in lines)
    assert lines[-1].endswith("failed: a")


def test_rows_are_in_the_table_as_they_come_and_after_an_interruption(run):
    seen = []
    with pytest.raises(KeyboardInterrupt):
        run({"a": [GOOD, lambda path, _: seen.append(read(path)), GOOD, KeyboardInterrupt()], "b": [GOOD]})
    assert seen == [[("a", "fast")]]


def test_a_bound_that_is_over_is_named_and_not_judged_in_a_quick_run(run):
    code, rows, lines = run({"a": [OVER, GOOD], "b": [ValueError("broken")]})
    assert (code, len(rows)) == (1, 2)
    assert lines[-1].endswith("failed: b. over its bound: a: slow")
    assert run({"a": [OVER]}, "--quick")[0] is None


def test_all_is_well(run):
    code, _, lines = run({"a": [GOOD]})
    assert code is None and lines[-1].endswith("every case ran, every bound is kept")


def test_the_data_dir_reaches_the_cases(run, tmp_path):
    given = []
    run({"a": [lambda _, data_dir: given.append(data_dir)]}, "--data-dir", str(tmp_path / "here"))
    assert given == [tmp_path / "here"]
