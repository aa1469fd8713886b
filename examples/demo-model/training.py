"""What every stage shares: time as the budget, the learning-rate curve, the moving average, the loss log."""

import json
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from data import Shard, Shards, loader
from diffusers.training_utils import EMAModel


@dataclass
class Clock:
    """A stage's share of wall-clock seconds; `spent` carries over when training goes on in another process."""

    budget_seconds: float
    deadline: float  # time.monotonic() at which this process must have written its weights
    spent_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed_seconds(self) -> float:
        return self.spent_seconds + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        return min(1.0, self.elapsed_seconds / max(self.budget_seconds, 1e-9))

    @property
    def over(self) -> bool:
        return self.progress >= 1.0 or time.monotonic() >= self.deadline


@dataclass(frozen=True)
class Curve:
    """Learning rate: a short rise at every start, a plateau, a straight fall that begins at fall_from of the stage."""

    peak: float
    rise_steps: int = 150
    fall_from: float = 0.5
    floor: float = 0.02

    def at(self, step: int, progress: float) -> float:
        fall = max(self.floor, min(1.0, (1.0 - progress) / (1.0 - self.fall_from))) if self.fall_from < 1 else 1.0
        return self.peak * min(1.0, (step + 1) / self.rise_steps) * fall


class Learner:
    """AdamW, clipping, the moving average and the log, for one set of parameters."""

    def __init__(
        self, accelerator: Accelerator, modules: list[torch.nn.Module], *, curve: Curve, log: Path, stage: str
    ) -> None:
        self.accelerator, self.curve, self.log, self.stage = accelerator, curve, log, stage
        self.parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
        fused = accelerator.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=curve.peak, betas=(0.9, 0.99), weight_decay=0.01, fused=fused
        )
        self.ema = EMAModel(self.parameters, decay=0.9985, use_ema_warmup=True, inv_gamma=1.0, power=0.8, foreach=True)
        self.step, self._sum, self._since = 0, torch.zeros((), device=accelerator.device), time.monotonic()

    def update(self, loss: torch.Tensor, clock: Clock, *, pictures: int) -> None:
        """One step down the gradients that are in place; every hundredth is logged."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.curve.at(self.step, clock.progress)
        self.accelerator.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.parameters)
        self.step += 1
        self._sum += loss
        if self.step % 100 == 0 or self.step == 10:
            self._write(clock, pictures)

    def _write(self, clock: Clock, pictures: int) -> None:
        count = {10: 10, 100: 90}.get(self.step, 100)
        now = time.monotonic()
        line = {
            "stage": self.stage,
            "step": self.step,
            "seconds": round(clock.elapsed_seconds, 1),
            "loss": round(float(self._sum) / count, 5),
            "lr": round(self.optimizer.param_groups[0]["lr"], 7),
            "step_ms": round((now - self._since) / count * 1e3, 1),
            "pictures": pictures,
        }
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.step % 500 == 0 or self.step in (10, 100, 200):
            print(json.dumps(line), flush=True)
        self._sum.zero_()
        self._since = now

    def settle(self) -> None:
        """Puts the moving average in the place of the weights."""
        self.ema.copy_to(self.parameters)


class Feed:
    """Shards as they arrive, fetched by a thread, so that the GPU never waits for them."""

    def __init__(self, shards: Shards, *, workers: int) -> None:
        self._queue: queue.Queue[Shard | Exception] = queue.Queue(maxsize=64)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fetch, args=(shards, workers), daemon=True)
        self._thread.start()

    def _fetch(self, shards: Shards, workers: int) -> None:
        try:
            for shard in loader(shards, workers=workers):
                self._put(shard)
                if self._stopped.is_set():
                    return
        except Exception as error:  # noqa: BLE001 - a worker process died: the training thread must hear of it
            self._put(error)

    def _put(self, item: Shard | Exception) -> None:
        while not self._stopped.is_set():
            try:
                return self._queue.put(item, timeout=0.5)
            except queue.Full:
                continue

    @staticmethod
    def _checked(item: Shard | Exception) -> Shard:
        if isinstance(item, Exception):
            raise item
        return item

    def wait(self, count: int) -> Iterator[Shard]:
        """The next `count` shards, however long they take."""
        for _ in range(count):
            yield self._checked(self._queue.get())

    def ready(self, limit: int) -> Iterator[Shard]:
        """Up to `limit` shards that have arrived; none if there are none."""
        for _ in range(limit):
            try:
                yield self._checked(self._queue.get_nowait())
            except queue.Empty:
                return

    def stop(self) -> None:
        """Ends the worker processes."""
        self._stopped.set()
        self._thread.join(timeout=30)
