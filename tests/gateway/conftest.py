# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A real HAProxy on loopback that runs what the role renders, in front of a stand-in engine."""

from __future__ import annotations

import shutil

import pytest
from site_gateway import Site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The gateway of one module of tests."""
    if shutil.which("haproxy", path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
        pytest.fail("there is no haproxy on this machine; install the package haproxy")
    with Site(tmp_path_factory.mktemp("gateway")) as running:
        yield running
