"""What only the network itself can tell: its card, parameters and MACs, found by building it without weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from harness.discovery import one_line
from harness.entries import Entry, ModelEntry
from harness.errors import HarnessError, ParameterError, PluginError
from harness.params import canonical, describe
from harness.targets import load_target
from harness.types import Capability, JSONValue, ModelInfo, OutputSpec
from harness.weights import WeightsChoice

if TYPE_CHECKING:
    from torch import nn

    from harness.protocols import Model
    from harness.resolved import Resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltFacts:
    """A model built without weights, counted.

    ``info`` is its card (with the identity of random weights). ``parameters`` counts elements of all parameters,
    ``macs`` the multiply-accumulates of one image of its own input size in matrix products, convolutions and
    attention (half of the FLOPs of :class:`torch.utils.flop_counter.FlopCounterMode`); None for a network that cannot
    be run without weights, of which ``fault`` says why. ``grid`` is that of the last block's patch tokens, None
    without tokens.
    """

    info: ModelInfo
    parameters: int
    macs: int | None
    grid: tuple[int, int] | None
    fault: str | None = None


def with_exact_facts(resolved: Resolved) -> Resolved:
    """``resolved`` with the view, label space and capabilities that its own parameters make.

    Nothing is built for a preset or an entry as it stands, nor for an entry whose facts do not vary. Raises what
    building raises, and :class:`~harness.errors.ParameterError` for an input size at which the network cannot be run.
    """
    entry = resolved.entry
    as_it_stands = resolved.is_preset or (resolved.preset is None and resolved.ref.params == _defaults(entry))
    if not isinstance(entry, ModelEntry) or not entry.facts_vary or as_it_stands:
        return resolved
    facts = built_facts(resolved)
    if facts.fault is not None and resolved.arguments.get("input"):
        raise ParameterError(
            f"model {resolved.ref.name}: it cannot be run on {facts.info.input_size} px: {facts.fault}",
            hint="choose an input nearer to the architecture's own",
        )
    info = facts.info
    return replace(resolved, view=info.view, label_space=info.label_space, capabilities=info.capabilities)


def _defaults(entry: Entry) -> dict[str, JSONValue] | None:
    """The entry's parameters where none is given; None where some must be."""
    if any(row.required for row in describe(entry.params)):
        return None
    return canonical(entry.params())


def built_facts(resolved: Resolved) -> BuiltFacts:
    """The model behind ``resolved``, built on the meta device, where a network takes no memory and no time.

    Raises what its target raises for parameters that make no network; needs torch, and what the target imports.
    """
    entry = resolved.entry
    assert isinstance(entry, ModelEntry)
    return _built(entry, tuple(sorted(resolved.arguments.items())))


@lru_cache(maxsize=512)
def _built(entry: ModelEntry, arguments: tuple[tuple[str, Any], ...]) -> BuiltFacts:
    import torch

    target = load_target(entry)
    try:
        with torch.device("meta"):
            model: Any = target(**dict(arguments), weights=WeightsChoice(origin="random"))
    except HarnessError:
        raise
    except Exception as error:  # whatever a plugin's constructor raises, it is named and passed on
        raise PluginError(f"model {entry.name} cannot be built without weights: {one_line(error)}") from error
    info = getattr(model, "info", None)
    if not isinstance(info, ModelInfo):
        raise PluginError(f"model {entry.name}: {entry.target} built a {type(model).__name__}, no model")
    parameters = count_parameters(model)
    try:
        macs, grid = _one_pass(model)
    except (HarnessError, NotImplementedError, RuntimeError) as error:
        # A network whose forward pass reads values cannot be counted without them; everything else is known.
        return BuiltFacts(info=info, parameters=parameters, macs=None, grid=None, fault=one_line(error))
    return BuiltFacts(info=info, parameters=parameters, macs=macs, grid=grid)


def count_parameters(model: Model) -> int:
    """Elements of all parameters of the torch modules that a model holds; shared ones count once."""
    parameters = {id(p): p.numel() for module in torch_modules(model) for p in module.parameters()}
    return sum(parameters.values())


def count_macs(run: Callable[[], object]) -> int:
    """Multiply-accumulates of what ``run`` does, by :class:`torch.utils.flop_counter.FlopCounterMode`."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops()) // 2


def torch_modules(component: object) -> list[nn.Module]:
    """The torch modules that a component is or holds as attributes."""
    from torch import nn

    if isinstance(component, nn.Module):
        return [component]
    names = [*getattr(component, "__dict__", {})]
    names += [slot for cls in type(component).__mro__ for slot in getattr(cls, "__slots__", ())]
    held = (getattr(component, name, None) for name in names)
    return [value for value in held if isinstance(value, nn.Module)]


def _one_pass(model: Model) -> tuple[int, tuple[int, int] | None]:
    """MACs of one image, and the grid of the last block's patches."""
    import torch

    info = model.info
    want = OutputSpec(
        logits=Capability.LOGITS in info.capabilities,
        pooled=Capability.LOGITS not in info.capabilities and Capability.POOLED in info.capabilities,
        tokens=frozenset({info.num_blocks - 1} if Capability.TOKENS in info.capabilities else ()),
    )
    grids: list[tuple[int, int]] = []

    def run() -> None:
        image = torch.zeros(1, 3, info.input_size, info.input_size, device="meta")
        grids.extend(tokens.grid for tokens in model.outputs(image, want).tokens.values())

    with torch.no_grad():
        macs = count_macs(run)
    return macs, grids[-1] if grids else None
