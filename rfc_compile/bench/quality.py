"""Sweeps every method's settings on the bundled model and compares the images.

Models run eagerly here (ours with `inner="eager"`): who compiles the graphs changes
images only by rounding, and a setting starts fast.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from rfc_compile.bench.frechet import Classifier, frechet_distance
from rfc_compile.bench.methods.base import Method, describe
from rfc_compile.bench.records import Quality
from rfc_compile.bench.workloads import Workload, plain
from rfc_compile.metrics import psnr, ssim


class Work:
    """Counts the multiplications in the linear layers of a model's blocks.

    Layers on a vector per sample (adaLN) are left out: every method computes them.
    """

    def __init__(self, model: nn.Module, workload: Workload) -> None:
        self.done = 0
        blocks = model.get_submodule(workload.blocks)
        self._layers = [m for m in blocks.modules() if isinstance(m, nn.Linear)]

    def watch(self) -> None:
        """Begin to count; costs compiled code dearly."""
        for layer in self._layers:
            layer.register_forward_hook(self._count)

    def _count(self, layer: nn.Linear, args: tuple[Tensor, ...], _: Tensor) -> None:
        if args[0].ndim == 3:
            self.done += args[0].numel() * layer.out_features


@cache
def _work_of_a_step(workload: Workload) -> int:
    """Of one image, without caching."""
    model = workload.make()
    work = Work(model, workload)
    work.watch()
    workload.draw(plain(model), 1, 1)
    return work.done


def run_eagerly(
    method: Method,
    workload: Workload,
    setting: Mapping[str, Any],
    images: int,
    steps: int,
) -> tuple[Tensor, float]:
    """The final latents of one run, and its NFC."""
    torch.compiler.reset()
    model = workload.make()
    work = Work(model, workload)
    applied = method.apply(model, workload, setting, "eager")
    if applied.nfc is None:
        work.watch()
    try:
        applied.begin()
        latents = workload.draw(applied.denoise, images, steps)
    finally:
        applied.close()
    if applied.nfc is not None:
        return latents, applied.nfc()
    return latents, work.done / (_work_of_a_step(workload) * images)


@dataclass(frozen=True)
class Judge:
    """Compares images with the uncached ones."""

    reference: Tensor
    classifier: Classifier

    def __call__(
        self, method: str, setting: str, images: Tensor, nfc: float
    ) -> Quality:
        """The numbers of one setting."""
        similarity = psnr(images, self.reference)
        features = [self.classifier.body(x) for x in (images, self.reference)]
        return Quality(
            method=method,
            setting=setting,
            nfc=nfc,
            psnr=similarity.mean().item(),
            psnr_min=similarity.min().item(),
            ssim=ssim(images, self.reference).mean().item(),
            frechet=frechet_distance(*features),
        )


def measure_quality(
    method: Method,
    workload: Workload,
    setting: Mapping[str, Any],
    judge: Judge,
    steps: int,
) -> Quality:
    """One setting; a method that fails gives its error instead of numbers."""
    line = describe(setting)
    try:
        images, nfc = run_eagerly(
            method, workload, setting, len(judge.reference), steps
        )
    except Exception as error:  # whatever a rival raises belongs in the table
        return Quality(method.name, line, error=one_line(error))
    return judge(method.name, line, images, nfc)


def one_line(error: Exception) -> str:
    """Type and start of the message."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
