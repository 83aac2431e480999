"""Train small models on the device at hand and time the steps; runs in processes of its own."""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any

from fullmesh.here import ops
from fullmesh.here.device import Device, load_torch, open_device, serve
from fullmesh.here.jobs import Job, small_jobs
from fullmesh.here.models import SmallModel

torch: Any = load_torch()
_WARM_UP, _LEAST_STEPS, _MOST_STEPS = 2, 5, 40
# all jobs in turn, twice, so that a disturbance does not hit all steps of one of them
_ROUNDS = 2
# an accelerator's queue runs through several steps between two looks at the clock, as in training
_STEPS_PER_LOOK = {"cpu": 1, "cuda": 5, "npu": 5}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Steps of one job on one process.

    Parameters
    ----------
    clock_s, wall_s : list of float
        Seconds a step by the clock of the device and by the wall clock, one entry a look at the clock.
    loss : float
        After the last step.
    parameters : int
        On this process.
    """

    clock_s: list[float]
    wall_s: list[float]
    loss: float
    parameters: int


def time_job(job: Job, device: Device, rank: int, seconds: float) -> Times:
    """Train ``job`` for about ``seconds``, after a few steps that warm up."""
    dist = torch.distributed
    torch.manual_seed(1 if job.tp > 1 else 1 + rank)
    model = SmallModel(job.model, seq=job.seq, tp=job.tp, device=device.name, dtype=device.dtype)
    parameters = list(model.parameters())
    if job.dp > 1:
        for parameter in parameters:
            dist.broadcast(parameter.data, src=0)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    rows = torch.randint(job.model.vocab, (job.batch, job.seq + 1), device=device.name)
    tokens, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def step() -> Any:
        loss = model(tokens, targets)
        loss.backward()
        if job.dp > 1:
            flat = ops.flatten([p.grad for p in parameters])
            dist.all_reduce(flat)
            flat.div_(job.dp)
            offset = 0
            for p in parameters:
                p.grad = flat[offset : offset + p.numel()].view_as(p)
                offset += p.numel()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    for _ in range(_WARM_UP):
        step()
    device.synchronize()
    start = time.perf_counter()
    step()
    device.synchronize()
    num_steps = _agreed(
        min(_MOST_STEPS, max(_LEAST_STEPS, int(seconds / (time.perf_counter() - start)))), job, device
    )
    clocks, walls = [], []
    loss: Any = None
    per_look = _STEPS_PER_LOOK[device.kind]
    for _ in range(num_steps):
        before, wall = device.now_s(), time.perf_counter()
        for _ in range(per_look):
            loss = step()
        device.synchronize()
        clocks.append((device.now_s() - before) / per_look)
        walls.append((time.perf_counter() - wall) / per_look)
    return Times(
        clock_s=clocks, wall_s=walls, loss=float(loss), parameters=sum(p.numel() for p in parameters)
    )


def _agreed(num_steps: int, job: Job, device: Device) -> int:
    """The same number of steps on all processes: that of the first."""
    if job.num_processes == 1:
        return num_steps
    box = torch.tensor([num_steps], device=device.name)
    torch.distributed.broadcast(box, src=0)
    return int(box.item())


def handle(request: dict[str, Any], rank: int, num_processes: int) -> dict[str, Any]:
    """Run the jobs that the request names, all with ``num_processes`` processes."""
    device = open_device(request["device"], index=rank, clock=request["clock"])
    jobs = small_jobs(device.kind)
    share_s = float(request["seconds"]) / _ROUNDS
    rounds = [[time_job(jobs[i], device, rank, share_s) for i in request["jobs"]] for _ in range(_ROUNDS)]
    return {"jobs": [_merged(times, device) for times in zip(*rounds, strict=True)]}


def _merged(times: tuple[Times, ...], device: Device) -> dict[str, Any]:
    clock_s = [s for t in times for s in t.clock_s]
    return {
        "step_s": statistics.median(clock_s),
        "wall_s": statistics.median(s for t in times for s in t.wall_s),
        "steps": len(clock_s) * _STEPS_PER_LOOK[device.kind],
        "loss": times[-1].loss,
        "parameters": times[0].parameters,
    }


if __name__ == "__main__":
    serve(handle)
