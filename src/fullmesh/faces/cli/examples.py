"""Examples under each ``--help``: what one would type, and what it answers. Every line is run by a test."""

from __future__ import annotations

import click

GRID = "docs/examples/sweep.toml"
SCENARIO = "docs/examples/deepseek-v3-cloudmatrix384.toml"
LAUNCH = "docs/examples/llama-3-8b.sh"

# command -> (what it answers, what one types)
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "compare": (
        ("Three machines, each as one buys it", "fullmesh compare deepseek-v3"),
        (
            "A given batch on equal numbers of devices",
            'fullmesh compare llama-3-8b --on h200,gb200 --chips 64 --batch "4M tokens"',
        ),
        (
            "The cheapest plan, one row a machine",
            "fullmesh compare llama-3-8b --on h100,gb200 --objective money --csv",
        ),
    ),
    "plan": (
        ("The three best layouts on two nodes", "fullmesh plan llama-3-8b --on h200 --chips 16 --top 3"),
        (
            "All figures for a program",
            "fullmesh plan qwen3-30b-a3b --on cloudmatrix384 --chips 64 --json",
        ),
    ),
    "check": (
        ("A launch script and its measured step", f"fullmesh check {LAUNCH} --on h200 --step-time 15s"),
        ("What to expect of a scenario, for a program", f"fullmesh check {SCENARIO} --json"),
    ),
    "sweep": (
        ("Every point of a grid, as a table", f"fullmesh sweep {GRID} --out rows.csv"),
        ("How the points ended, for a program", f"fullmesh sweep {GRID} --out rows.csv --json"),
    ),
    "goodput": (
        (
            "Days, spares and what faults cost, two ways to recover",
            "fullmesh goodput llama-3-8b --on h100 --tokens 1T --policy restart,memory",
        ),
        (
            "All figures for a program, and how many units 5 MW feed",
            "fullmesh goodput llama-3-8b --on cm384 --tokens 1T --site 5MW --json",
        ),
    ),
    "simulate": (
        ("Where the step of a plan goes", f"fullmesh simulate {SCENARIO}"),
        ("All figures for a program", f"fullmesh simulate {SCENARIO} --json"),
    ),
    "fabric": (
        ("Links, switches and bandwidth", "fullmesh fabric gb200-nvl72"),
        ("What a failed switch leaves", "fullmesh fabric gb200-nvl72 --fail nvswitch=1"),
    ),
    "validate": (("Every published result, the three worst by name", "fullmesh validate --worst 3"),),
    "calibrate": (("What can be fitted", "fullmesh calibrate --help"),),
    "catalog": (
        ("All chips and machines", "fullmesh catalog"),
        ("What sources disagree about", "fullmesh catalog --conflicts --parameter power"),
    ),
    "catalog faults": (("How often what breaks, and who says so", "fullmesh catalog faults"),),
    "catalog inputs": (("What a run rests on, with ranges", "fullmesh catalog inputs --json"),),
    "catalog model": (
        ("Layers and parameters of a model", "fullmesh catalog model Llama-3.1-70B-Instruct"),
        ("The work of each of its layers", "fullmesh catalog model qwen3-30b-a3b --ops"),
    ),
    "catalog models": (("All shipped models", "fullmesh catalog models"),),
    "catalog show": (("One machine, every figure with its source", "fullmesh catalog show cloudmatrix384"),),
    "doctor": (("What is installed and what is missing", "fullmesh doctor"),),
}


def attach(command: click.Command, name: str) -> click.Command:
    """Put the examples of a command under its help, and those of commands inside it under theirs."""
    lines = [line for about, typed in EXAMPLES.get(name, ()) for line in (f"  {about}:", f"    $ {typed}")]
    if lines and not command.epilog:
        # the first line keeps Click from filling the rest into a paragraph
        command.epilog = "\b\n" + "\n".join(["Examples:", *lines])
    if isinstance(command, click.Group):
        for inner, found in command.commands.items():
            attach(found, f"{name} {inner}")
    return command
