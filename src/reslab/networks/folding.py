"""Batch norms folded into the convolutions before them: the same function, fewer passes."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_FOLDABLE = ("Conv2d", "Conv2dSame")  # timm's pads by itself and is a convolution otherwise
_CLOSE = 1e-4  # relative; folding rounds, and does no more


_tracing = threading.Lock()


class LayerTracer(fx.Tracer):
    """Stops at convolutions and batch norms, timm's with an activation inside included.

    While torch follows a network it changes how every module of the process is called. So one
    network is followed at a time, and modules that other threads call meanwhile, to train or to
    predict, are called as ever.
    """

    def trace(self, *given: Any, **named: Any) -> fx.Graph:
        with _tracing:
            self._thread = threading.get_ident()
            return super().trace(*given, **named)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, nn.BatchNorm2d | nn.Conv2d):
            return True
        return super().is_leaf_module(m, module_qualified_name)


def folded(network: nn.Module, example: torch.Tensor) -> nn.Module:
    """A copy for evaluation whose batch norms stand in the convolutions' weights.

    example: a picture (1, C, H, W) to compare both on. A network that cannot be traced, or does
    not come out the same, is returned as it is.
    """
    network = network.eval()
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()):
        return network  # nothing to fold; an exported one must not be traced either
    try:
        traced = fx.GraphModule(copied := copy.deepcopy(network), LayerTracer().trace(copied))
        _fold(traced)
    except Exception:  # control flow that depends on values: each network fails in its own way
        return network
    with torch.inference_mode():
        before, after = network(example), traced(example)
    if not bool((after - before).norm() <= _CLOSE * before.norm()):
        return network
    return traced


def _fold(traced: fx.GraphModule) -> None:
    layers: dict[str, Any] = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        norm = layers.get(str(node.target))
        if node.op != "call_module" or not isinstance(norm, nn.BatchNorm2d):
            continue
        before = node.args[0]
        if not (isinstance(before, fx.Node) and before.op == "call_module"):
            continue
        conv = layers[str(before.target)]
        uses = [other for other in traced.graph.nodes if other.target == before.target]
        if type(conv).__name__ not in _FOLDABLE or norm.running_var is None:
            continue
        if len(before.users) > 1 or len(uses) > 1:
            continue  # what the convolution gives is wanted without the norm too
        _put(traced, str(before.target), fuse_conv_bn_eval(conv, norm))
        activation = getattr(norm, "act", None)  # timm's norms carry theirs
        _put(traced, str(node.target), activation if activation is not None else nn.Identity())
        if activation is None:
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()


def _put(traced: fx.GraphModule, target: str, layer: nn.Module) -> None:
    parent, _, name = target.rpartition(".")
    setattr(traced.get_submodule(parent), name, layer)
