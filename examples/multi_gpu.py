"""One model on several devices: rfc decides for all that share a computation.

With `tensor` every rank holds a part of each block (Megatron's split), and the ranks
meet in two sums a block. At a cached step they skip these too, so all of them must skip
the same steps: rfc finds their group in the graph, and they decide together. With
`data` every rank draws images of its own and decides for itself.

Run: torchrun --nproc-per-node 2 examples/multi_gpu.py [--parallel tensor|data]

It takes one accelerator per rank, or the CPU (with gloo) where there is none.
"""

import os
from argparse import ArgumentParser

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import rfc_compile
from rfc_compile.tools.measure import glyph_dit

SPLIT = {
    "attn1.to_q": ColwiseParallel(),
    "attn1.to_k": ColwiseParallel(),
    "attn1.to_v": ColwiseParallel(),
    "attn1.to_out.0": RowwiseParallel(),
    "ff.net.0.proj": ColwiseParallel(),
    "ff.net.2": RowwiseParallel(),
}


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Leaves every rank its heads and its hidden units; their number must divide."""
    for block in model.transformer_blocks:
        parallelize_module(block, mesh, SPLIT)
        block.attn1.heads //= mesh.size()


def main() -> None:
    """Samples the same noise uncached and with rfc, on every rank."""
    parser = ArgumentParser(description=main.__doc__)
    parser.add_argument("--parallel", choices=["tensor", "data"], default="tensor")
    parser.add_argument("--inner", default="inductor", help="inner backend")
    parser.add_argument("--threshold", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()

    device = glyph_dit.default_device()
    if device.type != "cpu":
        device = torch.device(device.type, int(os.environ["LOCAL_RANK"]))
        torch.accelerator.set_device_index(device.index)
    distributed.init_process_group()
    rank, ranks = distributed.get_rank(), distributed.get_world_size()

    model = glyph_dit.load_glyph_dit().to(device)
    seed = rank
    if args.parallel == "tensor":
        shard(model, init_device_mesh(device.type, (ranks,)))
        seed = 0
    labels = torch.arange(4, device=device)
    settings = {"labels": labels, "seed": seed, "steps": args.steps}

    reference = glyph_dit.sample(model, **settings)
    options = {"threshold": args.threshold, "inner": args.inner}
    compiled = torch.compile(model, backend="rfc", options=options)
    images = glyph_dit.sample(compiled, **settings)

    error = (images - reference).square().mean()
    statistics = rfc_compile.stats(compiled)
    lines = [
        f"rank {rank}: {statistics.nfc} full steps of {statistics.steps}, "
        f"PSNR {10 * torch.log10(4 / error):.1f} dB"
    ]
    if rank == 0:
        lines.insert(0, str(rfc_compile.explain(compiled)))
    for turn in range(ranks):
        distributed.barrier()
        if turn == rank:
            print("\n".join(lines), flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
