"""Runs of the suites: a workload is measured for all contenders when the first is asked for."""

from collections.abc import Callable
from functools import cache

import pytest

from fastrnn.bench import command, contenders, measure
from fastrnn.bench.results import Limits, Row
from fastrnn.bench.workloads import Workload, workloads
from fastrnn.threads import num_threads


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastrnn")
    group.addoption("--full", action="store_true", help="all workloads, not the quick set")
    group.addoption("--rounds", type=int, default=7, help="rounds of a workload")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    full = metafunc.config.getoption("--full")
    rows = command.select(list(workloads(num_threads())), None, full=full)
    # The last one is the outer loop: contenders of a workload follow each other.
    metafunc.parametrize("contender", contenders.CONTENDERS, ids=lambda row: row.name)
    metafunc.parametrize("work", rows, ids=[row.title for row in rows])


@pytest.fixture(scope="session")
def limits() -> Limits | None:
    from fastrnn.bench import machine

    return machine.describe(num_threads(), ()).limits


@pytest.fixture(scope="session")
def measured(pytestconfig: pytest.Config) -> Callable[[Workload], Row]:
    plan = measure.Plan(num_threads(), pytestconfig.getoption("--rounds"), seconds=20.0)

    @cache
    def row(work: Workload) -> Row:
        return measure.measure(work, contenders.CONTENDERS, plan, lambda words: None)

    return row
