"""The parts of a check. Each takes a session and its limit in seconds and returns what goes into results.json."""

import csv
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import compare

HERE = Path(__file__).parent


def script(name):
    return HERE / name


class Clock:
    def __init__(self):
        self.begin = time.monotonic()

    def left(self, limit):
        return limit - (time.monotonic() - self.begin)


# ---- 1. facts

NVIDIA = (
    "name,driver_version,memory.total,compute_cap,clocks.max.sm,clocks.max.memory,clocks.sm,clocks.mem,power.limit,"
    "temperature.gpu,ecc.mode.current,mig.mode.current,pstate"
)


def facts(session, limit):
    found = {"kit": session.facts, "kernel": platform.release(), "python": platform.python_version()}
    found["glibc"] = " ".join(platform.libc_ver())
    found["processors"] = os.cpu_count()
    found["processor"] = first(r"model name\s*:\s*(.*)", read("/proc/cpuinfo"))
    found["memory"] = first(r"MemTotal:\s*(.*)", read("/proc/meminfo"))
    if not session.stand_in and shutil.which("nvidia-smi"):
        answer = output(["nvidia-smi", f"--query-gpu={NVIDIA}", "--format=csv,noheader"])
        values = (answer.splitlines() or [""])[0].split(", ")
        found["gpu"] = dict(zip(NVIDIA.split(","), values))
        found["cuda"] = first(r"CUDA Version:\s*([\d.]+)", output(["nvidia-smi"]))
    for tool in ("nvcc", "compute-sanitizer", "ncu"):
        path = find_tool(tool)
        found[tool] = path and first(r"((?:release|Version|version).*)", output([path, "--version"]))
    torch = session.torch()
    if torch:
        about = (
            "import torch, json; print(json.dumps({'torch': torch.__version__, 'cuda': torch.version.cuda, "
            "'cudnn': torch.backends.cudnn.version()}))"
        )
        found["torch"] = json.loads(output([torch[0], "-c", about]) or "{}")
    return found


def read(path):
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def first(pattern, text):
    match = re.search(pattern, text or "")
    return match.group(1).strip() if match else None


def output(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def find_tool(name):
    places = ["/usr/local/cuda/bin", "/opt/cuda/bin", "/usr/local/cuda/compute-sanitizer"]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))


# ---- 2. tests

# The test that walks the table takes DAS_OPS: a process for each operation, so that one that hangs stops no
# other.
TABLE = "table::every_case_of_the_table_agrees_with_the_cpu"


# Tests that want libraries which only PyTorch may have.
BY_LIBRARIES = ("cublas::", "sample::kernels_can_be_compiled")


