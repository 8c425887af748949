"""Recipes are data: out to TOML and in again, any field by its dotted name."""

import pytest

from reslab.errors import InputError
from reslab.learning.schedules import rate_factor
from reslab.recipes.files import load_recipe, parse_recipe, recipe_names, recipe_text
from reslab.recipes.groups import Schedule
from reslab.recipes.recipe import FIELD_NAMES, Recipe


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_survives_toml(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert parse_recipe(recipe.to_toml(), "there") == recipe


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_opens_with_what_to_expect(name):
    lines = recipe_text(name).splitlines()
    assert lines[0].startswith("# ")
    assert lines[1].startswith("# Command: reslab train ")
    assert lines[2].startswith(("# Published: ", "# Expected: "))


def test_the_six_published_recipes_and_four_of_our_own():
    assert set(recipe_names()) == {
        "mnist-resblock", "mnist-resnet", "mnist-cnn", "cifar10-resnet18", "photos-resnet152",
        "photos-cnn", "small-resnet", "photos", "mnist-fast", "cifar10-fast",
    }  # fmt: skip


def test_fields_by_dotted_name_as_text():
    recipe = Recipe().with_fields(
        {
            "epochs": "3", "optimizer.lr": "1e-3", "optimizer.name": "adam", "shuffle": "false",
            "preprocess.size": "28,32", "preprocess.mean": "0.5", "preprocess.channels": "1",
            "augment.resize": "40", "augment.flip-horizontal": "0.5",
        }
    )  # fmt: skip
    assert (recipe.epochs, recipe.optimizer.lr, recipe.shuffle) == (3, 0.001, False)
    assert recipe.preprocess.size == (28, 32)
    assert recipe.preprocess.mean == (0.5,)
    assert recipe.preprocess.channels == 1
    assert recipe.augment.resize == (40, 40)
    assert recipe.augment.flip_horizontal == 0.5


def test_every_field_can_be_set():
    """Setting each field to its own value is accepted, whatever its type."""
    recipe = load_recipe("photos-cnn")
    for name in FIELD_NAMES:
        value = recipe
        for part in name.split("."):
            value = getattr(value, part)
        if value is None:
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert recipe.with_fields({name: text}) == recipe, name


def test_all_wrong_fields_are_named_at_once():
    with pytest.raises(InputError) as caught:
        Recipe().with_fields({"optimizer.lrr": 1, "epoch": 2})
    assert "did you mean 'optimizer.lr'" in str(caught.value)
    assert "did you mean 'epochs'" in str(caught.value)
    with pytest.raises(InputError) as caught:
        Recipe().with_fields({"epochs": 0, "optimizer.name": "adm", "optimizer.lr": "x"})
    assert len(caught.value.problems) == 3


def test_a_toml_file_is_typed_strictly():
    with pytest.raises(InputError, match="there:1: epochs"):
        parse_recipe('epochs = "3"', "there")
    with pytest.raises(InputError, match=r"there:3: optimizer\.nesterov"):
        parse_recipe("[optimizer]\nlr = 1\nnesterov = 1", "there")
    assert parse_recipe("[optimizer]\nlr = 1", "there").optimizer.lr == 1


def test_a_recipe_that_notepad_saved_is_read(tmp_path):
    """With a byte order mark before its first line."""
    (tmp_path / "r.toml").write_text("seed = 7\n", "utf-8-sig")
    assert load_recipe(tmp_path / "r.toml").seed == 7


def test_schedules():
    constant = Schedule()
    assert {rate_factor(constant, step, 100) for step in range(100)} == {1.0}
    cycle = [rate_factor(Schedule(name="one-cycle"), step, 100) for step in range(100)]
    assert cycle.index(max(cycle)) in (29, 30)
    assert max(cycle) > 0.99
    assert 0 < cycle[0] < 0.05
    assert cycle[-1] < 0.01
    cosine = [rate_factor(Schedule(name="cosine"), step, 100) for step in range(100)]
    assert cosine[0] == 1
    assert cosine == sorted(cosine, reverse=True)
    linear = [rate_factor(Schedule(name="linear"), step, 100) for step in range(100)]
    assert linear[0] == 1
    assert linear[-1] == pytest.approx(0.01)
    assert linear[50] == pytest.approx(0.5)
    warm = [rate_factor(Schedule(name="constant", warmup=0.1), step, 100) for step in range(100)]
    assert warm[:10] == sorted(warm[:10])
    assert set(warm[10:]) == {1.0}
