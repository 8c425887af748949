"""A network cut in two before one of its layers: what is frozen, and what trains."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx, nn

from reslab.errors import nearest
from reslab.networks.folding import LayerTracer


class UncuttableError(Exception):
    """The network cannot be cut there; the message says why."""


@dataclass(frozen=True)
class Cut:
    """Two networks that together are the whole; they share its parameters under their names.

    before: pictures (N, C, H, W) to features (N, ...). after: features to logits (N, classes).
    """

    before: fx.GraphModule
    after: fx.GraphModule


def cut(network: nn.Module, layer: str) -> Cut:
    """Cut a network before the layer of this name, as it computes in evaluation mode.

    Raises UncuttableError if the network's code cannot be traced, if it has no such layer, or if
    not one tensor alone passes before it.
    """
    try:
        graph = LayerTracer().trace(network.eval())
    except Exception as error:  # control flow that depends on values: each fails in its own way
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UncuttableError(f"its layers cannot be followed: {reason}") from None
    places = _places(graph)
    if layer not in places:
        inside = any(layer in _names(node) for node in graph.nodes)
        problem = "not one tensor alone passes before it" if inside else "no such layer"
        known = (*(name for name in places if name.count(".") <= 1), "head", "all")
        raise UncuttableError(f"{problem}{nearest(layer, known)}")
    before = fx.GraphModule(network, _up_to(graph, places[layer]))
    after = fx.GraphModule(network, _from(graph, places[layer]))
    own, first, second = (part.state_dict().keys() for part in (network, before, after))
    if first & second or (second | first) - own:
        # A layer that computes on both sides, or a constant that tracing has made.
        raise UncuttableError("its parts are not independent")
    return Cut(before, after)


def _names(node: fx.Node) -> Iterator[str]:
    """The layers a node belongs to: layer4, layer4.0 and layer4.0.conv1."""
    if node.op in ("call_module", "get_attr"):
        parts = str(node.target).split(".")
        yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _places(graph: fx.Graph) -> dict[str, fx.Node]:
    """The layers before which only one tensor passes, and it is not the picture: what makes it."""
    number = {node: index for index, node in enumerate(graph.nodes)}
    last_use = {
        node: max((number[user] for user in node.users), default=-1)
        for node in graph.nodes
        if node.op != "get_attr"  # a parameter is at hand on either side
    }
    alive: list[fx.Node] = []
    begun: set[str] = set()
    places = {}
    for node in graph.nodes:
        alive = [other for other in alive if last_use[other] >= number[node]]
        for name in _names(node):
            if name not in begun and len(alive) == 1 and alive[0].op != "placeholder":
                places[name] = alive[0]
            begun.add(name)
        if node in last_use:
            alive.append(node)
    return places


def _up_to(graph: fx.Graph, place: fx.Node) -> fx.Graph:
    part = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        copied[node] = part.node_copy(node, copied.__getitem__)
        if node is place:
            break
    part.output(copied[place])
    return _without_unused(part)


def _from(graph: fx.Graph, place: fx.Node) -> fx.Graph:
    part = fx.Graph()
    copied = {place: part.placeholder("features")}
    passed = False
    for node in graph.nodes:
        if passed or node.op == "get_attr":
            copied[node] = part.node_copy(node, copied.__getitem__)
        passed = passed or node is place
    return _without_unused(part)


def _without_unused(part: fx.Graph) -> fx.Graph:
    for node in reversed(part.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            part.erase_node(node)
    return part