def tests(session, limit):
    began, jobs = Clock(), []
    for binary in session.facts["tests"]:
        listed = output_of_list(session, binary)
        if binary == "lib":
            # Those of the tokenizer read files of the source tree.
            jobs.append((binary, "all", ["--test-threads=4", "--skip", "model::tokenizer"], {}))
            continue
        for name in listed:
            exact = ["--exact", name, "--test-threads=1", "--nocapture"]
            if name == TABLE:
                jobs += [(binary, f"table {op}", exact, {"DAS_OPS": op}) for op in session.facts["operations"]]
            else:
                jobs.append((binary, name, exact, libraries(session) if name.startswith(BY_LIBRARIES) else {}))
    if session.stand_in:
        # A few, to see that it is done right: the emulator's own tests run all of them.
        few = ("table scale", "table activate", "lib", "graph", "device")
        jobs = [job for job in jobs if any(word in " ".join(job[:2]) for word in few)][:8]

    def one(job):
        binary, name, arguments, env = job
        if began.left(limit) < 2:
            return {"binary": binary, "test": name, "status": "not run"}
        env = env | {"RAYON_NUM_THREADS": str(max(1, (os.cpu_count() or 4) // 4))}
        done = session.run("tests", [session.bin(binary), *arguments], min(100, began.left(limit)), env)
        line = {"binary": binary, "test": name, "seconds": round(done.seconds, 2)}
        counts = re.findall(r"test result: \w+\. (\d+) passed; (\d+) failed", "\n".join(done.tail))
        line["passed"], line["failed"] = map(sum, zip(*[map(int, c) for c in counts])) if counts else (0, 0)
        if done.ok and line["passed"]:
            return line | {"status": "passed"}
        return line | {"status": "failed", "why": done.why() or "no test ran", "said": done.tail[-60:]}

    with ThreadPoolExecutor(4 if not session.stand_in else 1) as pool:
        lines = list(pool.map(one, jobs))
    for line in lines:
        session.log(json.dumps(line))
    lines.sort(key=lambda line: (line["status"] == "passed", line["status"] == "not run"))
    count = {status: sum(line["status"] == status for line in lines) for status in ("passed", "failed", "not run")}
    return {"counts": count, "tests": lines}


def output_of_list(session, binary):
    def names(*more):
        command = [session.bin(binary), "--list", "--format=terse", *more]
        answer = subprocess.run(command, capture_output=True, text=True, env=session.env, timeout=60)
        return [line.removesuffix(": test") for line in answer.stdout.splitlines() if line.endswith(": test")]

    ignored = set(names("--ignored"))
    return [name for name in names() if name not in ignored]


# ---- 3. sanitizers

GROUPS = {
    "gemm": "linear,linear_epilogue",
    "conv": "conv",
    "attention": "self_attention,cross_attention",
    "norm": "group_norm,layer_norm,l2_norm",
    "pointwise": "activate,geglu,axpby,blend,scale,affine_clamp,soft_clamp,channel_affine,cfg_combine",
    "image": "concat,slice,repeat,gather,stack,embed,take_token,resize",
    "particle": "normals,advance,squared_norms",
    "weigh": "weigh",
}


def sanitizer(session, limit):
    tool = find_tool("compute-sanitizer")
    jobs = [
        (check, dtype, name) for check in ("memcheck", "racecheck") for dtype in ("bf16", "f32") for name in GROUPS
    ]
    if session.stand_in:
        # The emulator has sanitizers of its own; this shows that the program they would watch runs.
        tool, jobs = None, [("no sanitizer", "bf16", "pointwise")]
    elif tool is None:
        return {"skipped": "compute-sanitizer is not found"}
    began = Clock()

    def one(job):
        check, dtype, name = job
        if began.left(limit) < 5:
            return {"check": check, "dtype": dtype, "kernels": name, "status": "not run"}
        command = [session.bin("bench"), "--check", "once", "--dtype", dtype, "--only", GROUPS[name]]
        if tool:
            watch = ["--tool", check, "--error-exitcode", "99", "--print-limit", "20", "--target-processes", "all"]
            command = [tool, *watch, *command]
        done = session.run("sanitizer", command, began.left(limit))
        errors = first(r"ERROR SUMMARY: (\d+) error", "\n".join(done.tail))
        hazards = first(r"RACECHECK SUMMARY: (\d+ hazards? displayed.*)", "\n".join(done.tail))
        clean = done.ok and (errors in ("0", None)) and (hazards is None or hazards.startswith("0"))
        line = {
            "check": check,
            "dtype": dtype,
            "kernels": name,
            "seconds": round(done.seconds, 1),
            "summary": hazards or errors,
            "status": "clean" if clean else "failed",
        }
        return line if clean else line | {"why": done.why(), "said": done.tail[-60:]}

    with ThreadPoolExecutor(1 if session.stand_in else 8) as pool:
        return {"runs": list(pool.map(one, jobs))}


# ---- 4. parity with the CPU


def parity(session, limit):
    work = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    particles, steps = (2, 2) if session.stand_in else (4, 4)
    shared = [
        "sample",
        "-p",
        "a large red star",
        "--particles",
        particles,
        "--steps",
        steps,
        "--save",
        "none",
        "--no-grid",
        "--save-latents",
        "-q",
        "--seed",
        7,
        # Rounding must not choose other ancestors, from which everything is different. That resampling is the
        # same is what tests of f32 show.
        "--ess-threshold",
        0,
    ]
    runs = [("cpu", dtype, []) for dtype in ("fp32", "bf16", "fp16")]
    runs += [("cuda", dtype, graph) for dtype in ("fp32", "bf16", "fp16") for graph in ([], ["--no-graph"])]
    if session.stand_in:
        runs = [("cpu", "fp32", []), ("cpu", "bf16", []), ("cuda", "bf16", []), ("cuda", "bf16", ["--no-graph"])]
    began, seen, lines = Clock(), {}, []
    for device, dtype, more in runs:
        name = " ".join([device, dtype, *more])
        command = [session.bin("das-cuda"), *shared, "--device", device, "--dtype", dtype, *more, "-o", work / name]
        done = session.run("parity", command, began.left(limit))
        lines.append({"run": name, "seconds": round(done.seconds, 2), "error": done.why()})
        if done.ok:
            seen[name] = compare.read_run(work / name)
    return {"runs": lines, "comparisons": compare.runs(seen)}


# ---- 5. ceilings, 6. operations, 7. resampling: das-cuda and PyTorch


def tiny(session):
    return ["--tiny"] if session.stand_in else []


def ceilings(session, limit):
    ours = session.run("ceilings", [session.bin("bench"), "--check", "copy", *tiny(session)], limit)
    records, errors = ours.records, [ours.why()]
    torch = session.torch()
    if torch:
        theirs = session.run("ceilings", [torch[0], script("torch_ops.py"), "--device", torch[1]], limit)
        records, errors = records + theirs.records, errors + [theirs.why()]
    return {"records": records, "error": "; ".join(filter(None, errors)) or None}


def ops(session, limit):
    return session.run("ops", [session.bin("bench"), "--check", "ops", *tiny(session)], limit).summary()


def torch_ops(session, limit):
    torch = session.torch()
    if not torch:
        return {"skipped": "no PyTorch"}
    cases = Path(tempfile.mkdtemp(prefix="gpu-check-")) / "cases"
    with open(cases, "w") as file:
        subprocess.run([session.bin("bench"), "--check", "list", *tiny(session)], stdout=file, check=True)
    command = [torch[0], script("torch_ops.py"), cases, "--device", torch[1], "--seconds", limit - 15]
    return session.run("torch_ops", command, limit).summary()


def tiles(session, limit):
    few = ["--only", "linear"] if session.stand_in else []
    return session.run("tiles", [session.bin("bench"), "--check", "tiles", *tiny(session), *few], limit).summary()


def libraries(session):
    """The environment in which ours find cuBLASLt and NVRTC: those of PyTorch, where the loader finds none."""
    if session.stand_in:
        return {"DAS_CUBLAS_STAND_IN": "1"}
    if session.libraries is None:
        ask = (
            "import glob, os, torch; at = os.path.dirname(os.path.dirname(torch.__file__)) + '/nvidia/'; "
            "found = [glob.glob(at + f'*/lib/lib{name}.so.1[23]')[:1] for name in ('cublasLt', 'nvrtc')]; "
            "print(*{os.path.dirname(f) for fs in found for f in fs}, sep=os.pathsep)"
        )
        torch = session.torch()
        session.libraries = output([torch[0], "-c", ask]).strip() if torch else ""
    known = [os.environ.get("LD_LIBRARY_PATH"), session.libraries]
    return {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, known))}


def autotune(session, limit):
    command = [session.bin("bench"), "--check", "autotune", "--only", "linear,linear_epilogue,conv", *tiny(session)]
    done = session.run("autotune", command, limit, libraries(session))
    if done.ok and not done.records:
        return {"skipped": "no cuBLASLt"}
    return done.summary()


# Of each kernel: its time, how busy tensor cores and the L2 cache are, and conflicts in shared memory.
METRICS = (
    "gpu__time_duration.sum",
    "sm__inst_executed_pipe_tensor.sum",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum",
)


def hot(session, limit):
    """ncu on the kernels that take most of a step."""
    command = [session.bin("bench"), "--check", "hot", *tiny(session)]
    tool = find_tool("ncu")
    if session.stand_in:
        return session.run("hot", command, limit).summary()
    if tool is None:
        return {"skipped": "ncu is not found"}
    chosen = ["-k", "regex:das_(product|transposed|flash)", "--metrics", ",".join(METRICS)]
    done = session.run("hot", [tool, "--csv", "--page", "raw", *chosen, *command], limit)
    rows = list(csv.DictReader(line for line in done.tail if line.startswith('"')))
    columns = [name for name in (rows[0] if rows else {}) if name == "Kernel Name" or name in METRICS]
    # The first row has the units.
    records = [{"kind": "hot"} | {name: row[name] for name in columns} for row in rows]
    return done.summary() | {"records": records}


def smc(session, limit):
    return session.run("smc", [session.bin("bench"), "--check", "smc", *tiny(session)], limit).summary()


def torch_smc(session, limit):
    torch = session.torch()
    if not torch:
        return {"skipped": "no PyTorch"}
    sizes = ["--sizes", "16,4096"] if session.stand_in else []
    return session.run("torch_smc", [torch[0], script("torch_smc.py"), "--device", torch[1], *sizes], limit).summary()


# ---- 8. a guided step of full size, 9. the same in PyTorch, 10. a whole run


def folder(session, limit):
    """The random model, made once; every process of ours has it in the page cache then."""
    if session.folder is None:
        at = Path(tempfile.mkdtemp(prefix="gpu-check-")) / "model"
        done = session.run("step", [session.bin("bench"), "--check", "folder", at, *tiny(session)], limit)
        if not done.ok:
            raise RuntimeError(f"the model is not written: {done.why()}")
        session.folder = at
    return session.folder


def step(session, limit):
    began = Clock()
    at = folder(session, limit)
    made = limit - began.left(limit)
    sizes = ["--micro-batch", "1"] if session.stand_in else []
    half = session.run(
        "step",
        [session.bin("bench"), "--check", "step", at, *tiny(session), *sizes, "--budget-ms", 1500],
        began.left(limit),
    )
    result = half.summary(folder_seconds=round(made, 2))
    # The same with cuBLASLt where it is faster, as `sample` below: both numbers are of both programs.
    largest = "1" if session.stand_in else "16"
    linked = [*tiny(session), "--cublas", "--micro-batch", largest, "--budget-ms", 1500]
    with_cublas = session.run(
        "step", [session.bin("bench"), "--check", "step", at, *linked], began.left(limit), libraries(session)
    )
    result["with_cublas"] = [r for r in with_cublas.records if r.get("kind") == "step"]
    result["error"] = "; ".join(filter(None, (result["error"], with_cublas.why()))) or None
    for dtype in () if session.stand_in else ("f16", "f32"):
        # For what comes out, compared with PyTorch afterwards; no times.
        more = session.run("step", [session.bin("bench"), "--check", "see", at, "--dtype", dtype], began.left(limit))
        result["records"] += more.records
        result["error"] = "; ".join(filter(None, (result["error"], more.why()))) or None
    return result


def torch_step(session, limit):
    torch = session.torch()
    if not torch:
        return {"skipped": "no PyTorch"}
    tried = ["--chunks", "2", "--rounds", 1] if session.stand_in else []
    command = [
        torch[0],
        script("torch_step.py"),
        folder(session, limit),
        "--device",
        torch[1],
        "--seconds",
        limit - 20,
    ]
    return session.run("torch_step", [*command, *tried], limit).summary()


def sample(session, limit):
    """`das-cuda sample` with 16 particles by our kernels alone, then with cuBLASLt: 100 steps if there is time for them."""
    at, work = folder(session, limit), Path(tempfile.mkdtemp(prefix="gpu-check-"))
    particles, steps = (2, 2) if session.stand_in else (16, 8)
    shared = [
        session.bin("das-cuda"),
        "sample",
        "-p",
        "a large red star",
        "-m",
        at,
        "--device",
        "cuda",
        "--kl",
        1,
        "-q",
        "--save",
        "best",
        "--no-grid",
        "--json",
        "--particles",
        particles,
    ]
    began, result = Clock(), {}
    for whose, more, env in (("own", ["--no-cublas"], {}), ("with_cublas", [], libraries(session))):
        at = work / whose

        def run(steps, name, more=more, env=env, at=at):
            command = [*shared, *more, "--steps", steps, "-o", at / name]
            done = session.run("sample", command, began.left(limit), env)
            return done, run_record(done, at / name, particles, steps)

        done, short = run(steps, "short")
        result[whose] = {"short": short}
        ms = short.get("ms_per_particle")
        if session.stand_in or not ms:
            continue
        # Loading and the first two steps take the same time again.
        foretold = done.seconds + ms * 1e-3 * particles * 100
        if foretold * 1.1 < began.left(limit):
            result[whose]["long"] = run(100, "long")[1]
        else:
            result[whose]["long"] = {"skipped": f"it would take about {foretold:.0f} s"}
    return result


def run_record(done, folder, particles, steps):
    line = {"particles": particles, "steps": steps, "seconds": round(done.seconds, 2), "error": done.why()}
    trace = next(iter(sorted(folder.rglob("trace.jsonl"))), None)
    if trace is None:
        return line
    steps = [json.loads(text) for text in trace.read_text().splitlines()]
    # The first makes forms of weights, the second records, the last only looks at the images.
    usual = sorted(s["ms"] for s in steps[2:-1]) or sorted(s["ms"] for s in steps)
    return line | {
        "ms_per_particle": usual[len(usual) // 2] / particles,
        "peak": max(s["peak_bytes"] for s in steps),
        "loop_seconds": sum(s["ms"] for s in steps) / 1e3,
    }
