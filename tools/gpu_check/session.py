"""What every part of a check needs: where things are, how much time is left, and a way to start a program so that
what it has said is kept whatever becomes of it."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path


class Session:
    def __init__(self, kit, out, stand_in, minutes):
        self.kit, self.out, self.stand_in = Path(kit), Path(out), stand_in
        self.out.mkdir(parents=True, exist_ok=True)
        self.end = time.monotonic() + 60 * minutes
        self.lock = threading.Lock()
        self.log_file = open(self.out / "log.txt", "a", buffering=1)
        self.raw_file = open(self.out / "raw.jsonl", "a", buffering=1)
        self.folder = None
        self.env = dict(os.environ, PYTHONUNBUFFERED="1", DAS_CUDA_REQUIRE_GPU="1")
        if stand_in:
            self.env |= {"LD_LIBRARY_PATH": str(self.kit / "stand-in"), "DAS_CUDA_STAND_IN": "1"}
        self.facts = json.loads((self.kit / "kit.json").read_text())
        # Found at first use.
        self.python = self.libraries = None

    def left(self):
        return self.end - time.monotonic()

    def log(self, text):
        with self.lock:
            self.log_file.write(text.rstrip("\n") + "\n")

    def say(self, text):
        """To whoever watches, and to the log."""
        print(text, flush=True)
        self.log(text)

    def bin(self, name):
        return str(self.kit / "bin" / name)

    def torch(self):
        """A Python that has PyTorch (and a GPU for it), and the device it is to use; None where there is none."""
        if self.python is None:
            self.python = self.find_torch()
        return self.python or None

    def find_torch(self):
        for python in (os.environ.get("GPU_CHECK_PYTHON"), "python3", "python"):
            if python and shutil.which(python):
                test = "import torch; print(torch.cuda.is_available())"
                try:
                    answer = subprocess.run([python, "-c", test], capture_output=True, text=True, timeout=60)
                except subprocess.TimeoutExpired:
                    continue
                if answer.returncode == 0 and (self.stand_in or answer.stdout.strip() == "True"):
                    return [python, "cpu" if self.stand_in else "cuda"]
        return []

    def environment(self, command):
        """PyTorch shall not meet the stand-in."""
        others = self.stand_in and not any(word.startswith(str(self.kit / "bin")) for word in command)
        return dict(os.environ) if others else self.env

    def run(self, part, command, limit, env=None, quiet=False):
        """Runs `command` for at most `limit` seconds. Lines of JSON on its standard output are kept at once."""
        limit = max(1.0, min(limit, self.left()))
        command = [str(c) for c in command]
        self.log(f"== {part}: {' '.join(command)}  (at most {limit:.0f} s)")
        start = time.monotonic()
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=self.environment(command) | (env or {}),
            start_new_session=True,
        )
        records, tail = [], []

        def read(stream):
            for line in stream:
                record = None
                if line.startswith("{"):
                    try:
                        record = json.loads(line)
                    except ValueError:
                        pass
                if record is not None:
                    records.append(record)
                    with self.lock:
                        self.raw_file.write(json.dumps({"part": part} | record) + "\n")
                else:
                    tail.append(line.rstrip("\n"))
                    del tail[:-400]
                    if not quiet:
                        self.log(line)

        readers = [threading.Thread(target=read, args=(s,), daemon=True) for s in (child.stdout, child.stderr)]
        for reader in readers:
            reader.start()
        timed_out = False
        try:
            child.wait(limit)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            # Its children too, and whoever interrupts us.
            with_children(child)
        for reader in readers:
            reader.join(5)
        return Outcome(child.returncode, timed_out, records, tail, time.monotonic() - start)


def with_children(child):
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        # Stuck in the driver: what remains is done beside it.
        pass


class Outcome:
    def __init__(self, code, timed_out, records, tail, seconds):
        self.code, self.timed_out, self.records, self.tail, self.seconds = code, timed_out, records, tail, seconds

    @property
    def ok(self):
        return self.code == 0 and not self.timed_out

    def why(self):
        """What went wrong, in a line."""
        if self.ok:
            return None
        if self.timed_out or self.code is None:
            return f"stopped after {self.seconds:.0f} s"
        how = f"killed by signal {-self.code}" if self.code < 0 else f"exit code {self.code}"
        spoken = [line.strip() for line in self.tail if line.strip()]
        for at, line in enumerate(spoken):
            if "panicked at" in line:
                return f"{how}: {' '.join(spoken[at + 1 : at + 2])} ({line})"
        said = [line for line in spoken if line.startswith("error") or "Error:" in line]
        return f"{how}: {(said or spoken or [''])[-1]}"

    def summary(self, **more):
        return {"seconds": round(self.seconds, 2), "error": self.why(), "records": self.records} | more
