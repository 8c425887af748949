"""Which part of a network a recipe freezes, and what its head must be to be solved."""

from collections.abc import Iterable

from torch import nn

from reslab.errors import InputError
from reslab.networks.catalogue import head_prefix
from reslab.networks.cutting import Cut, UncuttableError, cut
from reslab.recipes.recipe import Recipe


def freeze(network: nn.Module, recipe: Recipe) -> tuple[Cut | None, tuple[str, ...]]:
    """Let nothing train before the recipe's layer: the two parts, or None, and what to note.

    A network that cannot be cut has no parts; its head can still train alone.
    """
    if not recipe.frozen:
        return None, ()
    head = head_prefix(recipe.network, network)
    try:
        if recipe.train_from != "head":
            parts = cut(network, recipe.train_from)
        else:
            parts = cut_head(network, recipe)
    except UncuttableError as error:
        if recipe.train_from != "head":
            raise InputError(f"--train-from {recipe.train_from}: {error}") from None
        _let_train(network, [key for key, _ in network.named_parameters() if key.startswith(head)])
        return None, (
            f"{recipe.network} cannot be cut before its head ({error}): its frozen part is computed"
            " in every epoch",
        )
    _let_train(network, parts.after.state_dict())
    return parts, ()


def cut_head(network: nn.Module, recipe: Recipe) -> Cut:
    """The network cut before its last layer, the one that knows the classes.

    Raises UncuttableError.
    """
    heads = head_prefix(recipe.network, network)
    if len(heads) != 1:
        raise UncuttableError(f"it has {len(heads)} heads")
    return cut(network, heads[0].rstrip("."))


def _let_train(network: nn.Module, names: Iterable[str]) -> None:
    learning = set(names)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in learning)


def only_linear(network: nn.Module) -> nn.Linear:
    """The head as a layer. Raises InputError if it is no single linear layer."""
    layers = [layer for layer in network.modules() if not list(layer.children())]
    if len(layers) != 1 or not isinstance(layers[0], nn.Linear) or layers[0].bias is None:
        raise InputError(
            "head = 'solved' needs a head of one linear layer with biases, which this network has"
            " not; set --head trained"
        )
    return layers[0]


def check_solvable(network: nn.Module, recipe: Recipe) -> None:
    """Refuse before anything is computed what a solved head cannot do. Raises InputError."""
    if recipe.head == "solved":
        try:
            only_linear(cut_head(network, recipe).after)
        except UncuttableError as error:
            raise InputError(
                f"head = 'solved' needs a network that can be cut before its head, and"
                f" {recipe.network} cannot ({error}); set --head trained"
            ) from None
