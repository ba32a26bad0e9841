"""Runs every part of the check on this machine and writes OUT/report.md, OUT/results.json (both after each part),
OUT/raw.jsonl (each measurement as it is made) and OUT/log.txt.

    run OUT [--call 1|2] [--minutes 9.5] [--only tests,parity] [--skip sanitizer] [--stand-in]

Needs Python and an NVIDIA driver. PyTorch and compute-sanitizer are used where they are found (GPU_CHECK_PYTHON names
another Python). A part that fails or takes too long does not stop the next one."""

import argparse
import ctypes
import datetime
import json
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import parts
import report

from session import Session

# In the order of what one would rather know, with most seconds each; what one does not use is there for the
# last. Those before `sanitizer` are sized to nine minutes together.
PARTS = [
    ("facts", 20),
    ("tests", 110),
    ("parity", 40),
    ("ceilings", 25),
    ("step", 90),
    ("sample", 150),
    ("torch_step", 150),
    ("sanitizer", 60),
    ("autotune", 30),
    ("hot", 40),
    ("smc", 25),
    ("torch_smc", 25),
    ("ops", 60),
    ("torch_ops", 90),
    ("tiles", 60),
]
# What one call runs, and its minutes: a machine that is lent for a quarter of an hour gives nine and then
# three.
CALLS = {
    1: (("facts", "tests", "parity", "ceilings", "step", "sample", "torch_step"), 9),
    2: (("sanitizer", "autotune", "hot", "smc", "ops"), 3),
}


class Monitor:
    """Memory, clocks and power while parts run, twice a second."""

    FIELDS = ("memory.used", "clocks.sm", "power.draw", "temperature.gpu")

    def __init__(self, wanted):
        self.samples, self.child = [], None
        if not wanted:
            return
        query = ["nvidia-smi", "--query-gpu=" + ",".join(self.FIELDS), "--format=csv,noheader,nounits", "-lms", "500"]
        try:
            self.child = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            return
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.child.stdout:
            try:
                self.samples.append((time.monotonic(), [float(v) for v in line.split(",")]))
            except ValueError:
                pass

    def since(self, begin):
        seen = [values for at, values in self.samples if at >= begin]
        if not seen:
            return None
        most = [max(column) for column in zip(*seen)]
        clocks = sorted(values[1] for values in seen)
        return {
            "memory_mib": most[0],
            "sm_mhz_median": clocks[len(clocks) // 2],
            "power_w": most[2],
            "celsius": most[3],
        }

    def stop(self):
        if self.child:
            self.child.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--call", type=int, choices=CALLS, help="what fits the first call of a lent machine, or the second")
    parser.add_argument("--only", default="", help="parts: " + ", ".join(name for name, _ in PARTS))
    parser.add_argument("--skip", default="")
    parser.add_argument(
        "--stand-in", action="store_true", help="without a GPU, on the tests' stand-in: no times count"
    )
    args = parser.parse_args()
    only, skip = (set(filter(None, text.split(","))) for text in (args.only, args.skip))
    parts_of_call, minutes = CALLS.get(args.call, ((), 9.5))
    only = only or set(parts_of_call)
    minutes = args.minutes or minutes
    unknown = (only | skip) - {name for name, _ in PARTS}
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")

    if not args.stand_in:
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            sys.exit(f"gpu-check: no NVIDIA driver: {error}")
    session = Session(Path(__file__).resolve().parent.parent, args.out, args.stand_in, minutes)
    monitor = Monitor(not args.stand_in)
    results = {"date": datetime.date.today().isoformat(), "stand_in": args.stand_in, "parts": {}}

    def save():
        for name, text in (("results.json", json.dumps(results, indent=1)), ("report.md", report.markdown(results))):
            partial = session.out / (name + ".part")
            partial.write_text(text + "\n")
            partial.replace(session.out / name)

    for name, limit in PARTS:
        if name in skip or (only and name not in only):
            continue
        begin = time.monotonic()
        if session.left() < 5:
            results["parts"][name] = {"error": "no time left"}
            continue
        try:
            result = getattr(parts, name)(session, min(limit, session.left() - 3))
        except Exception as error:
            session.log(traceback.format_exc())
            result = {"error": f"{type(error).__name__}: {error}"}
        result["part_seconds"] = round(time.monotonic() - begin, 1)
        result["gpu"] = result.get("gpu") or monitor.since(begin)
        results["parts"][name] = result
        wrong = result.get("error") or result.get("skipped")
        session.say(f"{name}: {result['part_seconds']} s{f'; {wrong}' if wrong else ''}")
        try:
            save()
        except Exception:
            session.log(traceback.format_exc())
    monitor.stop()
    try:
        save()
    except Exception:
        session.say(traceback.format_exc())
    # The end of the output is what is seen first where only that is sent back.
    session.say(report.summary(results))
    bad = report.failures(results)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
