"""A stage of the models' recipe makes its product once, whole or not at all, and again only when its recipe is another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from models.train.stages import Stage, run


@dataclass(frozen=True, slots=True)
class Parameters:
    steps: int = 1


class Kitchen:
    """Two stages, the second of the first's product; ``made`` is what was made, in order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.made: list[str] = []

    def stages(self, first: Parameters, second: Parameters) -> Stage:
        dough = Stage("dough", self._folder / "work" / "dough", self._make("dough"), first)
        return Stage("bread", self._folder / "bread", self._make("bread", dough.product), second, (dough,))

    def _make(self, name: str, of: Path | None = None) -> Callable[[Path], None]:
        def make(path: Path) -> None:
            self.made.append(name)
            path.write_text(f"{name} {len(self.made)}" + (f" of {of.read_text()}" if of else ""))

        return make


@pytest.fixture
def kitchen(tmp_path: Path) -> Kitchen:
    return Kitchen(tmp_path)


def quiet(_text: str) -> None: ...


def test_what_comes_before_is_made_before(kitchen: Kitchen) -> None:
    bread = kitchen.stages(Parameters(), Parameters())
    run(bread, quiet)
    assert bread.product.read_text() == "bread 2 of dough 1"


def test_what_is_there_is_kept(kitchen: Kitchen) -> None:
    run(kitchen.stages(Parameters(), Parameters()), quiet)
    run(kitchen.stages(Parameters(), Parameters()), quiet)
    assert kitchen.made == ["dough", "bread"]


def test_another_recipe_makes_again_what_depends_on_it_and_nothing_else(kitchen: Kitchen) -> None:
    run(kitchen.stages(Parameters(), Parameters()), quiet)
    run(kitchen.stages(Parameters(), Parameters(steps=2)), quiet)
    assert kitchen.made == ["dough", "bread", "bread"]
    run(kitchen.stages(Parameters(steps=2), Parameters(steps=2)), quiet)
    assert kitchen.made == ["dough", "bread", "bread", "dough", "bread"]


def test_a_stage_that_fails_leaves_no_product_and_keeps_the_one_before(kitchen: Kitchen, tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("the oven is cold")

    bread = kitchen.stages(Parameters(), Parameters())
    with pytest.raises(RuntimeError):
        run(replace(bread, make=fail), quiet)
    assert not bread.product.exists()
    assert not bread.is_made
    run(bread, quiet)
    assert bread.product.read_text() == "bread 2 of dough 1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bread", "bread.made", "work"]


def test_folders_are_products_too(tmp_path: Path) -> None:
    def make(path: Path) -> None:
        path.mkdir()
        (path / "file").write_text("content")

    stage = Stage("folder", tmp_path / "folder", make, Parameters())
    run(stage, quiet)
    run(replace(stage, parameters=Parameters(steps=2)), quiet)
    assert [path.name for path in stage.product.iterdir()] == ["file"]
