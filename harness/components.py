"""Names and instances alike, turned into components: a reference, the facts planning needs, and a way to build."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from harness.built_facts import with_exact_facts
from harness.entries import DatasetEntry, ModelEntry, PerturbationEntry, ProbeEntry
from harness.errors import CapabilityError, ParameterError, PluginError, UsageError, WeightsError
from harness.grammar import parse_selector
from harness.label_maps import find_label_map, mapped_from
from harness.protocols import Dataset, Model, ModelPerturbation, Perturbation, Probe
from harness.targets import load_exhibit
from harness.token_ensemble import TokenEnsemble
from harness.types import Capability, JSONValue, LevelSpec, ModelInfo, ResolvedRef, Stage, View, WeightsInfo
from harness.url_weights import address_fault
from harness.weights import WeightsChoice, identify

if TYPE_CHECKING:
    from harness.catalog import Catalog
    from harness.exhibits import MakeExhibit
    from harness.resolved import Resolved

AnyPerturbation = Perturbation | ModelPerturbation
AttackTarget = Literal["head", "probe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelComponent:
    """A model as planning sees it; ``build`` gives the model itself, on the CPU.

    ``require_weights`` raises :class:`~harness.errors.WeightsError` where it is plain already that they cannot be had.
    """

    ref: ResolvedRef
    weights: WeightsInfo
    view: View
    label_space: str | None
    capabilities: frozenset[Capability]
    build: Callable[[], Model]
    require_weights: Callable[[], None] = lambda: None
    twin: Callable[[], ModelComponent] | None = None
    """The same network with random weights; None where there is none (an instance, an untrained model)."""
    learned: bool = True
    lacking: WeightsError | None = None
    """Why there are no such weights at all, anywhere."""
    published_top1: float | None = None
    """Percent of ImageNet-1k's validation images that these weights are published to get right."""
    published_view: View | None = None
    """The view in which that was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbationComponent:
    """A perturbation with the levels it was asked at (``(None,)`` where it has no strength axis)."""

    ref: ResolvedRef
    levels: tuple[float | None, ...]
    level: LevelSpec | None
    stage: Stage
    stochastic: bool
    target: AttackTarget | None
    needs: frozenset[Capability]
    build: Callable[[], AnyPerturbation]
    injected: Mapping[str, ModelComponent] = field(default_factory=dict)
    source_param: str | None = None
    """The parameter of ``injected`` whose model an attack is crafted on, instead of aiming at the evaluated one."""
    baselined: bool = False

    @property
    def source(self) -> ModelComponent | None:
        """The model that a transfer attack is crafted on."""
        return None if self.source_param is None else self.injected[self.source_param]

    @property
    def is_clean(self) -> bool:
        """Whether this is the clean pass, perturbation ``none``."""
        return self.ref.use == CLEAN


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeComponent:
    """A probe as planning sees it."""

    ref: ResolvedRef
    learns: bool
    compares: bool
    stochastic: bool
    needs: frozenset[Capability]
    needs_label_space: bool
    headline: str
    build: Callable[[], Probe]
    features_param: str | None = None
    maps_labels: bool = False
    reference: bool = False
    of_model: bool = False
    draw: Callable[[], MakeExhibit] | None = None
    """Gives what draws its exhibit; None for a probe that has none."""

    @property
    def takes_features(self) -> bool:
        """Whether it is fitted on features of images: of support images, or of those it will be asked about."""
        return self.learns or self.reference


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetComponent:
    """A dataset, already open: its index is light, its pixels are not."""

    ref: ResolvedRef
    dataset: Dataset
    baselined: bool = False


CLEAN = "none"
"""The entry that leaves images as they are; the core's own."""


