"""Trains and exports the shapes model. One entry point, one stage a call; every stage resumes where it stopped.

    python tools/shapes/train.py {tokens,clip,vae,unet,head,export,all} --out DIR --seed S --minutes M --assets DIR

`all` runs the stages in order and splits M minutes between them: a sixth to CLIP, a third to the VAE, half to the
UNet. CLIP and VAE do not need each other; the UNet needs both, the head needs CLIP.
"""
import argparse
import tempfile
from pathlib import Path

import torch
import torch.multiprocessing as multiprocessing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["tokens", "clip", "vae", "unet", "head", "export", "all"])
    parser.add_argument("--out", default="shapes-training", help="scratch folder for checkpoints")
    parser.add_argument("--assets", default=str(Path(__file__).resolve().parents[2] / "assets" / "shapes"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--threads", type=int, default=1, help="threads of each worker")
    parser.add_argument("--workers", type=int, default=2, help="processes that share the VAE's and the UNet's batches")
    parser.add_argument("--tune", action="store_true", help="VAE and UNet start from the weights in --assets, not from random ones")
    args = parser.parse_args()
    Path(args.out).mkdir(parents=True, exist_ok=True)
    shares = {"clip": 1 / 6, "vae": 1 / 3, "unet": 1 / 2}
    for stage in ["tokens", "clip", "vae", "unet", "head", "export"] if args.stage == "all" else [args.stage]:
        minutes = args.minutes * (shares.get(stage, 1) if args.stage == "all" else 1)
        if stage in ("vae", "unet") and args.workers > 1:
            meet = tempfile.mkdtemp()
            multiprocessing.spawn(work, (stage, args, minutes, f"file://{meet}/meet"), nprocs=args.workers)
        else:
            torch.set_num_threads(args.threads)
            run(stage, args, minutes)


def work(rank, stage, args, minutes, meet):
    """One of several workers."""
    torch.set_num_threads(args.threads)
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=args.workers)
    run(stage, args, minutes)
    torch.distributed.destroy_process_group()


def run(stage, args, minutes):
    if stage == "tokens":
        import tokens
        tokens.train(args.assets)
    elif stage == "clip":
        import train_clip
        train_clip.train(args.out, args.assets, args.seed, minutes)
    elif stage == "vae":
        import train_vae
        train_vae.train(args.out, args.assets, args.seed, minutes, args.tune)
    elif stage == "unet":
        import train_unet
        train_unet.train(args.out, args.assets, args.seed, minutes, args.tune)
    elif stage == "head":
        import train_head
        train_head.train(args.out, args.assets, args.seed)
    else:
        import models
        import train_clip
        import train_unet
        import train_vae
        models.export(args.assets, train_clip.load(args.out, args.assets), train_vae.load(args.out, args.assets), train_unet.load(args.out))


if __name__ == "__main__":
    main()
