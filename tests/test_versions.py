"""Every dependency has a lowest version, in the form that `make test-oldest` pins it by."""

import re
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

setup = ConfigParser()
setup.read(Path(__file__).parent.parent / "setup.cfg")


@pytest.mark.parametrize("requirement", setup["options"]["install_requires"].split())
def test_what_is_installed_is_not_below_the_bound(requirement):
    bound = re.fullmatch(r"([a-zA-Z0-9_-]+)>=([0-9.]+)", requirement)
    assert bound is not None
    name, lowest = bound.groups()
    assert Version(version(name)) >= Version(lowest)
