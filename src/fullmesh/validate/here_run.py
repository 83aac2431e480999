"""Train small models on the device at hand and time the steps; runs in processes of its own."""

from __future__ import annotations

import statistics
import time
from typing import Any

from fullmesh.calibrate import here_ops as ops
from fullmesh.calibrate.here_device import Device, load_torch, open_device, serve
from fullmesh.validate.here_jobs import Job, small_jobs
from fullmesh.validate.here_models import SmallModel

torch: Any = load_torch()
_WARM_UP, _LEAST_STEPS, _MOST_STEPS = 3, 7, 60
# an accelerator's queue runs through several steps between two looks at the clock, as in training
_STEPS_PER_LOOK = {"cpu": 1, "cuda": 5, "npu": 5}


def time_job(job: Job, device: Device, rank: int, seconds: float) -> dict[str, Any]:
    """Train ``job`` for about ``seconds``.

    Returns
    -------
    dict
        ``step_s`` by the clock of the device and ``wall_s``, medians over the steps; ``steps``; ``loss``;
        ``parameters`` and ``tensors`` on this process.
    """
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
    return {
        "step_s": statistics.median(clocks),
        "wall_s": statistics.median(walls),
        "steps": num_steps * per_look,
        "loss": float(loss),
        "parameters": sum(p.numel() for p in parameters),
        "tensors": len(parameters),
    }


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
    return {"jobs": [time_job(jobs[i], device, rank, float(request["seconds"])) for i in request["jobs"]]}


if __name__ == "__main__":
    serve(handle)
