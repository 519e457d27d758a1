"""Sweeps every method's settings on the bundled model and compares the images.

Models run eagerly here (ours with `inner="eager"`): who compiles the graphs changes
images only by rounding, and a setting starts fast.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rfc_compile.errors import one_line
from rfc_compile.tools.bench.frechet import Classifier, frechet_distance
from rfc_compile.tools.bench.methods.base import Method
from rfc_compile.tools.bench.records import Score
from rfc_compile.tools.bench.workloads import SELECTION_SEED, Workload, plain
from rfc_compile.tools.measure.metrics import psnr, ssim


class Work:
    """Counts the multiplications in the linear layers of a model's blocks.

    Layers on a vector per sample (adaLN) are left out: every method computes them.
    """

    def __init__(self, model: nn.Module, workload: Workload) -> None:
        self.done = 0
        self._layers = [
            module
            for block in workload.blocks_of(model)
            for module in block.modules()
            if isinstance(module, nn.Linear)
        ]

    def watch(self) -> None:
        """Begin to count, also under what a method puts in a layer's place."""
        for layer in self._layers:
            counted = functools.partial(self._counted, layer, layer.forward)
            layer.forward = counted  # type: ignore[method-assign]

    def leave(self) -> None:
        """Count no more; compiled code must not see the counting."""
        for layer in self._layers:
            del layer.forward

    def _counted(
        self, layer: nn.Linear, forward: Callable[[Tensor], Tensor], x: Tensor
    ) -> Tensor:
        if x.ndim == 3:
            self.done += x.numel() * layer.out_features
        return forward(x)


@functools.cache
def _work_of_a_step(workload: Workload) -> int:
    """Of one image, without caching."""
    model = workload.make()
    work = Work(model, workload)
    work.watch()
    workload.draw(plain(model), 1, 1, SELECTION_SEED)
    return work.done


def run_eagerly(
    method: Method,
    workload: Workload,
    setting: Mapping[str, Any],
    images: int,
    steps: int,
    seed: int = SELECTION_SEED,
) -> tuple[Tensor, float]:
    """The final latents of one run, and its NFC."""
    if method.ours or method.is_control:  # rivals run eagerly
        torch.compiler.reset()
    model = workload.make()
    work = Work(model, workload)
    work.watch()
    applied = method.apply(model, workload, setting, "eager")
    if applied.nfc is not None:
        work.leave()
    try:
        applied.begin()
        latents = workload.draw(applied.denoise, images, steps, seed)
    finally:
        applied.close()
    if applied.nfc is not None:
        return latents, applied.nfc()
    return latents, work.done / (_work_of_a_step(workload) * images)


@dataclass(frozen=True)
class Judge:
    """Compares images with the uncached ones, drawn from the same seed."""

    seed: int
    reference: Tensor
    classifier: Classifier

    def __call__(self, images: Tensor, nfc: float) -> Score:
        """The numbers of one setting."""
        similarity = psnr(images, self.reference)
        features = [self.classifier.body(x) for x in (images, self.reference)]
        return Score(
            nfc=nfc,
            psnr=similarity.mean().item(),
            psnr_min=similarity.min().item(),
            ssim=ssim(images, self.reference).mean().item(),
            frechet=frechet_distance(*features),
        )


def make_judge(
    workload: Workload, classifier: Classifier, images: int, steps: int, seed: int
) -> Judge:
    """A judge of that many images of a seed; draws the uncached ones."""
    reference = workload.draw(plain(workload.make()), images, steps, seed)
    return Judge(seed, reference, classifier)


def measure_quality(
    method: Method,
    workload: Workload,
    setting: Mapping[str, Any],
    judge: Judge,
    steps: int,
) -> Score | str:
    """The numbers of one setting, or the error of a method that fails."""
    count = len(judge.reference)
    try:
        found = run_eagerly(method, workload, setting, count, steps, judge.seed)
    except Exception as error:  # whatever a rival raises belongs in the table
        return one_line(error)
    return judge(*found)
