"""From results.json to Markdown that can stand in benches/RESULTS.md."""


def number(x, digits=3):
    if x is None:
        return ""
    if isinstance(x, str):
        return x
    if x != 0 and not 1e-3 <= abs(x) < 1e6:
        return f"{x:.{digits - 1}e}"
    return f"{x:.{digits}g}" if abs(x) < 10**digits else f"{x:.0f}"


def table(head, rows):
    rows = [[number(cell) for cell in row] for row in rows]
    if not rows:
        return []
    line = "| " + " | ".join(head) + " |"
    return [line, "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows), ""]


def ratio(a, b):
    return a / b if a and b else None


class Report:
    def __init__(self, results):
        self.results, self.parts = results, results["parts"]
        self.stand_in = results["stand_in"]
        self.lines = []

    def part(self, name):
        return self.parts.get(name) or {}

    def records(self, name, kind=None):
        records = self.part(name).get("records") or []
        return [r for r in records if kind is None or r.get("kind") == kind]

    def time(self, x):
        """A time or what follows from it: nothing on the stand-in."""
        return None if self.stand_in else x

    def add(self, *lines):
        self.lines += lines

    def ceiling(self):
        """Bytes and operations per second at best, as measured in this run."""
        copies = self.records("ceilings", "copy") + self.records("ceilings", "torch_copy")
        copy = max((r["bytes"] / r["min"] * 1e3 for r in copies if r.get("min")), default=None)
        products = self.records("ceilings", "torch_matmul")
        product = max((r["flops"] / r["ms"] * 1e3 for r in products), default=None)
        return self.time(copy), self.time(product)

    def rate(self, flops, bytes, ms):
        """`(text, share of the ceiling)` of work that took `ms`."""
        copy, product = self.ceiling()
        if self.stand_in or not ms:
            return None, None
        if flops:
            rate, most, unit = flops / ms * 1e3, product, "TFLOP/s"
        else:
            rate, most, unit = bytes / ms * 1e3, copy, "TB/s"
        return f"{rate / 1e12:.{0 if flops else 2}f} {unit}", most and f"{100 * rate / most:.0f} %"


def failures(results):
    """What is wrong, worst first."""
    r, found = Report(results), []
    for test in r.part("tests").get("tests") or []:
        if test["status"] == "failed":
            found.append(f"test {test['binary']} {test['test']}: {test['why']}")
    for line in r.part("parity").get("runs") or []:
        if line["error"]:
            found.append(f"parity, {line['run']}: {line['error']}")
    for line in r.part("parity").get("comparisons") or []:
        if line.get("ok") is False:
            found.append(
                f"parity, {line['run']}: latents NMSE {line['latents_nmse']:.1e}, allowed {line['allowed_nmse']:.1e}"
                f", same bits without graph: {line.get('same_bits_without_graph', '-')}"
            )
    for run in r.part("sanitizer").get("runs") or []:
        if run["status"] == "failed":
            found.append(f"{run['check']} {run['dtype']} {run['kernels']}: {run['why'] or run['summary']}")
    for name, part in r.parts.items():
        if part.get("error"):
            found.append(f"{name}: {part['error']}")
        for line in part.get("records") or []:
            if line.get("error") and not name.startswith("torch"):
                found.append(f"{name}: {line.get('label') or line.get('micro_batch') or ''}: {line['error']}")
    for whose in ("own", "with_cublas"):
        runs = (r.part("sample").get(whose) or {}).values()
        found += [f"sample, {whose}: {run['error']}" for run in runs if run.get("error")]
    return found


def heading(r):
    facts = r.part("facts")
    gpu, torch = facts.get("gpu") or {}, facts.get("torch") or {}
    name = gpu.get("name") or "no GPU"
    r.add(f"## {r.results['date']}, {name if not r.stand_in else 'stand-in, no GPU'}", "")
    if r.stand_in:
        r.add(
            "**Run on the tests' stand-in for a GPU, as far as that goes: nothing was measured.**",
            "",
        )
    about = [
        ("commit", (facts.get("kit") or {}).get("commit")),
        ("driver", gpu.get("driver_version")),
        ("compute capability", gpu.get("compute_cap")),
        ("memory", gpu.get("memory.total")),
        ("SM clock at most", gpu.get("clocks.max.sm")),
        ("power limit", gpu.get("power.limit")),
        ("CUDA", facts.get("cuda")),
        ("PyTorch", torch.get("torch")),
        ("cuDNN", torch.get("cudnn")),
        ("processors", facts.get("processors")),
        ("glibc", facts.get("glibc")),
        ("python", facts.get("python")),
    ]
    r.add("; ".join(f"{what} {value}" for what, value in about if value) + ".", "")
    copy, product = r.ceiling()
    if copy or product:
        best = [
            copy and f"a copy moves {copy / 1e12:.2f} TB/s (read and written)",
            product
            and f"a bf16 product of 8192 x 8192 x 8192 in PyTorch does {product / 1e12:.0f} TFLOP/s on random data",
        ]
        r.add("At best, measured in this run: " + "; ".join(filter(None, best)) + ".", "")


def correctness(r):
    wrong = failures(r.results)
    r.add("### Correctness", "")
    r.add(*([f"- **{line}**" for line in wrong] or ["Nothing failed."]), "")
    said = [(f"{t['binary']} {t['test']}", t["said"]) for t in r.part("tests").get("tests") or [] if t.get("said")]
    said += [
        (f"{t['check']} {t['dtype']} {t['kernels']}", t["said"])
        for t in r.part("sanitizer").get("runs") or []
        if t.get("said")
    ]
    for name, lines in said[:12]:
        r.add(f"What {name} said last:", "", "```text", *(line[:200] for line in lines[-25:]), "```", "")
    tests = r.part("tests")
    if tests.get("counts"):
        counts, functions = tests["counts"], sum(t.get("passed", 0) for t in tests["tests"])
        r.add(
            f"Tests: {functions} passed in {counts['passed']} processes, {counts['failed']} processes failed, "
            f"{counts['not run']} not run.",
            "",
        )
    rows = [
        (
            c["run"],
            c["first_rewards"],
            c["rewards"],
            c["log_weights"],
            c["latents_nmse"],
            c.get("allowed_nmse"),
            "yes" if c["same_ancestors"] else "no",
            {True: "yes", False: "NO"}.get(c.get("same_bits_without_graph"), ""),
        )
        for c in r.part("parity").get("comparisons") or []
    ]
    r.add(
        *table(
            [
                "`das-cuda sample`, `shapes`, against the CPU in fp32",
                "first rewards",
                "rewards",
                "log-weights",
                "latents, NMSE",
                "allowed",
                "same ancestors",
                "graph = no graph",
            ],
            rows,
        )
    )
    rows = [
        (f["what"], f["reward_error"], f["eps_nmse"], f["x0_nmse"], f["grad_nmse"], f"{f['grad_cosine']:.6f}")
        for f in r.records("torch_step", "fidelity")
    ]
    r.add(
        *table(
            [
                "full size, against PyTorch in fp32",
                "reward, largest error",
                "noise, NMSE",
                "clean latent, NMSE",
                "gradient, NMSE",
                "gradient, cosine",
            ],
            rows,
        )
    )
    runs = r.part("sanitizer").get("runs") or []
    if runs:
        clean = sum(run["status"] == "clean" for run in runs)
        r.add(
            f"compute-sanitizer: {clean} of {len(runs)} runs clean, "
            f"{sum(run['status'] == 'not run' for run in runs)} not run.",
            "",
        )


def steps(r):
    theirs = [line for line in r.records("torch_step", "torch_step")]
    authors = next(
        (t.get("ms_per_particle") for t in theirs if t["variant"].startswith("authors") and t["chunk"] == 2), None
    )
    best = min((t["ms_per_particle"] for t in theirs if t.get("ms_per_particle")), default=None)
    rows = []
    ours = [("", s) for s in r.records("step", "step")]
    ours += [(" with cuBLASLt", s) for s in r.part("step").get("with_cublas") or []]
    for how, s in ours:
        if s.get("error"):
            rows.append((f"das-cuda, micro-batch {s['micro_batch']}", s["error"]) + ("",) * 6)
            continue
        plan, ms = s["plan"], r.time(s["ms_per_particle"])
        rate = plan["flops"] / s["micro_batch"] / ms * 1e3 / 1e12 if ms else None
        name = f"das-cuda{how} {s['dtype']}, micro-batch {s['micro_batch']}, {'graph' if s['graph'] else 'no graph'}"
        rows.append(
            (
                name,
                ms,
                rate,
                ratio(authors, ms),
                ratio(best, ms),
                s["peak"] / 1e9,
                plan["peak"] / 1e9,
                r.time(s["gpu"]["ms"] / s["wall"]["ms"]),
            )
        )
    for t in theirs:
        ms, peak = r.time(t.get("ms_per_particle")), t.get("peak")
        error = t.get("error")
        rows.append(
            (
                f"PyTorch, {t['variant']}, chunk {t['chunk']}",
                error[:60] if error else ms,
                None,
                ratio(authors, ms),
                ratio(best, ms),
                peak and peak / 1e9,
                None,
                None,
            )
        )
    if rows:
        r.add("### One guided step, Stable Diffusion 1.5's shapes, random weights", "")
    r.add(
        *table(
            [
                "program",
                "ms per particle-step",
                "TFLOP/s",
                "x authors' (chunk 2)",
                "x best PyTorch",
                "peak GB",
                "planned GB",
                "GPU's clock / host's",
            ],
            rows,
        )
    )
    gpu = r.part("step").get("gpu")
    if gpu:
        r.add(
            f"Meanwhile nvidia-smi saw at most {gpu['memory_mib'] / 1024:.1f} GiB in use (graphs, the pool), "
            f"{gpu['sm_mhz_median']:.0f} MHz in the median and up to {gpu['power_w']:.0f} W.",
            "",
        )
    sample = r.part("sample")
    for whose, name in [(whose, name) for whose in ("own", "with_cublas") for name in ("short", "long")]:
        run = (sample.get(whose) or {}).get(name) or {}
        how = "our kernels alone" if whose == "own" else "with cuBLASLt"
        if run.get("ms_per_particle") and not r.stand_in:
            ms, particles = run["ms_per_particle"], run["particles"]
            r.add(
                f"`das-cuda sample`, {how}, {particles} particles, {run['steps']} steps: {run['seconds']:.1f} s from start "
                f"to end, {run['loop_seconds']:.1f} s in the chain, {ms:.2f} ms per particle-step (100 steps at that "
                f"rate: {ms * particles / 10:.1f} s), tensors at most {run['peak'] / 1e9:.1f} GB.",
                "",
            )
        elif run.get("skipped"):
            r.add(f"16 particles, 100 steps, {how}: not run, {run['skipped']}.", "")


def where(r):
    calls = sorted(r.records("step", "call"), key=lambda c: -c["ms"])
    if not calls:
        return
    total = sum(c["ms"] for c in calls)
    r.add(
        "### Where the step's time goes",
        "",
        f"Micro-batch {calls[0]['micro_batch']}, no graph, marks around every operation; "
        f"{sum(c['calls'] for c in calls)} operations" + ("." if r.stand_in else f", {total:.1f} ms together."),
        "",
    )
    families = {}
    for c in calls:
        sums = families.setdefault(c["op"], [0, 0.0, 0, 0])
        for i, key in enumerate(("calls", "ms", "flops", "bytes")):
            sums[i] += c[key]
    rows = []
    for op, (count, ms, flops, bytes) in sorted(families.items(), key=lambda f: -f[1][1]):
        rows.append((op, count, r.time(ms), r.time(f"{100 * ms / total:.1f} %"), *r.rate(flops, bytes, ms)))
    r.add(*table(["operation", "calls", "ms", "share", "rate", "of the ceiling"], rows))
    rows = [
        (c["op"], c["arguments"], c["calls"], r.time(c["ms"]), *r.rate(c["flops"], c["bytes"], c["ms"]))
        for c in calls[: 0 if r.stand_in else 40]
    ]
    r.add(*table(["the 40 that take longest", "given", "calls", "ms", "rate", "of the ceiling"], rows))


def operations(r):
    theirs = {(t["label"], t.get("vjp")): t.get("ms") for t in r.records("torch_ops", "torch_op")}
    all_rows, ratios = [], {}
    for o in r.records("ops", "op"):
        torch, ms = r.time(theirs.get((o["label"], o["vjp"]))), r.time(o.get("ms"))
        faster = ratio(torch, ms)
        if faster:
            ratios.setdefault(o["op"], []).append(faster)
        name = o["label"] + (", transpose" if o["vjp"] else "")
        all_rows.append((name, o.get("error") or ms, *r.rate(o.get("flops"), o.get("bytes"), ms), torch, faster))
    if not all_rows:
        return
    r.add(
        "### Operations, bf16, micro-batch 16",
        "",
        "Medians of many starts replayed as a graph; what fits into the cache may be there, in both programs. Rates "
        "count products' multiply-adds twice, else bytes read and written once.",
        "",
    )
    rows = []
    for op, all_of in sorted(ratios.items()):
        product = 1.0
        for x in all_of:
            product *= x
        rows.append((op, len(all_of), product ** (1 / len(all_of)), min(all_of)))
    r.add(*table(["x PyTorch by operation", "cases", "geometric mean", "least"], rows))
    if r.stand_in:
        r.add(f"{len(all_rows)} operations ran.", "")
        return
    r.add("<details><summary>every operation</summary>", "")
    r.add(*table(["operation", "ms", "rate", "of the ceiling", "PyTorch ms", "x PyTorch"], all_rows))
    r.add("</details>", "")


def tiles(r):
    """Where another tile than the chosen one would be faster."""
    chosen = {(o["label"], o["vjp"]): o.get("ms") for o in r.records("ops", "op")}
    best = {}
    for t in r.records("tiles", "tile"):
        key = (t["label"], t["vjp"])
        if t.get("ms") and (key not in best or t["ms"] < best[key]["ms"]):
            best[key] = t
    if not best:
        return
    r.add("### Tiles of the products", "")
    if r.stand_in:
        r.add(f"{len(r.records('tiles', 'tile'))} plans of {len(best)} products ran.", "")
        return
    rows = [
        (
            label + (", transpose" if vjp else ""),
            chosen.get((label, vjp)),
            t["ms"],
            t["tile"],
            t["splits"],
            ratio(chosen.get((label, vjp)), t["ms"]),
        )
        for (label, vjp), t in best.items()
    ]
    rows.sort(key=lambda row: -(row[-1] or 0))
    r.add("<details><summary>chosen and best</summary>", "")
    r.add(*table(["product", "chosen ms", "best ms", "tile", "parts", "chosen / best"], rows))
    r.add("</details>", "")


def autotune(r):
    """Linear maps by our kernels and by cuBLASLt."""
    all_of = r.records("autotune", "autotune")
    if not all_of:
        return
    r.add("### Linear maps against cuBLASLt", "")
    if r.stand_in:
        r.add(f"{len(all_of)} linear maps were timed.", "")
        return
    rows = []
    for c in all_of:
        what = "w'" if c["transposed"] else "w"
        what += "".join(f" + {end}" for end in ("bias", "add") if c[end])
        what += f", {c['epilogue']}" if c.get("epilogue") else ""
        shape = f"{c['rows']} x {c['columns']} x {c['depth']}, {what}"
        times = (c["own_ms"], c["library_ms"])
        rates = (r.rate(c["flops"], 0, t)[0] for t in times)
        rows.append((shape, *times, *rates, ratio(*times), "cuBLASLt" if c["taken"] else "own"))
    rows.sort(key=lambda row: -(row[-2] or 0))
    r.add(f"cuBLASLt makes {sum(c['taken'] for c in all_of)} of {len(rows)}.", "")
    r.add("<details><summary>every shape</summary>", "")
    r.add(*table(["rows x columns x depth", "own ms", "cuBLASLt ms", "own", "cuBLASLt", "own / cuBLASLt", "taken"], rows))
    r.add("</details>", "")


def resampling(r):
    theirs = {(t["what"], t["particles"], t["sums"]): t.get("ms") for t in r.records("torch_smc", "torch_smc")}
    rows, copy = [], r.ceiling()[0]
    for s in r.records("smc", "smc"):
        ms = r.time(s.get("ms"))
        narrow, wide = (r.time(theirs.get((s["what"], s["particles"], sums))) for sums in ("float32", "float64"))
        rate = s["bytes"] / ms * 1e3 if ms else None
        rows.append(
            (
                s["what"],
                s["particles"],
                ms and ms * 1e3,
                rate and rate / 1e12,
                rate and copy and f"{100 * rate / copy:.0f} %",
                narrow and narrow * 1e3,
                wide and wide * 1e3,
                ratio(narrow, ms),
                ratio(wide, ms),
            )
        )
    if rows:
        r.add("### Weighing and resampling", "")
    r.add(
        *table(
            ["what", "particles", "us", "TB/s", "of a copy", "PyTorch f32 us", "PyTorch f64 us", "x f32", "x f64"],
            rows,
        )
    )


def markdown(results):
    r = Report(results)
    for section in (heading, correctness, steps, where, operations, autotune, tiles, resampling):
        try:
            section(r)
        except Exception as error:
            # The numbers are in results.json all the same.
            r.add(f"({section.__name__}: {type(error).__name__}: {error})", "")
    r.add(
        "Parts, seconds: "
        + ", ".join(f"{name} {part.get('part_seconds', 0)}" for name, part in r.parts.items())
        + "."
    )
    return "\n".join(r.lines)


def summary(results):
    """The last words: what failed, and the few numbers that matter most."""
    r, lines = Report(results), []
    wrong = failures(results)
    lines += [f"FAILED {line[:300]}" for line in wrong[:30]] or ["nothing failed"]
    if len(wrong) > 30:
        lines.append(f"... {len(wrong) - 30} more failures in report.md")
    for s in r.records("step", "step"):
        if s.get("ms_per_particle") and not r.stand_in:
            lines.append(
                f"step: micro-batch {s['micro_batch']} {'graph' if s['graph'] else 'no graph'}: "
                f"{s['ms_per_particle']:.2f} ms per particle-step, peak {s['peak'] / 1e9:.1f} GB"
            )
    for whose, runs in r.part("sample").items():
        run = isinstance(runs, dict) and (runs.get("long") or runs.get("short")) or {}
        if run.get("loop_seconds") and not r.stand_in:
            lines.append(f"sample, {whose}: {run['steps']} steps in {run['loop_seconds']:.1f} s, {run['seconds']:.1f} s in all")
    if r.stand_in:
        lines.append("on the stand-in: these are no GPU's numbers")
    return "\n".join(lines)
