"""What ``harness show`` says of a model beyond its descriptor: its network, counted, and its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.errors import MissingDependencyError, PluginError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.resolved import Resolved
    from harness.types import JSONValue, ModelInfo

_UNKNOWN = ("parameters", "macs", "input", "view", "patch_size", "blocks", "tokens", "embed_dim", "heads")


def network_card(resolved: Resolved) -> dict[str, JSONValue]:
    """The network as plain values, found by building it without weights, which imports torch and takes seconds.

    ``parameters`` and ``macs`` (multiply-accumulates of one image, None where they cannot be counted), ``input`` in
    pixels, ``view``, ``mean`` and ``std``, ``patch_size``, ``blocks``, ``tokens`` (names of the prefix, grid and
    number of patches in the last block), widths, ``heads``, classes, ``capabilities``. A model whose plugin is broken
    has ``problem``, in words, and None for what is then unknown. Raises what building raises for parameters that make
    no network.
    """
    from harness.built_facts import built_facts, with_exact_facts

    try:
        facts = built_facts(with_exact_facts(resolved))
    except (PluginError, MissingDependencyError) as error:
        return {**dict.fromkeys(_UNKNOWN), "problem": str(error)}
    info, grid = facts.info, facts.grid
    tokens: dict[str, JSONValue] = {
        "prefix": list(info.prefix),
        "grid": None if grid is None else list(grid),
        "patches": None if grid is None else grid[0] * grid[1],
    }
    return {
        "parameters": facts.parameters,
        "macs": facts.macs,
        "input": info.input_size,
        "view": info.view.text,
        "mean": list(info.mean),
        "std": list(info.std),
        "patch_size": info.patch_size,
        "blocks": info.num_blocks,
        "tokens": tokens,
        "embed_dim": info.embed_dim,
        "pooled_dim": info.pooled_dim,
        "heads": list(info.heads),
        "num_classes": info.num_classes,
        "label_space": info.label_space,
        "attention_blocks": _attention_blocks(info),
        "capabilities": sorted(str(capability) for capability in info.capabilities),
        "licence": info.licence if resolved.preset is None else resolved.preset.licence or info.licence,
        "published_top1": resolved.published_top1,
    }


def weights_card(resolved: Resolved) -> dict[str, JSONValue] | None:
    """Tag, identity in records, and where the file lies if it is in the local cache; None where nobody published any.

    ``sha256``: the digest of the cached file, else the one that is pinned.
    """
    from harness.hub import cached_file
    from harness.url_weights import cached_url_file
    from harness.weights import WeightsChoice, file_digest, identify

    embedded, tag = resolved.embedded, resolved.tag
    if embedded is not None:
        identity = identify(WeightsChoice(), use=resolved.entry.name, embedded=embedded).identity
        digest = getattr(resolved.entry, "embedded_sha256", None)
        return {"tag": None, "identity": identity, "cached": None, "sha256": digest}
    if tag is None:
        return None
    cached, problem = None, None
    if resolved.weights_url is not None:
        try:
            cached = cached_url_file(resolved.weights_url)
        except WeightsError as error:  # an address that can only be opened by a person
            problem = str(error)
    elif getattr(resolved.entry, "timm_weights", False):
        cached = cached_file(tag)
    return {
        "tag": tag,
        "identity": identify(WeightsChoice(), use=resolved.entry.name, tag=tag).identity,
        "cached": None if cached is None else str(cached),
        "sha256": resolved.weights_sha256 if cached is None else file_digest(cached),
        **({} if problem is None else {"problem": problem}),
    }


def network_lines(card: Mapping[str, Any]) -> dict[str, str]:
    """The card for people, a line each."""
    if "problem" in card:
        return {"network": f"not known: {card['problem']}"}
    tokens = card["tokens"]
    patches = f"{tokens['patches']} patches ({tokens['grid'][0]}x{tokens['grid'][1]})" if tokens["grid"] else ""
    size = "" if card["patch_size"] is None else f", patches of {card['patch_size']} px"
    return {
        "parameters": f"{card['parameters']:,} ({card['parameters'] / 1e6:.1f} M)",
        "MACs": "" if card["macs"] is None else f"{card['macs'] / 1e9:.2f} G for one image",
        "input": f"{card['input']} px{size}; {card['view']}",
        "mean, std": f"{_numbers(card['mean'])}; {_numbers(card['std'])}",
        "blocks": f"{card['blocks']}, {card['embed_dim']} wide" if card["blocks"] else "",
        "tokens": " + ".join(filter(None, (", ".join(tokens["prefix"]), patches))),
        "attention": card["attention_blocks"] or "",
        "heads": f"{', '.join(card['heads'])}; {card['num_classes']} classes" if card["heads"] else "",
        "label space": card["label_space"] or "",
        "capabilities": ", ".join(card["capabilities"]),
        "published top-1": "" if card["published_top1"] is None else f"{card['published_top1']:g} % on ImageNet-1k",
        "licence": card["licence"] or "",
    }


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _attention_blocks(info: ModelInfo) -> str | None:
    from harness.types import Capability

    if Capability.ATTENTION not in info.capabilities:
        return None
    if info.attention_blocks is None:
        return "every block"
    return f"blocks {', '.join(map(str, info.attention_blocks))}"
