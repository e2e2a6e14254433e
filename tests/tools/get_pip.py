# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Stand-in for get-pip.py: runs pip out of the wheel that lies beside it.

ansible-test bootstraps pip with a script that it downloads from its own file server unless a copy lies in its cache.
run.py puts this one there as get_pip_24_2.py, with pip-24.2-*.whl from the configured index.
"""

from __future__ import annotations

import glob
import os
import runpy
import sys

OWN_OPTIONS = ("--no-setuptools", "--no-wheel")  # of get-pip.py, unknown to pip

folder, name = os.path.split(os.path.abspath(__file__))
version = os.path.splitext(name)[0].replace("get_pip_", "").replace("_", ".")
sys.path.insert(0, glob.glob(os.path.join(folder, f"pip-{version}-*.whl"))[0])
sys.argv[1:] = ["install"] + [word for word in sys.argv[1:] if word not in OWN_OPTIONS]
runpy.run_module("pip", run_name="__main__", alter_sys=True)
