"""What a run of das-cuda leaves (docs/formats.md), as dicts and lists."""

import json
import pathlib
from typing import NamedTuple


class Run(NamedTuple):
    """The records of a run."""

    run: dict
    """`run.json`: options, hashes, result."""
    trace: dict
    """`trace.jsonl`, a list per key with an entry per step."""
    particles: dict
    """`particles.jsonl`, a list per key with an entry per particle."""


def load_run(path):
    """The records in the folder of a run, such as `out/0000-a-star`.

    `pandas.DataFrame(load_run(path).particles)` is a table of them. A key that a line lacks is None there. Of a
    run that has not finished, what is not written yet is empty.
    """
    folder = pathlib.Path(path)
    file = folder / "run.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; give the folder of one run, such as out/0000-a-star")
    run = json.loads(file.read_text(encoding="utf-8"))
    return Run(run, _columns(folder / "trace.jsonl"), _columns(folder / "particles.jsonl"))


def _columns(file):
    if not file.is_file():
        return {}
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {number}: not JSON ({error})") from error
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [row.get(key) for row in rows] for key in keys}
