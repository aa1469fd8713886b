"""A network without values gets every one of them from a file, or the file is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engines.errors import ModelRefused
from engines.model.surplus import is_harmless, list_surplus, refuse_other_kinds


class Named(NamedTuple):
    """A tensor and its name in the file."""

    name: str
    tensor: Tensor


# A network's tensor by name -> what makes another value of its value, both float32, on the CPU.
Changes = Mapping[str, Callable[[Tensor], Tensor]]
# A network on torch's meta device -> the changes to it.
Changing = Callable[[torch.nn.Module], Changes]


def unchanged(_network: torch.nn.Module) -> Changes:
    """Change nothing."""
    return {}


@dataclass(frozen=True)
class Contents:
    """What a file or a folder has for one network.

    `tensors` are by the network's names, `surplus` those without a place, by their names inside the part. `strict`:
    surplus is refused unless it is known to be harmless; else it is listed, unless it stands among the network's own
    layers. `sizes` says where sizes come from, for a sentence about others.
    """

    part: str
    path: Path
    tensors: Mapping[str, Named]
    surplus: Mapping[str, Tensor]
    sizes: str
    strict: bool


def fill(network: Any, contents: Contents, dtype: torch.dtype, changing: Changing = unchanged) -> Any:
    """Give a network on torch's meta device its values, in memory of their own and in `dtype`; returns it.

    Changes are made in float32, before a value is rounded to `dtype`.

    Raises:
        ModelRefused: naming the first tensor that is missing, has another size, has no place, is not made of
            floating-point numbers, or has a value that is NaN or infinite (in `dtype` as well).
    """
    expected = network.state_dict()
    refuse_other_kinds(contents.part, contents.path, contents.surplus)
    _check_sizes(contents, expected)
    _check_missing(contents, expected)
    _check_surplus(contents, {_place(name) for name in expected})
    list_surplus(contents.part, contents.path, contents.surplus)
    changes = changing(network)
    values = {name: _value(contents, contents.tensors[name], dtype, changes.get(name)) for name in expected}
    network.load_state_dict(values, assign=True)
    _count_positions(network)
    assert not any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])
    return network


def _check_sizes(contents: Contents, expected: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(each.tensor.shape) for name, each in contents.tensors.items()}
    other = sorted(name for name in set(expected) & set(shapes) if tuple(expected[name].shape) != shapes[name])
    if other:
        name = contents.tensors[other[0]].name
        more = f", and {len(other) - 1} more" if len(other) > 1 else ""
        raise ModelRefused(
            f"{contents.path} has a {contents.part} of other sizes: {name} is {shapes[other[0]]}, not "
            f"{tuple(expected[other[0]].shape)}{more}; {contents.sizes}"
        )


def _check_missing(contents: Contents, expected: Mapping[str, Tensor]) -> None:
    if missing := sorted(set(expected) - set(contents.tensors)):
        missing[0] = _name_in_file(missing[0], contents.tensors)
        raise _refused(contents, missing, "is missing")


def _name_in_file(missing: str, tensors: Mapping[str, Named]) -> str:
    """What the file would call a missing tensor, told from a neighbour in the same layer; else the network's name."""
    best, told = -1, missing
    words = missing.split(".")
    for name, each in tensors.items():
        others = name.split(".")
        shared = next(i for i, pair in enumerate(zip_longest(words, others)) if pair[0] != pair[1])
        own, neighbour = words[shared:], ".".join(others[shared:])
        numbered = any(word.isdigit() for word in own + others[shared:])  # another layer's name may end the same way
        if shared > best and each.name.endswith(neighbour) and not numbered:
            best, told = shared, each.name.removesuffix(neighbour) + ".".join(own)
    return told


def _check_surplus(contents: Contents, own: set[str]) -> None:
    """`own`: the places of the network's own tensors."""
    names = [name for name in contents.surplus if not is_harmless(contents.part, name)]
    among = sorted(name for name in names if contents.strict or _place(name) in own)
    if among:
        raise _refused(contents, among, "has no place")


def _place(name: str) -> str:
    """The first word of a name, as in 'down_blocks'; the level `text_model` is not in every version's names."""
    return name.removeprefix("text_model.").split(".")[0]


def _refused(contents: Contents, names: list[str], problem: str) -> ModelRefused:
    more = f", and {len(names) - 1} more" if len(names) > 1 else ""
    return ModelRefused(f"{contents.path} cannot be read as SD1.5's {contents.part}: {names[0]} {problem}{more}")


def _value(
    contents: Contents, named: Named, dtype: torch.dtype, change: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """A copy: the file may be replaced while the network is in use."""
    tensor = named.tensor.detach()
    kind = str(tensor.dtype).removeprefix("torch.")
    if not tensor.is_floating_point():
        raise _refused(
            contents, [named.name], f"holds no floating-point numbers ({kind}): quantised files are not read"
        )
    if tensor.layout != torch.strided or tensor.is_meta:
        raise _refused(contents, [named.name], "is sparse or has no values: only plain tensors are read")
    if change is None:
        value = tensor.to(dtype, copy=True).contiguous()
    else:
        value = change(tensor.to(torch.float32)).to(dtype).contiguous()
    # A sum in float32 is finite only where every element is: one pass, where isfinite makes a mask of each tensor.
    if not torch.isfinite(value.sum(dtype=torch.float32)) and not torch.isfinite(value).all():
        raise _not_finite(contents, named, dtype, changed=change is not None)
    return value


def _not_finite(contents: Contents, named: Named, dtype: torch.dtype, *, changed: bool) -> ModelRefused:
    """What is wrong with a tensor whose value in `dtype` is NaN or infinite: itself, or what changed it."""
    if not torch.isfinite(named.tensor.to(torch.float64)).all():
        return _refused(contents, [named.name], "has values that are NaN or infinite")
    large = f"has values that are too large for {str(dtype).removeprefix('torch.')}"
    if changed and torch.isfinite(named.tensor.to(dtype)).all():
        return ModelRefused(
            f"{contents.path}: with the LoRAs, {named.name} {large}; give them smaller weights (--lora FILE:WEIGHT), "
            "or leave one out"
        )
    return _refused(contents, [named.name], large + (": build with --precision fp32" if dtype == torch.float16 else ""))


def _count_positions(network: Any) -> None:
    """CLIP's position_ids are in no file that transformers writes today: a buffer that it counts when it is made."""
    for name, buffer in list(network.named_buffers()):
        if buffer.is_meta and name.endswith("position_ids"):
            module = network.get_submodule(name.rpartition(".")[0])
            module.position_ids = torch.arange(buffer.shape[-1]).expand(1, -1)
