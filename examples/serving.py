"""A small HTTP server: requests join and leave one batch between the steps of a model.

    python examples/serving.py --port 8000
    curl localhost:8000/images --json '{"prompt": "google fire"}' -o fire.png

Every request has its own number of steps and its own quality, and its image is the one
that it would be alone. A client that hangs up leaves the batch. `docs/serving.md` tells
more; `--measure` compares the throughput with that of the uncached model.

Shape suffixes: B rows (two a request, for guidance), N tokens, C channels.
"""

import asyncio
import base64
import io
import itertools
import json
import time
from argparse import ArgumentParser
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Literal

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

import rfc_compile
from rfc_compile.tools.measure.denoising import draw_noise, seeded
from rfc_compile.tools.measure.emoji_flux import EMOJI_FLUX, PIXELS, prompt_inputs

SAMPLER = "euler_shift3"


QUALITY = {"preset", "tolerance", "min_psnr", "target_nfc", "target_speedup", "off"}
"""Fields of an order that say how much is cached."""


class Order(BaseModel):
    """One image to draw; the last five fields are those of `rfc_compile.Row`."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(max_length=200)
    seed: int = Field(0, ge=0, lt=2**63)
    steps: int = Field(30, ge=1, le=200)
    guidance: float = Field(EMOJI_FLUX.guidance, ge=1, le=10)
    width: Literal[PIXELS] = PIXELS  # type: ignore[valid-type]
    height: Literal[PIXELS] = PIXELS  # type: ignore[valid-type]
    preset: str | None = None
    tolerance: float | None = None
    target_nfc: int | None = None
    min_psnr: float | None = None
    target_speedup: float | None = None
    off: bool = False

    @model_validator(mode="after")
    def is_allowed(self) -> "Order":
        """Refuse unknown words, and what rfc_compile refuses, in its words."""
        try:
            prompt_inputs([self.prompt])
            self.row("")
        except rfc_compile.OptionError as error:
            raise ValueError(str(error)) from None
        return self

    def row(self, name: str) -> rfc_compile.Row:
        """Its rows, as `rfc_compile.rows` takes them."""
        return rfc_compile.Row(name, self.steps, **self.model_dump(include=QUALITY))


class Job:
    """A request under way; `done` counts its steps, `news` tells of each."""

    numbers = itertools.count()

    def __init__(self, order: Order) -> None:
        self.order, self.row = order, order.row(f"request {next(self.numbers)}")
        self.sampler = EMOJI_FLUX.make_scheduler(SAMPLER, order.steps)
        self.x_1NC = draw_noise(seeded(1, order.seed), EMOJI_FLUX.latent_shape)
        given, empty = prompt_inputs([order.prompt])
        self.inputs = {name: torch.cat([given[name], empty[name]]) for name in given}
        self.news: asyncio.Queue[str] = asyncio.Queue()
        self.done, self.full_steps, self.left, self.error = 0, 0, False, ""

    @property
    def finished(self) -> bool:
        """Whether its image is drawn."""
        return self.done == self.order.steps

    def take(self, v_2NC: Tensor) -> None:
        """Go on by a step with the predictions for the prompt and for none."""
        wanted, empty = v_2NC.split(1)
        v_1NC = empty + self.order.guidance * (wanted - empty)
        t = self.sampler.timesteps[self.done]
        self.x_1NC = self.sampler.step(v_1NC, t, self.x_1NC).prev_sample
        self.done += 1

    def png(self) -> bytes:
        """Its image."""
        (image,) = EMOJI_FLUX.decode(self.x_1NC).clamp(-1, 1)
        pixels = (image * 127.5 + 127.5).round().to(torch.uint8).permute(1, 2, 0)
        file = io.BytesIO()
        Image.fromarray(pixels.numpy()).save(file, "PNG")
        return file.getvalue()


class Engine:
    """Draws all requests with one model, at most `most` at a time."""

    def __init__(self, model: Callable[..., Any], most: int = 8) -> None:
        self.model, self.most = model, most
        self.batch: list[Job] = []
        self.waiting: deque[Job] = deque()
        self.counts = Counter(requests=0, drawn=0, dropped=0, steps=0, full_steps=0)
        self.wake = asyncio.Event()

    def submit(self, order: Order) -> Job:
        """Have an image drawn."""
        self.counts["requests"] += 1
        self.waiting.append(job := Job(order))
        self.wake.set()
        return job

    async def run(self) -> None:
        """Step after step, for ever; requests join and leave in between."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as worker:
            while True:
                self.join_and_leave()
                if not self.batch:
                    self.wake.clear()
                    await self.wake.wait()
                    continue
                error = ""
                try:
                    await loop.run_in_executor(worker, self.step, self.batch)
                except Exception as failed:  # the clients get status 500
                    error = f"a step failed: {failed}"
                for job in self.batch:
                    job.left |= bool(error)
                    job.news.put_nowait(error)

    def join_and_leave(self) -> None:
        """Between two steps: who is done or gone leaves, who waits joins."""
        gone = [job for job in (*self.batch, *self.waiting) if job.left]
        self.counts["dropped"] += len(gone)
        self.batch = [job for job in self.batch if not (job.finished or job.left)]
        self.waiting = deque(job for job in self.waiting if not job.left)
        while self.waiting and len(self.batch) < self.most:
            self.batch.append(self.waiting.popleft())

    @torch.no_grad()
    def step(self, jobs: Sequence[Job]) -> None:
        """One call of the model for all requests of a batch."""
        start = time.perf_counter()
        rows = [job.row for job in jobs for _ in range(2)]
        x_BNC = torch.cat([job.x_1NC.expand(2, -1, -1) for job in jobs])
        times = [job.sampler.timesteps[job.done].expand(2) for job in jobs]
        t_B = torch.cat(times) * EMOJI_FLUX.timestep_scale
        given = {k: torch.cat([job.inputs[k] for job in jobs]) for k in jobs[0].inputs}
        given |= EMOJI_FLUX.shared
        with rfc_compile.rows(rows):
            v_BNC = self.model(x_BNC, timestep=t_B, **given).sample
        for job, v_2NC in zip(jobs, v_BNC.split(2), strict=True):
            job.take(v_2NC)
        self._count([job for job in jobs if job.finished])
        self.counts["calls"] += 1
        self.counts["rows"] += len(v_BNC)
        self.counts["seconds"] += time.perf_counter() - start

    def _count(self, finished: Sequence[Job]) -> None:
        samples = rfc_compile.stats(self.model).samples if finished else ()
        for job in finished:
            own = [sample.nfc for sample in samples if sample.name == job.row.name]
            job.full_steps = max(own, default=job.order.steps)
            self.counts["drawn"] += 1
            self.counts["steps"] += job.order.steps
            self.counts["full_steps"] += job.full_steps

    async def follow(self, job: Job, request: Request) -> AsyncIterator[int]:
        """Counts its steps, as long as none fails and its client is there."""
        try:
            for done in range(1, job.order.steps + 1):
                job.error = await job.news.get()
                if job.error or await request.is_disconnected():
                    return
                yield done
        finally:
            job.left = not job.finished


