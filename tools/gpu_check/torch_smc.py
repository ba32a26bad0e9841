"""Resampling in PyTorch as its users write it: softmax, cumsum, searchsorted. Lines of JSON."""

import argparse
import json

import torch
from torch_time import Timer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", default="16,1000000,67108864")
    parser.add_argument("--budget-ms", type=float, default=60)
    args = parser.parse_args()
    torch.manual_seed(1)
    timer = Timer(args.device, args.budget_ms)
    for size in map(int, args.sizes.split(",")):
        # f32 sums, which are off by a percent at 1e7 particles, and f64 ones.
        for dtype in (torch.float32, torch.float64):
            with timer.scope():
                log_weights = torch.randn(size, device=args.device)
                u = torch.rand((), device=args.device, dtype=dtype)
                slots = torch.arange(size, device=args.device, dtype=dtype)

                def resample():
                    sums = torch.softmax(log_weights.to(dtype), 0).cumsum(0)
                    return torch.searchsorted(sums, (slots + u) / size).clamp_(max=size - 1)

                line = {"kind": "torch_smc", "what": "systematic", "particles": size}
                line["sums"] = str(dtype).split(".")[-1]
                print(json.dumps(line | timer.time(resample)), flush=True)


if __name__ == "__main__":
    main()