def model_component(catalog: Catalog, item: object, weights: WeightsChoice) -> ModelComponent:
    """A model by name (with ``weights``), or a :class:`~harness.protocols.Model` of the caller's.

    Raises :class:`UsageError` for an object that is no model, naming :func:`harness.wrap` for a bare module.
    """
    if isinstance(item, str):
        resolved = with_exact_facts(catalog.resolve("model", item))
        entry = resolved.entry
        assert isinstance(entry, ModelEntry)
        identity, lacking = _identity(resolved, weights)
        if resolved.view is None:
            raise PluginError(f"model {item}: its entry gives no view")
        return ModelComponent(
            ref=resolved.ref,
            weights=identity,
            view=resolved.view,
            label_space=resolved.label_space,
            capabilities=resolved.capabilities,
            build=lambda: _build_model(catalog, resolved, weights),
            require_weights=lambda: _require_weights(resolved, weights),
            learned=entry.learned,
            lacking=lacking,
            published_top1=resolved.published_top1 if weights == WeightsChoice() else None,
            published_view=resolved.published_view,
            twin=None
            if weights.origin == "random" or not entry.learned
            else lambda: model_component(catalog, item, WeightsChoice(origin="random")),
        )
    if not isinstance(item, Model):
        raise UsageError(
            f"model: a {type(item).__name__} is neither a name nor a model",
            hint="wrap a bare nn.Module with harness.wrap(module, view=..., mean=..., std=..., label_space=...)",
        )
    info = item.info
    return ModelComponent(
        # What a caller's model is like inside belongs to its key, and not to its name.
        ref=dataclasses.replace(
            _instance_ref("model", info.name, 1, _acts_inside(info), use=f"instance:{info.family}"), given={}
        ),
        weights=info.weights,
        view=info.view,
        label_space=info.label_space,
        capabilities=info.capabilities,
        build=lambda: item,
    )


def _identity(resolved: Resolved, weights: WeightsChoice) -> tuple[WeightsInfo, WeightsError | None]:
    """What the weights are called, and what to say where nobody published any that a program could fetch."""
    name, url = resolved.entry.name, resolved.weights_url
    lacking: WeightsError | None = None
    if weights.origin == "pretrained":
        if resolved.tag is None and resolved.embedded is None:
            lacking = WeightsError(
                f"model {resolved.ref.name} has no pretrained weights: none were published",
                hint="give a checkpoint file, --weights PATH, or run it untrained, --weights random",
            )
            return WeightsInfo(origin="pretrained", identity="pretrained:none"), lacking
        if url is not None and (fault := address_fault(url)) is not None:
            lacking = WeightsError(f"model {resolved.ref.name}: {fault.message}", hint=fault.hint)
    found = identify(weights, use=name, tag=resolved.architecture, url=url, embedded=resolved.embedded)
    return found, lacking


def _acts_inside(info: ModelInfo) -> dict[str, JSONValue]:
    """What a caller's model does to pixels beside its weights; a name told twice must not hide that it differs."""
    return {
        "name": info.name,
        "mean": info.mean,
        "std": info.std,
        "input_size": info.input_size,
        "heads": info.heads,
    }


def _require_weights(resolved: Resolved, weights: WeightsChoice) -> None:
    entry = resolved.entry
    if weights.origin != "pretrained":
        return
    if resolved.weights_url is not None:
        from harness.url_weights import require_url_reachable

        require_url_reachable(resolved.weights_url)
    elif resolved.tag and isinstance(entry, ModelEntry) and entry.timm_weights:
        from harness.hub import require_reachable

        require_reachable(resolved.tag)


def _build_model(catalog: Catalog, resolved: Resolved, weights: WeightsChoice) -> Model:
    model = catalog.load_target(resolved.entry)(**resolved.arguments, weights=weights)
    if not isinstance(model, Model):
        raise PluginError(
            f"model {resolved.ref.name}: {resolved.entry.target} built a {type(model).__name__}, no model"
        )
    return model