def create_app(engine: Engine) -> FastAPI:
    """The HTTP side of an engine."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        app.state.engine_task = asyncio.create_task(engine.run())
        yield
        app.state.engine_task.cancel()

    app = FastAPI(title="emoji-flux by rfc_compile", lifespan=lifespan)

    @app.post("/images", response_class=Response)
    async def draw(order: Order, request: Request) -> Response:
        """A PNG, with the number of steps that were computed in full."""
        job = engine.submit(order)
        async for _ in engine.follow(job, request):
            pass
        if job.error:
            raise HTTPException(500, job.error)
        headers = {"X-Full-Steps": str(job.full_steps)}
        return Response(job.png(), media_type="image/png", headers=headers)

    @app.post("/images/stream")
    async def stream(order: Order, request: Request) -> StreamingResponse:
        """A line of JSON a step, the last one with the PNG in base64."""
        job = engine.submit(order)

        async def lines() -> AsyncIterator[str]:
            async for done in engine.follow(job, request):
                yield json.dumps({"step": done, "steps": order.steps}) + "\n"
            png = base64.b64encode(job.png()).decode()
            last = {"full_steps": job.full_steps, "png": png}
            yield json.dumps({"error": job.error} if job.error else last) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the engine is up."""
        if app.state.engine_task.done():
            raise HTTPException(503, "the engine has stopped")
        return {"status": "ok"}

    @app.get("/statistics")
    async def statistics() -> dict[str, Any]:
        """What was done so far; `calls` and `rows` are the model's."""
        now = {"running": len(engine.batch), "waiting": len(engine.waiting)}
        return {**engine.counts, **now}

    return app


def compile_model(inner: str = "inductor", blocks: int = 6, cached: bool = True) -> Any:
    """emoji-flux, cut to so many blocks, with all graphs compiled for any batch."""
    model = EMOJI_FLUX.load()
    for name in EMOJI_FLUX.blocks:
        setattr(model, name, getattr(model, name)[:blocks])
    options = {"per_sample": True, "inner": inner} if cached else None
    backend = "rfc" if cached else inner
    model = torch.compile(model, backend=backend, options=options, dynamic=True)
    draw_all(Engine(model), [Order(prompt="fire", steps=6, target_nfc=3)])
    return model


def draw_all(engine: Engine, orders: Sequence[Order]) -> list[Job]:
    """Draws without a server, in as many batches as it takes."""
    jobs = [engine.submit(order) for order in orders]
    while not all(job.finished for job in jobs):
        engine.join_and_leave()
        engine.step(engine.batch)
    return jobs


def measure(inner: str) -> None:
    """Prints images per second, uncached and cached at three qualities, in turn."""
    cached, uncached = compile_model(inner), compile_model(inner, cached=False)
    for _, preset in itertools.product(range(2), (None, "quality", "balanced", "fast")):
        engine = Engine(cached if preset else uncached)
        orders = [
            Order(prompt=prompt, seed=i, steps=30 + 2 * i, preset=preset)
            for i, prompt in enumerate(EMOJI_FLUX.examples[:16])
        ]
        start = time.perf_counter()
        draw_all(engine, orders)
        speed = len(orders) / (time.perf_counter() - start)
        share = engine.counts["full_steps"] / engine.counts["steps"]
        print(f"{preset or 'uncached':8}: {speed:.2f} images/s, {share:.0%} steps full")


def main() -> None:
    """Serves until it is stopped."""
    parser = ArgumentParser(description=main.__doc__)
    add = parser.add_argument
    add("--port", type=int, default=8000)
    add("--inner", default="inductor", help="inner backend")
    add("--measure", action="store_true", help="measure, do not serve")
    args = parser.parse_args()
    if args.measure:
        measure(args.inner)
    else:
        uvicorn.run(create_app(Engine(compile_model(args.inner))), port=args.port)


if __name__ == "__main__":
    main()
