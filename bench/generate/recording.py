"""A function's operations on tensors of one shape, in two parts: what depends on the text alone, and the rest.

The keys and values that a denoiser's cross-attention makes of the text are the same in every step of a call. The part
that makes them runs again only where the text is another one, so no output can change.

What is left out of both parts changes no bit either: divisions by one, a place of its own for SiLU's output where
nobody else reads the input, and in a module whose weights lie channels last, copies that a convolution or a
nearest-neighbour upsampling makes anew in that format.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from bench.generate.bits import same_bits


class Recording:
    """Replays a function of tensors from any thread; `lasting` are the places of those that mostly stay as they are.

    Raises AttributeError, RuntimeError, TypeError or ValueError for a function that does more than operate on tensors.
    """

    def __init__(
        self,
        function: Callable[..., tuple[torch.Tensor, ...]],
        tensors: Sequence[torch.Tensor],
        lasting: Collection[int],
        channels_last: bool,
    ) -> None:
        rest: Any = torch.jit.trace(function, tuple(tensors), check_trace=False)  # type: ignore[no-untyped-call]
        self.lasting, self.ahead = tuple(lasting), _split(rest.graph, lasting)
        self.rest: Any = torch._C._create_function_from_graph("rest", rest.graph)
        for part in (self.ahead, self.rest):
            if part is not None:
                _simplify(part.graph, channels_last)
        self._own = threading.local()

    def __call__(self, *tensors: torch.Tensor) -> Sequence[torch.Tensor]:
        """The function's output for tensors of the recorded shapes, strides and dtypes."""
        made = self._made(tensors) if self.ahead is not None else ()
        output: Sequence[torch.Tensor] = self.rest(*tensors, *made)
        return output

    def _made(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """What depends on the lasting tensors alone, from this thread's last call where they are equal to those."""
        given = [tensors[place] for place in self.lasting]
        known = getattr(self._own, "known", None)
        if known is None or not all(map(same_bits, known[0], given)):
            known = self._own.known = copy.deepcopy(given), self.ahead(*tensors)
        made: Sequence[torch.Tensor] = known[1]
        return made


def _split(graph: Any, lasting: Collection[int]) -> Any:
    """Take what depends on the lasting inputs alone out of a graph, as a function of all inputs whose output the graph
    gets as further inputs; None, and the graph as it was, where there is no such thing or it may be written to.
    """
    if any(node.kind().endswith("_") or list(node.blocks()) for node in graph.nodes()):
        return None
    ahead = graph.copy()
    made = _border(ahead, lasting)
    if not made:
        return None
    together = ahead.create("prim::TupleConstruct", made, 1)
    together.output().setType(torch._C.TupleType([value.type() for value in made]))
    ahead.appendNode(together)
    ahead.eraseOutput(0)
    ahead.registerOutput(together.output())
    for value in _border(graph, lasting):
        given = graph.addInput()
        given.setType(value.type())
        value.replaceAllUsesWith(given)
    for part in (ahead, graph):
        torch._C._jit_pass_dce(part)
    return torch._C._create_function_from_graph("ahead", ahead)


def _border(graph: Any, lasting: Collection[int]) -> list[Any]:
    """The tensors that depend on lasting inputs and on no other ones, and that are used together with other ones.

    None may share its memory with an output, which is the caller's to write to.
    """
    inputs, aliases = list(graph.inputs()), graph.alias_db()
    depending = {inputs[place].debugName() for place in lasting}
    constant: set[str] = set()
    candidates = []
    for node in graph.nodes():
        needed, made = ({value.debugName() for value in values} for values in (node.inputs(), node.outputs()))
        if needed <= constant:
            constant |= made
        elif needed <= constant | depending:
            depending |= made
            candidates += [value for value in node.outputs() if value.type().isSubtypeOf(torch._C.TensorType.get())]
    return [
        value
        for value in candidates
        if any(made.debugName() not in depending for use in value.uses() for made in use.user.outputs())
        and not any(aliases.may_contain_alias(value, output) for output in graph.outputs())
    ]


_COPYING = {"aten::_convolution", "aten::upsample_nearest2d"}
_FRESH = {"aten::group_norm", "aten::add", "aten::linear"}


def _simplify(graph: Any, channels_last: bool) -> None:
    """Leave out what changes no bit; see the module's text."""
    for node in graph.findAllNodes("aten::div"):
        value, divisor = node.inputsAt(0), node.inputsAt(1).node()
        by_one = divisor.kind() == "prim::Constant" and _is_one(divisor.output().toIValue())
        if by_one and value.type().scalarType() == node.output().type().scalarType():
            _replace(node, value)
    for node in graph.findAllNodes("aten::contiguous"):
        if channels_last and {use.user.kind() for use in node.output().uses()} <= _COPYING:
            _replace(node, node.inputsAt(0))
    for node in graph.findAllNodes("aten::silu"):
        value = node.inputsAt(0)
        if len(value.uses()) == 1 and value.node().kind() in _FRESH:
            in_place = graph.create("aten::silu_", [value], 1)
            in_place.insertBefore(node)
            in_place.output().setType(node.output().type())
            _replace(node, in_place.output())


def _is_one(value: Any) -> bool:
    return isinstance(value, int | float) and value == 1


def _replace(node: Any, value: Any) -> None:
    node.output().replaceAllUsesWith(value)
    node.destroy()