def perturbation_component(
    catalog: Catalog, item: object, attack_target: AttackTarget | None = None
) -> PerturbationComponent:
    """A perturbation by its text (``patchdrop_random:grid=7@0.5``) or an instance, at the levels asked for.

    Either may come as a pair with its levels, ``(instance, [0.25, 0.5])``. Without levels a perturbation that has
    some is run at all of its sweep. ``attack_target`` is what an attack aims at whose text does not say so itself.
    """
    if isinstance(item, str):
        return _named_perturbation(catalog, item, attack_target)
    levels: tuple[float, ...] | None = None
    if isinstance(item, tuple) and len(item) == 2:
        item, given = item
        levels = _given_levels(given)
    if isinstance(item, str):
        named = _named_perturbation(catalog, item, attack_target)
        return dataclasses.replace(named, levels=_levels(levels, named.level, item))
    if not isinstance(item, Perturbation | ModelPerturbation):
        raise UsageError(
            f"perturbation: a {type(item).__name__} is neither a name nor a perturbation",
            hint="a perturbation has info, prepare, begin and apply (or around); see harness.protocols.Perturbation",
        )
    info, instance = item.info, item
    use = _own(instance, info.name)
    target = (attack_target or "head") if info.needs_target else None
    params = {**info.params, "attack_target": "probe"} if target == "probe" else info.params
    # Every seed prepares an object of its own, so that two seeds in one pass cannot overwrite each other.
    return PerturbationComponent(
        ref=_instance_ref("perturbation", info.name, info.version, params, use=use),
        levels=_levels(levels, info.level, info.name),
        level=info.level,
        stage=info.stage,
        stochastic=info.stochastic,
        target=target,
        needs=_NEEDS_OF_TARGET[target],
        build=lambda: copy.copy(instance),
    )


_NEEDS_OF_TARGET: Mapping[AttackTarget | None, frozenset[Capability]] = {
    None: frozenset(),
    "head": frozenset({Capability.LOGITS, Capability.GRADIENTS}),
    "probe": frozenset({Capability.GRADIENTS}),
}


def _named_perturbation(catalog: Catalog, text: str, attack_target: AttackTarget | None) -> PerturbationComponent:
    resolved = catalog.resolve("perturbation", text)
    entry = resolved.entry
    assert isinstance(entry, PerturbationEntry)
    if attack_target is not None and entry.target_param not in (None, *parse_selector(text).params):
        resolved = catalog.resolve("perturbation", text, overrides={str(entry.target_param): attack_target})
    injected = {
        name: _injected_model(catalog, resolved.ref.name, name, str(resolved.arguments[name]))
        for name in entry.model_params
        if resolved.arguments[name] is not None and resolved.arguments[name] not in entry.model_words
    }
    ref = resolved.ref
    if injected:
        ref = ResolvedRef(
            kind="perturbation",
            name=ref.name,
            use=ref.use,
            version=ref.version,
            params=ref.params,
            identity=ref.identity,
            injected={name: (model.ref, model.weights.identity) for name, model in injected.items()},
        )
    target: AttackTarget | None = None
    source = entry.source_param if entry.source_param in injected else None
    if entry.needs_target:
        asked = resolved.arguments.get(entry.target_param or "", "head")
        target = "probe" if asked == "probe" else "head"
    if source is not None:
        if target == "probe":
            raise ParameterError(
                f"perturbation {text}: {source}={injected[source].ref.name} crafts the attack on that model's head, so "
                f"that it cannot aim at the probe ({entry.target_param}=probe)",
                hint=f"leave out one of {source} and {entry.target_param}",
            )
        target = None
    return PerturbationComponent(
        ref=ref,
        levels=_levels(resolved.levels, entry.level, text),
        level=entry.level,
        stage=entry.stage,
        stochastic=entry.stochastic,
        target=target,
        needs=entry.needs | _NEEDS_OF_TARGET[target],
        build=lambda: cast("AnyPerturbation", catalog.instantiate(resolved)),
        injected=injected,
        source_param=source,
        baselined=entry.baselined,
    )


def _injected_model(catalog: Catalog, perturbation: str, parameter: str, name: str) -> ModelComponent:
    """The model that a parameter names, with its pretrained weights: ``--weights`` speaks of the evaluated models."""
    component = model_component(catalog, name, WeightsChoice(origin="pretrained"))

    def require_weights() -> None:
        try:
            component.require_weights()
        except WeightsError as error:
            raise WeightsError(
                f"{perturbation}: {parameter}={name}: {error.message}",
                hint=f"run `harness fetch {name}` where there is a network (the cache folder can be copied), or give "
                f"another {parameter}; --weights is for the models that are evaluated",
            ) from error

    return dataclasses.replace(component, require_weights=require_weights)


