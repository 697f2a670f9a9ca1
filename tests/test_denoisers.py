"""Denoisers: shapes, gradients, and what an unknown return-to-go may change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dawm.config import WorldModelSettings
from dawm.world_model.denoisers import ResidualDenoiser, make_denoiser
from dawm.world_model.unet import TemporalBlock, TemporalUNet

NETWORKS = ("residual", "unet")


def network(denoiser: str = "unet", window: int = 8, **changes: object) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden": 16, "blocks": 1, "unet_channels": (8, 16)} | changes
    return make_denoiser(WorldModelSettings(denoiser=denoiser, window=window, **sizes), 6, 3)  # type: ignore[arg-type]


def inputs(window: int = 8, count: int = 5) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    return {
        "rows": torch.randn(count, window, 6, generator=g),
        "noise_level": torch.rand(count, generator=g),
        "action": torch.rand(count, 3, generator=g),
        "return_to_go": torch.rand(count, generator=g),
        "known": torch.arange(count) % 2 == 0,
    }


@pytest.mark.parametrize("denoiser", NETWORKS)
@pytest.mark.parametrize("window", range(2, 33))
def test_output_has_the_windows_shape(denoiser: str, window: int) -> None:
    found = network(denoiser, window)(**inputs(window))
    assert found.shape == (5, window, 6) and found.isfinite().all()


@pytest.mark.parametrize("widths", [(8,), (12, 20), (8, 16, 24), (9, 11, 13, 15, 17)])
@pytest.mark.parametrize("window", [2, 7, 32])
def test_unet_takes_any_number_of_levels_and_any_widths(widths: tuple[int, ...], window: int) -> None:
    assert network(window=window, unet_channels=widths)(**inputs(window)).shape == (5, window, 6)


def test_unet_of_two_levels_has_dwms_six_residual_blocks() -> None:
    found = network()
    assert isinstance(found, TemporalUNet)
    blocks = [module for module in found.modules() if isinstance(module, TemporalBlock)]
    assert len(blocks) == 6
    for block in blocks:
        kinds = [type(module).__name__ for part in (block.first, block.second) for module in part]
        assert kinds == 2 * ["Conv1d", "GroupNorm", "Mish"]


@pytest.mark.parametrize("window", [2, 5, 8])
def test_gradients_reach_every_weight_and_every_input_of_the_unet(window: int) -> None:
    made, given = network(window=window), inputs(window)
    for name in ("rows", "noise_level", "action", "return_to_go"):
        given[name].requires_grad_()
    (made(**given) ** 2).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    for name in ("rows", "noise_level", "action"):
        gradient = given[name].grad
        assert gradient is not None and gradient.view(5, -1).any(1).all(), name


@pytest.mark.parametrize("denoiser", NETWORKS)
def test_an_unknown_return_is_not_seen(denoiser: str) -> None:
    made, given = network(denoiser), inputs()
    if isinstance(made, ResidualDenoiser):  # its blocks start as the identity, which still lets the condition through
        assert not made.blocks[0].second.weight.any()
    moved = {**given, "return_to_go": given["return_to_go"] + 3}
    same = (made(**given) == made(**moved)).flatten(1).all(1)
    assert torch.equal(same, ~given["known"])


@pytest.mark.parametrize("denoiser", NETWORKS)
@pytest.mark.parametrize("name", ["noise_level", "action"])
def test_the_rest_of_the_condition_is_seen(denoiser: str, name: str) -> None:
    made, given = network(denoiser), inputs()
    moved = {**given, name: given[name] + 0.3}
    assert (made(**given) != made(**moved)).flatten(1).any(1).all()


@pytest.mark.parametrize("denoiser", NETWORKS)
def test_windows_of_a_batch_do_not_see_each_other(denoiser: str) -> None:
    made, given = network(denoiser).eval(), inputs(count=32)
    other = {**given, "rows": given["rows"].clone()}
    other["rows"][1:] = 9.0
    assert torch.equal(made(**given)[0], made(**other)[0])


def test_every_row_of_the_unets_output_sees_the_first() -> None:
    made, given = network(window=8), inputs(8)
    moved = {**given, "rows": given["rows"].clone()}
    moved["rows"][:, 0] += 1.0
    assert (made(**given) != made(**moved)).any(2).all()
