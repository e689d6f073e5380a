"""Every package can be had, and is fetched once."""

import subprocess

import pytest

import fetch

pytestmark = pytest.mark.network


@pytest.mark.parametrize("name", fetch.PACKAGES)
def test_a_package_is_fetched_once(monkeypatch, name):
    found = fetch.package(name)
    monkeypatch.setattr(subprocess, "run", None)
    assert fetch.package(name) == found