def _given_levels(given: object) -> tuple[float, ...]:
    try:
        levels = tuple(float(level) for level in given) if isinstance(given, Iterable) else (float(cast("Any", given)),)
    except (TypeError, ValueError) as error:
        raise UsageError(f"perturbation: levels are a number or a list of numbers, not {given!r}") from error
    if not levels:
        raise UsageError("perturbation: an empty list of levels", hint="leave it out for the whole sweep")
    return levels


def _levels(given: tuple[float, ...] | None, level: LevelSpec | None, where: str) -> tuple[float | None, ...]:
    if level is None:
        if given is not None:
            raise UsageError(f"{where}: this perturbation has no levels")
        return (None,)
    return tuple(level.check(value, where) for value in (level.values if given is None else given))


def probe_component(catalog: Catalog, item: object) -> ProbeComponent:
    """A probe by its text (``fewshot:shots=1+5``) or an instance."""
    if isinstance(item, str):
        resolved = catalog.resolve("probe", item)
        entry = resolved.entry
        assert isinstance(entry, ProbeEntry)
        needs = entry.needs
        if entry.features_param is not None:
            needs = TokenEnsemble.parse(str(resolved.arguments[entry.features_param])).needs
        return ProbeComponent(
            ref=resolved.ref,
            learns=entry.learns,
            compares=entry.compares,
            stochastic=entry.stochastic,
            needs=needs,
            needs_label_space=entry.needs_label_space,
            headline=entry.headline,
            build=lambda: cast("Probe", catalog.instantiate(resolved)),
            features_param=entry.features_param,
            maps_labels=entry.maps_labels,
            reference=entry.reference,
            of_model=entry.of_model,
            draw=None if entry.exhibit is None else lambda: cast("MakeExhibit", load_exhibit(entry)),
        )
    if not isinstance(item, Probe):
        raise UsageError(
            f"probe: a {type(item).__name__} is neither a name nor a probe",
            hint="a probe has info, wants, features, select_support and fit; see harness.protocols.Probe",
        )
    instance, info = item, item.info
    return ProbeComponent(
        ref=_instance_ref("probe", info.name, info.version, info.params, use=_own(instance, info.name)),
        learns=info.learns,
        compares=info.compares,
        stochastic=info.learns,
        needs=frozenset(),
        needs_label_space=info.needs_label_space,
        headline=info.headline,
        build=lambda: instance,
        maps_labels=info.maps_labels,
        reference=info.reference,
        of_model=info.of_model,
    )


def dataset_component(catalog: Catalog, item: object, data: str | None = None) -> DatasetComponent:
    """A dataset by name, opened at ``data`` where it takes a place, or an instance."""
    if isinstance(item, str):
        resolved = resolve_dataset(catalog, item, data)
        entry = resolved.entry
        assert isinstance(entry, DatasetEntry)
        opened = cast("Dataset", catalog.instantiate(resolved))
        return DatasetComponent(ref=resolved.ref, dataset=opened, baselined=entry.baselined)
    if not isinstance(item, Dataset):
        raise UsageError(
            f"dataset: a {type(item).__name__} is neither a name nor a dataset",
            hint="wrap images and labels in memory with harness.TensorDataset(images, labels, name=...)",
        )
    return DatasetComponent(ref=_instance_ref("dataset", item.info.name, 1, {}), dataset=item)


def resolve_dataset(catalog: Catalog, text: str, data: str | None = None) -> Resolved:
    """A dataset by name, placed at ``data``, with its parameters checked; it is not opened, and nothing is imported.

    Raises :class:`UsageError` for a place given twice or to a dataset that takes none, and else as
    :meth:`~harness.catalog.Catalog.resolve` does.
    """
    selector = parse_selector(text)
    overrides = {}
    if data is not None:
        if "root" in selector.params:
            raise UsageError(f"dataset {text}: its place was given twice, as root= and as --data")
        if not catalog.takes("dataset", selector, "root"):
            raise UsageError(
                f"dataset {selector.name} takes no --data", hint="--data is for datasets that lie in a folder"
            )
        overrides = {"root": data}
    return catalog.resolve("dataset", selector, overrides=overrides)


