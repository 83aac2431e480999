"""Predictions of announced hardware: written once, with a digest that an edit breaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from oracles.scripts import load_script

blind = load_script("blind_predictions")
SMALL = ["--machines", "vera-rubin-nvl72", "--models", "llama-3-8b", "--precisions", "bf16"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("blind") / "page.md"
    assert blind.main(["--out", str(path), *SMALL]) == 0
    return path


def test_the_page_says_what_it_was_written_with(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = blind.TABLE.search(text)
    header, _, line = found["table"].splitlines()
    assert tuple(header.strip("| ").split(" | ")) == blind.COLUMNS
    cells = dict(zip(blind.COLUMNS, line.strip("| ").split(" | "), strict=True))
    assert cells["machine"] == "NVIDIA Vera Rubin NVL72, 72 devices"
    assert cells["step"].endswith("s")
    assert " to " in cells["80 % interval"]
    assert cells["MFU"].endswith("%")
    assert "DP" in cells["plan"]
    for word in ("| date | 20", "| program | fullmesh ", "| commit | `", blind.profiles_digest()):
        assert word in text
    assert blind.problems(text) == []


def test_an_edit_of_the_table_is_found(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page.read_text(encoding="utf-8")
    copy = tmp_path / "copy.md"
    for edit in (
        text.replace("llama", "lama").replace("Llama", "Lama"),
        text.replace("DP", "dp"),
        text.replace("<!--table-->", ""),
        text.replace("SHA-256 of the table", "digest"),
    ):
        assert edit != text
        assert blind.problems(edit)
        copy.write_text(edit, encoding="utf-8")
        assert blind.main(["--check", "--out", str(copy)]) == 1
    assert blind.main(["--check", "--out", str(page)]) == 0
    capsys.readouterr()


def test_the_page_is_written_once(page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = page.read_bytes()
    assert blind.main(["--out", str(page), *SMALL]) == 2
    assert "it is written once" in capsys.readouterr().err
    assert page.read_bytes() == before
    assert blind.main(["--out", str(page), "--again", *SMALL]) == 0
    assert blind.main(["--out", str(tmp_path / "none" / "page.md"), *SMALL]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_no_machine_that_has_shipped_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has shipped"):
        blind.main(["--out", str(tmp_path / "page.md"), "--machines", "h200", "--models", "llama-3-8b"])


def test_what_does_not_fit_says_why() -> None:
    cells = dict(zip(blind.COLUMNS, blind.row("vera-rubin-nvl72", "whatif-moe-10t", "bf16"), strict=True))
    assert cells["step"] == "does not fit"
    assert "memory" in cells["plan"]


@pytest.mark.skipif(not blind.PAGE.exists(), reason="the page is not written yet")
def test_the_table_of_the_page_is_the_one_that_was_written() -> None:
    text = blind.PAGE.read_text(encoding="utf-8")
    assert blind.problems(text) == []
    assert "not committed" not in text
    for name in blind.MACHINES:
        assert f"catalog show {name}" in text
