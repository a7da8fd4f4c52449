"""Fixtures for the control plane alone. What they are made of is in `control_harness`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from daytona import Daytona, DaytonaConfig

from control_harness import Api, Process, Split, free_port


@pytest.fixture(scope="session")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One control plane with its runner, for all tests that do not break it."""
    directory = tmp_path_factory.mktemp("control")
    process = Process(directory / "log", PINFOLD_DATA_DIR=str(directory / "data"), PINFOLD_SSH_PORT=str(free_port()))
    yield process
    assert process.stop() == 0


@pytest.fixture(scope="session")
def api(control: Process) -> Api:
    """Plain HTTP as the user."""
    return Api(control.info["url"], control.info["apiKey"])


@pytest.fixture(scope="session")
def runner(control: Process) -> Api:
    """Plain HTTP as its runner."""
    return Api(control.info["url"], control.info["runnerToken"])


@pytest.fixture(scope="session")
def sdk(control: Process) -> Daytona:
    """The official SDK, set up as a user would."""
    return Daytona(DaytonaConfig(api_key=control.info["apiKey"], api_url=control.info["url"], target="us"))


@pytest.fixture
def split(tmp_path: Path) -> Iterator[Split]:
    """A control plane of the test's own, without a runner until it starts one."""
    pair = Split(tmp_path)
    yield pair
    pair.close()