def _own(instance: object, name: str) -> str:
    """How records know an object of the caller's: by its name and class, so that two classes of one name differ."""
    kind = type(instance)
    return f"instance:{name}:{kind.__module__}.{kind.__qualname__}"


def _instance_ref(kind: Any, name: str, version: int, params: Mapping[str, Any], use: str | None = None) -> ResolvedRef:
    return ResolvedRef(
        kind=kind, name=name, use=use or f"instance:{name}", version=version, params=params, identity=params
    )


def check_applies(
    model: ModelComponent, perturbation: PerturbationComponent, probe: ProbeComponent, label_space: str | None
) -> None:
    """Raise :class:`CapabilityError`, in a sentence that says why, if this combination cannot give a number.

    And :class:`WeightsError` for a model without any weights of the kind that was asked for.
    """
    if model.lacking is not None:
        raise model.lacking
    for part, needs in ((probe.ref, probe.needs), (perturbation.ref, perturbation.needs)):
        if missing := needs - model.capabilities:
            raise CapabilityError(
                f"{part.kind} {part.name} needs {_and(sorted(missing))}, which model {model.ref.name} does not have",
                hint=_other_features(model, probe) if part is probe.ref else None,
            )
    if perturbation.target == "probe" and not (probe.learns or probe.needs_label_space):
        raise CapabilityError(
            f"perturbation {perturbation.ref.name} aims at the probe, but probe {probe.ref.name} learns nothing",
            hint="aim it at the model's head instead (attack_target=head)",
        )
    if (source := perturbation.source) is not None:
        _check_source(perturbation, source, label_space)
    found = find_label_map(model.label_space, label_space)
    readable = found is not None and (found.is_identity or probe.maps_labels or not probe.needs_label_space)
    if _reads_head(perturbation, probe) and not readable:
        role = f"probe {probe.ref.name} reads" if probe.needs_label_space else f"{perturbation.ref.name} attacks"
        others = mapped_from(model.label_space)
        raise CapabilityError(
            f"{role} the model's own head, but model {model.ref.name} was trained on the labels of "
            f"{model.label_space or 'nothing named'} and the images are labelled with those of "
            f"{label_space or 'nothing named'}: its scores would not mean these classes",
            hint="use a probe that learns the classes from support images, such as fewshot"
            + (f"; besides its own labels, this head can be read in those of {_and(list(others))}" if others else ""),
        )


def _other_features(model: ModelComponent, probe: ProbeComponent) -> str | None:
    """Which token ensembles the model could give this probe."""
    if probe.features_param is None:
        return None if probe.learns else "use a probe that learns from features, such as fewshot or knn"
    ways = {Capability.POOLED: "pooled", Capability.TOKENS: "patch/last"}
    given = [f"{probe.features_param}={text}" for needed, text in ways.items() if needed in model.capabilities]
    return f"it can give {' or '.join(given)}" if given else None


def _check_source(perturbation: PerturbationComponent, source: ModelComponent, label_space: str | None) -> None:
    """Raise :class:`CapabilityError` unless the attack can be crafted on the head of ``source`` for these classes."""
    what = f"{perturbation.ref.name}: {perturbation.source_param}={source.ref.name}"
    if missing := _NEEDS_OF_TARGET["head"] - source.capabilities:
        raise CapabilityError(f"{what}: an attack needs {_and(sorted(missing))}, which that model does not have")
    if find_label_map(source.label_space, label_space) is None:
        raise CapabilityError(
            f"{what}: that model was trained on the labels of {source.label_space or 'nothing named'}, and the images "
            f"are labelled with those of {label_space or 'nothing named'}",
            hint="craft the attack on a model of the images' own classes",
        )


def used_label_map(
    model: ModelComponent, perturbation: PerturbationComponent, probe: ProbeComponent, label_space: str | None
) -> str | None:
    """The name of the map by which the head is read in the dataset's label space; None for the identity or no head."""
    found = find_label_map(model.label_space, label_space)
    return found.name if found and not found.is_identity and _reads_head(perturbation, probe) else None


def _reads_head(perturbation: PerturbationComponent, probe: ProbeComponent) -> bool:
    return probe.needs_label_space or perturbation.target == "head"


def _and(words: list[str]) -> str:
    return " and ".join(words)
