"""Files of torch.save for the reader of pickles: tests/golden/torch/*.pt.

The same small tensors in each of the ways in which published files hold them. Element i of a tensor is i - 3.
Run from the repository root: python tools/golden/torch_files.py
"""
import argparse
import collections
import pathlib

import torch

OUT = pathlib.Path("tests/golden/torch")


def numbers(*dims, dtype=torch.float32):
    return (torch.arange(torch.Size(dims).numel()) - 3).reshape(dims).to(dtype)


def tensors():
    whole = numbers(3, 4)
    channels_last = numbers(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    return collections.OrderedDict({
        "whole": whole,
        "half.weight": numbers(2, 3, dtype=torch.float16),
        "half.bias": numbers(3, dtype=torch.bfloat16),
        "double": numbers(2, dtype=torch.float64),
        "turned": numbers(3, 4).t().contiguous().t(),
        "conv": channels_last,
        "part": (torch.arange(40.0) - 13)[10:22].reshape(3, 4),  # a view into a longer storage
        "tied": whole,
        "trained": torch.nn.Parameter(numbers(2)),
        "scalar": torch.tensor(-3.0),
        "empty": torch.zeros(0, 4),
        "steps": numbers(2, dtype=torch.int64),
    })


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    weights = tensors()
    # Such as Lightning writes: settings, counters and an optimiser beside the weights.
    trained = torch.nn.Parameter(numbers(2))
    optimiser = torch.optim.Adam([trained])
    trained.sum().backward()
    optimiser.step()
    checkpoint = {
        "epoch": 3, "pytorch-lightning_version": "1.4.2", "rate": 1e-4, "large": 2**80, "none": None,
        "state_dict": weights, "optimizer_states": [optimiser.state_dict()],
        "hyper_parameters": argparse.Namespace(size=torch.Size([3, 4]), dtype=torch.float16, names={"a", "b"}),
    }
    torch.save(weights, OUT / "zip.pt")
    torch.save(weights, OUT / "protocol4.pt", pickle_protocol=4)
    torch.save(weights, OUT / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(weights, OUT / "legacy4.pt", _use_new_zipfile_serialization=False, pickle_protocol=4)
    # Attributes of Python's make a tensor one of another kind.
    noted = tensors()
    for tensor in noted.values():
        tensor.note = "of the file"
    torch.save(noted, OUT / "attributes.pt")
    torch.save({"a.weight": torch.zeros(2, 2).to(torch.float8_e4m3fn)}, OUT / "float8.pt")
    torch.save({"a.weight": numbers(2, 2).numpy()}, OUT / "numpy.pt")
    torch.save({"a.lora_down.weight": numbers(2, 2), "a.alpha": 4.0}, OUT / "alpha.pt")
    torch.save(checkpoint, OUT / "checkpoint.ckpt")
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, OUT / "module.pt")
    torch.save(torch.nn.Linear(2, 2), OUT / "network.pt")


if __name__ == "__main__":
    main()
