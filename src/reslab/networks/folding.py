"""Batch norms folded into the convolutions before them: the same function, fewer passes."""

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.func import functional_call
from torch.nn.utils.fusion import fuse_conv_bn_eval

from reslab.networks.stochastic_depth import is_marked

_FOLDABLE = ("Conv2d", "Conv2dSame")  # timm's pads by itself and is a convolution otherwise
_CLOSE = 1e-4  # relative; folding rounds, and does no more
_ALIKE = 1e-2  # relative


_tracing = threading.Lock()


class LayerTracer(fx.Tracer):
    """Stops at convolutions and batch norms, timm's with an activation inside included, and where
    a residual branch may be skipped.

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
        if isinstance(m, nn.BatchNorm2d | nn.Conv2d) or is_marked(m):
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
    return traced if _same(before, after, _CLOSE) else network


def folded_in_each_pass(network: nn.Module, example: torch.Tensor) -> nn.Module:
    """A network for training with frozen statistics, on the same parameters: they all learn.

    A batch norm that goes by its statistics only scales and shifts, so each pass scales the
    convolution's weights instead of all that it gives, which need not be kept twice: a step as fast
    in 0.6 of the memory (LOG.md).

    example: of the input (N, ...). A network that cannot be traced, or does not come out the same,
    is returned as it is.
    """
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()):
        return network
    try:
        traced = fx.GraphModule(network, LayerTracer().trace(network))
        for conv, norm in _pairs(traced):
            layers = (traced.get_submodule(str(one.target)) for one in (conv, norm))
            _put(traced, str(conv.target), _NormedConvolution(*layers))
            _bypass(traced, norm)
        with torch.no_grad():
            before, after = network(example), traced(example)
    except Exception:  # as in `folded`
        return network
    # Wide enough that rounding, which the weights decide on, never does: a resume has others.
    return traced if _same(before, after, _ALIKE) else network


class _NormedConvolution(nn.Module):
    def __init__(self, convolution: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own: Any = self.convolution
        norm: Any = self.norm
        scale = torch.rsqrt(norm.running_var + norm.eps)
        shift = -norm.running_mean if own.bias is None else own.bias - norm.running_mean
        if norm.affine:
            scale = norm.weight * scale
        bias = shift * scale + norm.bias if norm.affine else shift * scale
        weight = own.weight * scale[:, None, None, None]
        y: torch.Tensor = functional_call(own, {"weight": weight, "bias": bias}, (x,))
        return y


def _fold(traced: fx.GraphModule) -> None:
    for conv, norm in _pairs(traced):
        layers: Any = (traced.get_submodule(str(one.target)) for one in (conv, norm))
        _put(traced, str(conv.target), fuse_conv_bn_eval(*layers))
        _bypass(traced, norm)
    traced.delete_all_unused_submodules()


def _pairs(traced: fx.GraphModule) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Each convolution that is wanted through a batch norm alone, and that norm."""
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
        yield before, node


def _bypass(traced: fx.GraphModule, norm: fx.Node) -> None:
    """Let what follows a norm, or the activation that timm's norms carry, take what precedes it."""
    activation = getattr(traced.get_submodule(str(norm.target)), "act", None)
    if activation is not None:
        _put(traced, str(norm.target), activation)
    else:
        _put(traced, str(norm.target), nn.Identity())
        norm.replace_all_uses_with(norm.all_input_nodes[0])
        traced.graph.erase_node(norm)
    traced.recompile()


def _same(before: torch.Tensor, after: torch.Tensor, close: float) -> bool:
    return bool((after - before).norm() <= close * before.norm())


def _put(traced: fx.GraphModule, target: str, layer: nn.Module) -> None:
    parent, _, name = target.rpartition(".")
    setattr(traced.get_submodule(parent), name, layer)
