"""Exports in the frameworks' own classes, where these are installed; ``tests/frameworks.txt`` names the packages."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fullmesh.evidence.mapping import Case
from fullmesh.study.launch.folder import as_written
from fullmesh.study.launch.megatron import megatron_settings
from fullmesh.study.launch.outline import outline
from fullmesh.study.launch.yaml_text import parse_yaml
from strategies.published_plans import accepted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]
# options of Megatron's launch script that are no field of a configuration class
SCRIPT_OPTIONS = {
    "te-rng-tracker", "tokenizer-type", "vocab-size", "micro-batch-size", "global-batch-size", "seq-length",
    "position-embedding-type", "max-position-embeddings", "untie-embeddings-and-output-weights",
    "disable-bias-linear", "make-vocab-size-divisible-by", "grad-reduce-in-bf16", "group-query-attention",
    "accumulate-allreduce-grads-in-fp32", "num-layers-per-virtual-pipeline-stage", "ckpt-format",
}  # fmt: skip
RENAMED = {
    "num-experts": "num_moe_experts",
    "fp8-format": "fp8",
    "fp4-format": "fp4",
    "swiglu": "gated_linear_unit",
}
# what release 0.16 of Megatron core refuses and later ones do not; the README of such a folder says so
NEWER = "not supported with overlap_moe_expert_parallel_comm"


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{name} is not installed; tests/frameworks.txt names the packages")
    return Path(next(iter(spec.submodule_search_locations)))


def sample(framework: str, most: int) -> list[Case]:
    found = accepted(framework)
    return list(found[:: max(1, len(found) // most)])


def refused_by(cases: list[Case], accept: Callable[[Case], None]) -> dict[str, str]:
    out = {}
    for case in cases:
        try:
            accept(case)
        except Exception as error:
            out[case.row.id] = f"{type(error).__name__}: {error}"
    return out


def test_megatron_core_takes_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    package("megatron.core")
    torch = pytest.importorskip("torch")
    import megatron.core.transformer.transformer_config as module
    import packaging.version
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig
    from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout

    # the versions of kernels on a device, which is not here
    monkeypatch.setattr(module, "is_te_min_version", lambda *_, **__: True)
    monkeypatch.setattr("megatron.core.utils.get_te_version", lambda: packaging.version.Version("99"))
    types_ = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    unknown: set[str] = set()

    def accept(case: Case) -> None:
        settings = megatron_settings(case.plan, outline(case.model))
        values: dict[str, Any] = {RENAMED.get(n, n.replace("-", "_")): v for n, v in settings.items()}
        values |= {"attention_dropout": 0.0, "hidden_dropout": 0.0}
        half = torch.bfloat16 if "bf16" in settings else torch.float16
        values |= {
            "params_dtype": half,
            "pipeline_dtype": half,
            "add_bias_linear": "disable-bias-linear" not in settings,
        }
        if "swiglu" in settings:
            values["activation_func"] = torch.nn.functional.silu
        if "window-size" in settings:
            values["window_size"] = tuple(int(n) for n in settings["window-size"].split(","))
        for name in ("moe_layer_freq", "window_attn_skip_freq"):
            if name in values:
                runs = re.findall(r"\[([01])\]\*(\d+)", values[name])
                values[name] = [int(flag) for flag, n in runs for _ in range(int(n))]
        if case.plan.pp > 1 and case.plan.vpp > 1:
            values["virtual_pipeline_model_parallel_size"] = case.plan.vpp
        if "pipeline-model-parallel-layout" in settings:
            PipelineParallelLayerLayout.from_str(settings["pipeline-model-parallel-layout"], case.plan.pp)
        for name in ("exp_avg_dtype", "exp_avg_sq_dtype"):
            if name in values:
                values[name] = types_[values[name]]
        latent = "multi-latent-attention" in settings
        classes = (
            module.MLATransformerConfig if latent else module.TransformerConfig,
            DistributedDataParallelConfig,
            OptimizerConfig,
        )
        known: set[str] = set()
        for kind in classes:
            fields = {f.name for f in dataclasses.fields(kind)}
            known |= fields
            kind(**{n: v for n, v in values.items() if n in fields})
        unknown.update(n for n in settings if RENAMED.get(n, n.replace("-", "_")) not in known)

    cases = sample("megatron", 120)
    wrong = {k: v for k, v in refused_by(cases, accept).items() if NEWER not in v}
    assert not wrong
    assert unknown <= SCRIPT_OPTIONS
    assert len(cases) >= 80


def test_torchtitan_takes_every_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = package("torchtitan")
    if not (root / "config" / "job_config.py").is_file():
        pytest.skip(
            "this torchtitan has Python configurations; the TOML ones are those of releases below 0.3"
        )
    pytest.importorskip("tyro")
    pytest.importorskip("torch")
    for name in ("torchtitan", "torchtitan.config"):
        # the packages' own __init__ import kernels that need a device
        stand_in = types.ModuleType(name)
        stand_in.__path__ = [str(root / "config" if name.endswith("config") else root)]
        monkeypatch.setitem(sys.modules, name, stand_in)
    manager = importlib.import_module("torchtitan.config.manager")

    def accept(case: Case) -> None:
        written, _, _ = as_written(case.plan, case.model, "torchtitan")
        path = tmp_path / "train.toml"
        path.write_text(written.files["train.toml"])
        job = manager.ConfigManager().parse_args([f"--job.config_file={path}"])
        assert job.parallelism.tensor_parallel_degree == case.plan.tp
        assert job.training.seq_len == case.plan.seq

    cases = sample("torchtitan", 40)
    wrong = refused_by(cases, accept)
    for name in [n for n in sys.modules if n.startswith("torchtitan.")]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert not wrong
    assert len(cases) >= 15


def test_deepspeed_takes_every_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    package("deepspeed")
    pytest.importorskip("torch")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    try:
        config = importlib.import_module("deepspeed.runtime.config")
    except ImportError as error:
        pytest.skip(f"deepspeed cannot be imported: {error}")
    monkeypatch.setattr(config.dist, "get_rank", lambda *_: 0)

    def accept(case: Case) -> None:
        written, _, _ = as_written(case.plan, case.model, "deepspeed")

        class Groups:
            def get_data_parallel_world_size(self) -> int:
                return case.plan.dp

        settings = config.DeepSpeedConfig(json.loads(written.files["ds_config.json"]), Groups())
        assert settings.train_batch_size == case.plan.gbs

    cases = sample("deepspeed", 40)
    assert not refused_by(cases, accept)
    assert len(cases) >= 20


def fields_of(path: Path, *names: str) -> set[str]:
    """Fields of dataclasses of a source file, which is not imported."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef) and (not names or node.name in names):
            found |= {
                n.target.id
                for n in node.body
                if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
            }
    return found


