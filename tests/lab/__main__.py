# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Entry of ``tests/lab/lab``: makes the folder a package and runs the command line."""
from __future__ import annotations

import pathlib
import sys

sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from lab.cli import main

sys.exit(main())
