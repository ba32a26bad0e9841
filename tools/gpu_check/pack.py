"""Builds what a check needs and lays it into a folder that runs on a machine with Python and an NVIDIA driver alone.

tools/gpu-check pack DIR [--stand-in]       build here; there: DIR/run OUT
tools/gpu-check [--stand-in] [OUT] [--call 1|2] [--only PARTS] [--skip PARTS] [--minutes M]    both on this machine

All parts want more than ten minutes together. Where a GPU is lent for a quarter of an hour: DIR/run OUT --call 1, which
takes nine minutes and has the figures that matter, and at once DIR/run OUT2 --call 2, which takes three."""

import argparse
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
# What travels to a rented machine is small, with the source tree, and its C library may be that of Ubuntu
# 22.04.
MOST_BYTES, MOST_GLIBC = 64 << 20, (2, 34)
# Test binaries that run on a GPU, by the name of their target.
TESTS = {"cuda": "tests", "das_cuda": "lib"}


def build(stand_in):
    """Executables by the name they have in the kit, and the folder of the stand-in's libraries."""
    env = dict(os.environ)
    env.setdefault("DAS_CUDA_ARCHS", archs())
    env.setdefault("DAS_CUDA", "auto" if stand_in else "require")
    profile = ["--profile", os.environ.get("GPU_CHECK_PROFILE", "release")]
    found, libraries = {}, None
    for command in (
        ["build", *profile, "--bin", "das-cuda"],
        ["test", *profile, "--no-run", "--lib", "--test", "cuda"],
        ["bench", *profile, "--no-run", "--bench", "cuda"],
    ):
        call = ["cargo", *command, "--locked", "--message-format=json-render-diagnostics"]
        print("+", *call, flush=True)
        answer = subprocess.run(call, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        if answer.returncode:
            sys.exit("gpu-check: the build failed")
        for line in answer.stdout.splitlines():
            message = json.loads(line)
            if message["reason"] == "build-script-executed" and "das-cuda-emulator" in message["package_id"]:
                libraries = Path(message["out_dir"]) / "libraries"
            path = message.get("executable")
            if not path:
                continue
            target = message["target"]
            if command[0] == "build":
                found["das-cuda"] = path
            elif command[0] == "bench":
                found["bench"] = path
            elif target["name"] in TESTS and message["profile"]["test"]:
                found[TESTS[target["name"]]] = path
    return found, libraries


def archs():
    """That of the GPU here, or those that are rented; and what newer ones compile for themselves."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True).stdout.split()
        if answer:
            arch = answer[0].replace(".", "")
            return ("90a" if arch == "90" else arch) + "+ptx80"
    return "90a+ptx80"


def newest_glibc(path):
    versions = re.findall(rb"GLIBC_(\d+)\.(\d+)", path.read_bytes())
    return max((tuple(map(int, v)) for v in versions), default=(0, 0))


def operations(bench):
    """Names of the operations of the tests' table."""
    answer = subprocess.run([bench, "--check", "operations"], check=True, stdout=subprocess.PIPE, text=True)
    return answer.stdout.split()


def tree():
    """Bytes of the files under version control, which travel with the kit."""
    answer = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    return sum((ROOT / name).stat().st_size for name in answer.stdout.split("\0") if (ROOT / name).is_file())


def commit():
    answer = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return answer.stdout.strip()


def check(name, path):
    """A copy without what only debuggers read, which starts with an old C library."""
    if shutil.which("strip"):
        subprocess.run(["strip", path], check=True)
    glibc = newest_glibc(path)
    if glibc > MOST_GLIBC:
        sys.exit(f"gpu-check: {name} needs glibc {glibc[0]}.{glibc[1]}, more than {MOST_GLIBC[0]}.{MOST_GLIBC[1]}")


def pack(folder, stand_in):
    known = {RUN, ARCHIVE}
    if folder.exists() and any(path.name not in known for path in folder.iterdir()):
        sys.exit(f"gpu-check: {folder} is there and holds something else")
    executables, libraries = build(stand_in)
    missing = {"das-cuda", "bench", *TESTS.values()} - set(executables)
    if missing:
        sys.exit(f"gpu-check: not built: {', '.join(sorted(missing))}")
    with tempfile.TemporaryDirectory() as work:
        kit = Path(work)
        (kit / "bin").mkdir()
        for name, path in executables.items():
            check(name, shutil.copy2(path, kit / "bin" / name))
        (kit / "gpu_check").mkdir()
        for path in HERE.glob("*.py"):
            shutil.copy2(path, kit / "gpu_check")
        if stand_in:
            shutil.copytree(libraries, kit / "stand-in", ignore=shutil.ignore_patterns("*.objects"))
        facts = {
            "commit": commit(),
            "archs": os.environ.get("DAS_CUDA_ARCHS") or archs(),
            "tests": list(TESTS.values()),
            "operations": operations(executables["bench"]),
        }
        (kit / "kit.json").write_text(json.dumps(facts, indent=1) + "\n")
        folder.mkdir(parents=True, exist_ok=True)
        # The same model and kernels are in several executables: a dictionary that spans them keeps one.
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 2, "dict_size": 256 << 20}]
        archive = folder / ARCHIVE
        with lzma.open(archive, "wb", filters=filters) as file, tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(kit, arcname=".")
    run = folder / RUN
    run.write_text(START)
    run.chmod(0o755)
    size = sum(path.stat().st_size for path in folder.iterdir())
    beside = tree()
    print(f"{folder}: {size / 2**20:.1f} MiB, and {beside / 2**20:.1f} MiB of the tree", flush=True)
    if size + beside > MOST_BYTES:
        sys.exit(f"gpu-check: more than {MOST_BYTES >> 20} MiB; fewer architectures: DAS_CUDA_ARCHS=90a")


RUN, ARCHIVE = "run", "kit.tar.xz"
START = f"""#!/usr/bin/env python3
import os, sys, tarfile, tempfile

kit = tempfile.mkdtemp(prefix="gpu-check-")
with tarfile.open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "{ARCHIVE}")) as tar:
    tar.extractall(kit)
os.execv(sys.executable, [sys.executable, os.path.join(kit, "gpu_check", "run.py"), *sys.argv[1:]])
"""


def main():
    if sys.argv[1:2] == ["pack"]:
        parser = argparse.ArgumentParser(prog="tools/gpu-check pack")
        parser.add_argument("dir", type=Path)
        parser.add_argument("--stand-in", action="store_true", help="with the stand-in for a GPU of the tests")
        args = parser.parse_args(sys.argv[2:])
        pack(args.dir, args.stand_in)
        return
    parser = argparse.ArgumentParser(
        prog="tools/gpu-check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="?", help="results [default: gpu-check in the target folder]")
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--minutes")
    parser.add_argument("--call", help="1: what matters most, in 9 minutes; 2: what comes next, in 3")
    parser.add_argument("--only", help="parts, by commas")
    parser.add_argument("--skip")
    args = parser.parse_args()
    rest = [w for name in ("minutes", "call", "only", "skip") if getattr(args, name) for w in (f"--{name}", getattr(args, name))]
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    kit = target / "gpu-check-kit"
    pack(kit, args.stand_in)
    command = [kit / "run", args.out or target / "gpu-check", *rest, *["--stand-in"] * args.stand_in]
    sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
