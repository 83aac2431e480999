"""The small models split over two processes compute what the whole model computes: loss and gradients."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from fullmesh.here.device import launch, load_torch, serve
from fullmesh.here.jobs import gpt, llama

MODELS = {"gpt": gpt(64, 2, 4, 128, 32), "llama": llama(64, 2, 4, 2, 96, 128)}
# which dimension of a parameter is split, by the end of its name
COLUMNS = (
    "q.weight",
    "k.weight",
    "v.weight",
    "q.bias",
    "k.bias",
    "v.bias",
    "gate.weight",
    "up.weight",
    "up.bias",
)
ROWS = ("out.linear.weight", "down.linear.weight")


def part_of(name: str, whole: Any, rank: int, tp: int) -> Any:
    if name.endswith(COLUMNS):
        return whole.chunk(tp, dim=0)[rank]
    return whole.chunk(tp, dim=1)[rank] if name.endswith(ROWS) else whole


def handle(request: dict[str, Any], rank: int, tp: int) -> dict[str, Any]:
    """Largest differences of loss and gradients between the whole model and this process's part of it."""
    torch = load_torch()
    from fullmesh.here.models import SmallModel

    torch.manual_seed(0)
    whole = SmallModel(MODELS[request["model"]], seq=16, tp=1, device="cpu", dtype=torch.float32)
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # biases too
    part = SmallModel(MODELS[request["model"]], seq=16, tp=tp, device="cpu", dtype=torch.float32)
    # a bias after a sum stands beside its product in the split model, inside it in the whole one
    names = {
        n: n.replace("out.bias", "out.linear.bias").replace("down.bias", "down.linear.bias")
        for n, _ in part.named_parameters()
    }
    source = dict(whole.named_parameters())
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            parameter.copy_(part_of(name, source[names[name]], rank, tp))
    tokens, targets = torch.randint(128, (2, 16)), torch.randint(128, (2, 16))
    losses = [model(tokens, targets) for model in (whole, part)]
    for loss in losses:
        loss.backward()
    # against the largest of all: the bias of the keys has none, since softmax takes no notice of it
    largest = max(float(p.grad.abs().max()) for p in source.values())
    gradients = {
        name: float((p.grad - part_of(name, source[names[name]].grad, rank, tp)).abs().max()) / largest
        for name, p in part.named_parameters()
    }
    return {"loss": abs(float(losses[0] - losses[1])), "gradients": gradients, "parameters": len(source)}


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs PyTorch: pip install 'fullmesh[torch]'"
)
@pytest.mark.parametrize("model", sorted(MODELS))
def test_tensor_parallel_parts_agree_with_the_whole(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    request = {"model": model, "device": "cpu"}
    for answer in launch("test_split", request, num_processes=2, timeout_s=60.0, what="splitting a model"):
        assert answer["loss"] < 1e-4
        assert len(answer["gradients"]) == answer["parameters"]
        off = {name: error for name, error in answer["gradients"].items() if error > 1e-4}
        assert not off


if __name__ == "__main__":
    serve(handle)
