"""The reference has every command, option, plan field and file key; links between pages hold."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path

import click
import pytest

from fullmesh.catalog.prices import COLUMNS as PRICE_COLUMNS
from fullmesh.faces.cli.main import COMMANDS
from fullmesh.machine.file_form import (
    ChipSpec,
    EndpointSpec,
    MachineSpec,
    PowerSpec,
    PublishedSpec,
    SizeSpec,
    TierSpec,
)
from fullmesh.machine.software import load_software
from fullmesh.plan import Plan
from fullmesh.plan.plan import CHOICES, MODULES
from oracles.scripts import numbers

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
PAGES = [ROOT / n for n in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
# written by `fullmesh validate --document`; there from the day on which that option works
GENERATED = {ROOT / "docs" / "accuracy.md"}


def section(title: str) -> str:
    found = re.search(rf"^#+ {re.escape(title)}.*?(?=^#|\Z)", REFERENCE, re.DOTALL | re.MULTILINE)
    assert found, f"docs/reference.md has no section {title!r}"
    return found[0]


@pytest.mark.parametrize("name", numbers.commands())
def test_every_option_of_every_command(name: str) -> None:
    text = section(f"fullmesh {name}")
    command = numbers.find_command(name)
    options = [p for p in command.params if isinstance(p, click.Option)]
    for option in options:
        assert f"| `{option.opts[0]}" in text, option.opts[0]
        assert (option.help or "") in text
        if isinstance(option.type, click.Choice):
            assert "\\|".join(option.type.choices) in text
    shown = set(re.findall(r"^\| `(--[a-z0-9-]+)", text, re.MULTILINE))
    assert shown == {o.opts[0] for o in options}
    for argument in command.params:
        if isinstance(argument, click.Argument):
            assert (argument.metavar or str(argument.name)).upper() in text


def test_every_command_is_in_both_readmes() -> None:
    for page in PAGES[:2]:
        text = page.read_text(encoding="utf-8")
        assert all(f"`fullmesh {name}`" in text for name in COMMANDS), page.name


def test_every_field_of_a_plan() -> None:
    text = section("Scenario files")
    for field in dataclasses.fields(Plan):
        assert f"`{field.name}`" in text, field.name
    for choices in (*CHOICES.values(), MODULES):
        assert all(choice in text for choice in choices), choices


def test_every_key_of_a_machine_file_and_column_of_a_price_file() -> None:
    text = section("Machine files")
    for model in (MachineSpec, SizeSpec, TierSpec, EndpointSpec, PowerSpec, PublishedSpec, ChipSpec):
        for key in (field.name for field in dataclasses.fields(model)):
            assert f"`{key}`" in text or f"[{key}]" in text, key
    assert all(f"`{name}`" in text for name in load_software())
    assert all(f"`{column}`" in section("Price files") for column in PRICE_COLUMNS)


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if path in GENERATED and importlib.util.find_spec("fullmesh.validate.document") is None:
            continue
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {target}"


def test_every_page_is_reached_from_the_readme() -> None:
    texts = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for page in sorted((ROOT / "docs").glob("*.md")):
        assert re.search(rf"\]\((?:docs/)?{re.escape(page.name)}", texts), page.name


def test_places_of_assumptions_exist() -> None:
    text = (ROOT / "docs" / "assumptions.md").read_text(encoding="utf-8")
    for place in re.findall(
        r"`((?:data|workload|machine|plan|cost|network|outcomes|search|evidence|calibrate|validate|study)/[\w./*\-]*)`",
        text,
    ):
        assert list((ROOT / "src" / "fullmesh").glob(place.rstrip("/"))), place