def test_megatron_bridge_has_every_field() -> None:
    bridge, core = package("megatron.bridge"), package("megatron.core")
    config = bridge / "training" / "config.py"
    model = fields_of(bridge / "models" / "gpt_provider.py") | fields_of(core / "model_parallel_config.py")
    model |= fields_of(core / "transformer" / "transformer_config.py") | fields_of(
        bridge / "models" / "mla_provider.py"
    )
    sections = {
        "model": model,
        "train": fields_of(config, "TrainingConfig"),
        "ddp": fields_of(core / "distributed" / "distributed_data_parallel_config.py"),
        "optimizer": fields_of(core / "optimizer" / "optimizer_config.py"),
        "dist": fields_of(config, "DistributedInitConfig"),
        "scheduler": fields_of(config, "SchedulerConfig"),
        "logger": fields_of(config, "LoggerConfig"),
        "checkpoint": fields_of(config, "CheckpointConfig"),
        "rng": fields_of(config, "RNGConfig"),
        "tokenizer": fields_of(bridge / "training" / "tokenizers" / "config.py"),
        "comm_overlap": fields_of(bridge / "training" / "comm_overlap.py"),
        "dataset": fields_of(config, "GPTDatasetConfig", "MockGPTDatasetConfig", "DataloaderConfig")
        | fields_of(core / "datasets" / "gpt_dataset.py")
        | fields_of(core / "datasets" / "blended_megatron_dataset_config.py"),
    }
    containers = fields_of(config, "ConfigContainer")
    cases = sample("megatron-bridge", 60)
    for case in cases:
        written, _, _ = as_written(case.plan, case.model, "megatron-bridge")
        tree = parse_yaml(written.files["config.yaml"], where="config.yaml")
        tree.pop("_target_")
        assert set(tree) <= containers
        for section, values in tree.items():
            extra = set(values) - {"_target_"} - sections[section]
            assert not extra, (section, extra)
    assert len(cases) >= 50


def test_mindformers_has_every_key() -> None:
    root = package("mindformers")
    core = root / "parallel_core"
    # names that the mapping of configurations to its classes takes, in any of their forms
    text = "".join(
        (core / n).read_text("utf-8") for n in ("transformer_config_utils.py", "config_converter.py")
    )
    known = set(re.findall(r'"([a-z][a-z0-9_]+)"', text)) | fields_of(core / "transformer_config.py")
    known |= fields_of(core / "model_parallel_config.py") | {"model_type", "architectures", "seq_length"}
    shipped = "".join(p.read_text("utf-8") for p in root.parent.glob("configs/*/pretrain_*.yaml"))
    used = set(re.findall(r"^\s*(?:- )?([a-z][a-z0-9_]+):", shipped, re.MULTILINE))
    sources = "".join(p.read_text("utf-8", errors="ignore") for p in (root / "trainer").glob("*.py"))
    sources += "".join(p.read_text("utf-8", errors="ignore") for p in (root / "core").glob("**/*.py"))
    cases = sample("mindformers", 40)
    for case in cases:
        written, _, _ = as_written(case.plan, case.model, "mindformers")
        tree = parse_yaml(written.files["train.yaml"], where="train.yaml")
        model = tree.pop("model")["model_config"]
        assert set(model) <= known, set(model) - known
        todo: list[Any] = [tree]
        while todo:
            level = todo.pop()
            for key, value in level.items():
                assert (
                    key in used
                    or key in known
                    or f'"{key}"' in sources
                    or f"'{key}'" in sources
                    or key in sources
                ), key
                todo += [value] if isinstance(value, dict) else []
    assert len(cases) >= 20


# options of MindSpeed-LLM's pretrain_gpt.py beside Megatron's, from its documentation
MINDSPEED_OPTIONS = {
    "context-parallel-algo", "use-ascend-mc2", "moe-alltoall-overlap-comm", "num-layer-list", "use-torch-fsdp2",
    "swap-optimizer", "use-flash-attn", "shared-expert-gate",
}  # fmt: skip


def test_mindspeed_adds_only_what_its_documentation_has() -> None:
    for case in sample("mindspeed", 60):
        plain = set(megatron_settings(dataclasses.replace(case.plan, layout=""), outline(case.model)))
        own = set(megatron_settings(case.plan, outline(case.model), "mindspeed"))
        assert own - plain <= MINDSPEED_OPTIONS
