"""Every kernel compiles for every card that we name, with the constants of SD1.5's networks, and none asks for more
shared memory than a block may have there. No GPU is needed: Triton brings its own ptxas.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: torch's CUDA builds bring it, its CPU builds do not")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engines.backends import registry
from engines.backends.triton import backend, hopper, kernels, product_kernel
from engines.backends.triton.kernel_cache import empty_cache
from engines.backends.triton.precisions import QUANTIZED_FROM
from engines.errors import BackendUnavailable
from engines.spec import Profile
from tests.engines.backends.triton.launches import CARDS, Card, Engines, Launch, recorded

BY_NAME = {
    kernel.__name__: kernel
    for module in (kernels, product_kernel)
    for kernel in module.KERNELS
    if kernel.fn.__module__ == module.__name__
}


@pytest.fixture(scope="module")
def sd15() -> Engines:
    return Engines((320, 640, 1280, 1280), (128, 256, 512, 512), groups=32, context=768)


@pytest.fixture(scope="module")
def quantized_sd15() -> Engines:
    return Engines((320, 640, 1280, 1280), (128, 256, 512, 512), groups=32, context=768, fp8=True)


def launches_of(engines: Engines, quantized: Engines, card: Card) -> set[Launch]:
    with recorded(card) as launches:
        for batch in (1, 8):
            engines.run(batch, 512, 512)
            if card.capability >= QUANTIZED_FROM:
                quantized.run(batch, 512, 512)
        for inputs in (320, 324):  # rows of 324 are no whole 16 bytes, which no unit copies
            x, weight = torch.empty(256, inputs, device="meta").half(), torch.empty(512, inputs, device="meta").half()
            kernels.geglu(x, weight, torch.empty(512, device="meta"))
    return launches


def largest(launches: set[Launch]) -> list[Launch]:
    """Of each kernel and each way to launch it, the launch with the most work in a program."""
    found: dict[object, Launch] = {}
    for launch in sorted(launches, key=lambda each: math.prod(int(value) or 1 for _, value in each.constants)):
        found[launch.kernel, launch.options, launch.kernel.startswith("_geglu") and launch.types] = launch
    return list(found.values())


def compiled(launch: Launch, card: Card) -> Any:
    kernel = BY_NAME[launch.kernel]
    places = {name: (place,) for place, name in enumerate(kernel.arg_names)}
    signature = dict(launch.types) | {name: "constexpr" for name, _ in launch.constants}
    source = ASTSource(
        kernel,
        signature={name: signature[name] for name in kernel.arg_names},
        constexprs={places[name]: value for name, value in launch.constants},
        attrs={places[name]: [["tt.divisibility", 16]] for name in launch.aligned},
    )
    return triton.compile(source, target=GPUTarget("cuda", card.capability, 32), options=dict(launch.options))


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:TRITON_DEFAULT_FP_FUSION",  # Triton 3.9 announces what 3.10 will do
    "ignore:AnnAssign:DeprecationWarning",  # Triton 3.7 on Python 3.13, of its own code
)
@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"sm{card.capability}")
def test_every_kernel_compiles_and_fits_into_the_cards_shared_memory(
    card: Card, sd15: Engines, quantized_sd15: Engines
) -> None:
    launches = launches_of(sd15, quantized_sd15, card)
    unused = {"_geglu"} if not card.copies_tiles else set()
    unused |= {"product_kernel"} if card.capability < QUANTIZED_FROM else set()
    assert {launch.kernel for launch in launches} == BY_NAME.keys() - unused
    with empty_cache():
        for launch in largest(launches):
            result = compiled(launch, card)
            assert result.asm["cubin"][:4] == b"\x7fELF"
            assert result.metadata.shared <= card.shared_bytes, launch


@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"sm{card.capability}")
def test_a_configuration_is_chosen_by_the_cards_own_numbers(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = SimpleNamespace(
        multi_processor_count=card.processors,
        major=card.capability // 10,
        shared_memory_per_multiprocessor=card.shared_bytes + 1024,
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: numbers)
    assert kernels._device.__wrapped__(0) == (card.processors, card.copies_tiles, card.roomy)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"sm{card.capability}")
def test_sets_are_built_on_every_card_by_name(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = f"sm{card.capability}"
    monkeypatch.setattr(backend, "build_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device=None: divmod(card.capability, 10))
    profiles = (Profile.parse("512x512", max_batch=8),)
    if card.capability < QUANTIZED_FROM:
        with pytest.raises(BackendUnavailable, match=f"{architecture}.* begins with sm89; use --precision fp16"):
            registry.choose("triton").recipe(precision="fp8", profiles=profiles, capability=None)
    recipe = registry.choose("triton").recipe(
        precision="fp8" if card.capability >= QUANTIZED_FROM else "fp16", profiles=profiles, capability=None
    )
    assert (recipe.backend, recipe.architecture) == ("triton", architecture)
    keys = registry.choose("triton").kernel_keys(recipe)
    assert keys.keys() - BY_NAME.keys() == ({hopper.NAME} if card.capability == 90 else set())
    assert ("product_kernel" in keys) == (card.capability >= QUANTIZED_FROM)
