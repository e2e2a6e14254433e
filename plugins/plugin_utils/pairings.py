# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which versions belong together. pip cannot tell: vllm-mindspore requires neither vLLM nor MindSpore nor msadapter in its metadata.

Sources: vllm_mindspore: dependent_packages.yaml of its repository and its installation page; vllm_ascend: the release compatibility
matrix in its documentation (community/versioning_policy).
"""

from __future__ import annotations

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.wheels import WheelError, normalise_version, parse_lock

# engine: {version: what it runs with}, newest first. A package is pinned to a release (post releases of it are fine) or, with >=, to at
# least one. `vllm` is also the version whose flags and variables the engine takes; `cann` is what the node has to have, by its first parts.
PAIRINGS = {
    "vllm_mindspore": {
        version: {
            "vllm": "0.11.0",
            "cann": "8.3",
            "packages": {"vllm": "0.11.0", "mindspore": "2.7.1", "msadapter": "0.0.5", "ray": ">=2.48", "transformers": "4.57.1"},
        }
        for version in ("0.5.1", "0.5.0")
    },
    "vllm_ascend": {
        version: {"vllm": vllm, "cann": cann, "packages": {"vllm": vllm, "torch": torch, "torch-npu": torch}}
        for version, vllm, cann, torch in (
            ("0.23.0.post1", "0.23.0", "9.1.0", "2.10.0"),
            ("0.23.0", "0.23.0", "9.1.0", "2.10.0"),
            ("0.18.0", "0.18.0", "8.5.1", "2.9.0"),
            ("0.11.0", "0.11.0", "8.3", "2.7.1"),
        )
    },
    "vllm": {version: {"vllm": version, "cann": None, "packages": {"vllm": version}} for version in ("0.32.0", "0.23.0", "0.18.0", "0.11.0")},
}
# Packages that an engine may lack in a lock: a locked Ray counts only where a topology uses it.
OPTIONAL = ("ray",)


def vllm_versions():
    """Every version of vLLM that some engine runs, oldest first."""
    found = {pairing["vllm"] for versions in PAIRINGS.values() for pairing in versions.values()}
    return sorted(found, key=_numbers)


def spelled(engine, version):
    """A pairing as a user writes it: ``vllm_mindspore 0.5.1 with vllm 0.11.0, mindspore 2.7.1, ... and CANN 8.3``."""
    pairing = PAIRINGS[engine][version]
    packages = ", ".join(f"{name} {wanted}" for name, wanted in pairing["packages"].items() if name != engine)
    return f"{engine} {version}" + (f" with {packages}" if packages else "") + (f" and CANN {pairing['cann']}" if pairing["cann"] else "")


def belonging(engine, version):
    """{package: release} of an engine and of what it runs with."""
    return {engine.replace("_", "-"): version, **PAIRINGS[engine][version]["packages"]}


def pinned(package, release):
    """A release as a lock or pip takes it: ``vllm==0.11.0``."""
    return f"{package}{release}" if release.startswith(">=") else f"{package}=={release}"


def installed_misfits(engine, version, installed, ray=None):
    """``(problems, packages that nothing is known of)`` of an installation of the site.

    installed: {package: [version]}; several versions are those of several interpreters, of which one is the engine's. ray: the version of Ray that is
    planned, None without.
    """
    problems, missing = [], []
    for package, release in {**belonging(engine, version), **({"ray": ray} if ray else {})}.items():
        versions = installed.get(package) or []
        fitting = [found for found in versions if fits(found, release)]
        if versions and not fitting:
            found = ", ".join(f"{package} {one}" for one in versions)
            problems.append(f"{found} does not belong to {engine} {version}; install {pinned(package, release)}: {spelled(engine, version)}")
        elif fitting != versions or (not versions and (ray or package not in OPTIONAL)):
            missing.append(package)
    return problems, missing


def read_versions(lock):
    """{package: version} of a lock file's text; None where it is no lock."""
    try:
        return {item.name: item.version for item in parse_lock(lock)}
    except WheelError:
        return None


def fits(version, wanted):
    """Whether a package's version is the wanted release or a post release of it, whatever its local part; with ``>=`` at least it."""
    public = normalise_version(str(version)).partition("+")[0]
    if wanted.startswith(">="):
        return _numbers(public) >= _numbers(wanted[2:])
    return public == wanted or public.startswith(f"{wanted}.post")


def _numbers(version):
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def read_version(reader, path, raw, nodes):
    """The version of an instance's engine: as the instance states it, as its nodes' lock has it, else the newest paired one.

    ``nodes`` are the records of its nodes. Every package of their locks that does not fit is a problem which names the right one. None
    where the engine is not known or the version has no pairing.
    """
    engine = raw.get("engine")
    known = PAIRINGS.get(engine) if isinstance(engine, str) else None
    if known is None:
        return None
    locks = {}
    for node in nodes:
        if node.packages is not None:
            locks.setdefault(id(node.packages), (f"{node.name}: vllm_runtime_requirements", node.packages))
    distribution = engine.replace("_", "-")
    version, where = raw.get("version"), f"{path}.version"
    if version is not None and not isinstance(version, str):
        reader.problem(where, version, "is no version", f"Write it as text, such as '{next(iter(known))}'")
        return None
    for place, packages in locks.values() if version is None else ():
        if distribution in packages:
            version, where = packages[distribution].partition("+")[0], place
    if version is None:
        version = next(iter(known))
    if version not in known:
        version = next((item for item in known if fits(version, item)), version)
    if version not in known:
        reader.problem(where, str(version), f"is no version of {engine} that is planned", "Write " + "; or ".join(spelled(engine, item) for item in known))
        return None
    for place, packages in locks.values():
        for package, release in belonging(engine, version).items():
            if package not in packages:
                if package not in OPTIONAL:
                    reader.problem(place, None, f"lacks {package}, which {engine} {version} needs", f"Lock {package}=={release}: {spelled(engine, version)}")
            elif not fits(packages[package], release):
                fix = f"Lock {pinned(package, release)}: {spelled(engine, version)}"
                reader.problem(place, f"{package}=={packages[package]}", f"does not belong to {engine} {version}", fix)
        ray = raw.get("ray")
        if isinstance(ray, dict) and "ray" not in packages:
            reader.problem(place, None, "lacks ray, which topology ray needs", f"Lock ray=={ray.get('version') or '2.60.0'}")
        elif isinstance(ray, dict) and packages["ray"] != str(ray.get("version")):
            reader.problem(f"{path}.ray.version", ray.get("version"), f"is not the Ray of {place}", f"Write {packages['ray']}")
    return version
