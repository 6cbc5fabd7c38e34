"""Error-compensated rounding: less damage than rounding to nearest, whatever the inputs; shapes, ends, bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from n730c.dtypes import Format
from n730c.errors import N730Error
from n730c.quant import dequantize, encode
from n730c.quant.calibrated import Rounder
from n730c.quant.gptq import damage, factor, round_factored, round_matrix
from n730c.quant.grids import encode_rounded, grid

INTEGER = [fmt for fmt in Format if fmt.is_integer]


def inputs(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Correlated inputs with a few large features, as real layers see them."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(width, width, generator=generator) / width**0.5
    x = torch.randn(count, width, generator=generator) @ (torch.eye(width) + 2 * mixed)
    x[:, :: max(1, width // 5)] *= 6
    return x


def problem(rows: int, cols: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = inputs(4 * cols, cols)
    weight = torch.randn(rows, cols, generator=torch.Generator().manual_seed(1))
    return weight, x.T @ x / len(x)


@pytest.mark.parametrize("fmt", INTEGER)
@pytest.mark.parametrize(("rows", "cols"), [(24, 96), (7, 33), (17, 31), (1, 1)])
def test_less_damage_than_to_the_nearest(fmt: Format, rows: int, cols: int) -> None:
    weight, hessian = problem(rows, cols)
    rounded = round_matrix(weight, hessian, grid(fmt))
    nearest = torch.from_numpy(dequantize(fmt, encode(weight.numpy(), fmt), rows, cols))
    limit = 0.8 if cols > 90 else 1.02
    assert damage(weight, rounded.weight, hessian) <= limit * damage(weight, nearest, hessian) + 2.4e-7 * damage(
        weight, 0 * weight, hessian
    )  # the square of what rounding a scale to FP16 may cost


def test_a_sweep_never_raises_the_damage() -> None:
    weight, hessian = problem(40, 128)
    aim = grid(Format.INT2)
    factored = factor(hessian, aim.group)
    order = factored.order
    losses = [
        damage(weight[:, order], round_factored(weight, aim, factored, sweeps=n).weight[:, order], factored.damped)
        for n in range(4)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[2] < 0.97 * losses[0]


@pytest.mark.parametrize("fmt", INTEGER)
def test_the_bytes_hold_what_was_rounded(fmt: Format) -> None:
    weight, hessian = problem(21, 300)
    rounded = round_matrix(weight, hessian, grid(fmt))
    stored = dequantize(fmt, encode_rounded(fmt, rounded), 21, 300)
    np.testing.assert_array_equal(stored, rounded.weight.numpy())


def test_rows_stand_for_themselves() -> None:
    """A block of rows gets the same values as within the whole matrix, up to the rounding of sums."""
    weight, hessian = problem(64, 96)
    rounder = Rounder({"x": hessian.numpy()})
    whole = rounder.round(weight.numpy(), "x", Format.INT4).weight
    part = rounder.round(weight[16:48].numpy(), "x", Format.INT4).weight
    assert (whole[16:48] == part).float().mean() > 0.99


def test_inputs_that_never_came_and_no_calibration_at_all() -> None:
    weight, hessian = problem(16, 64)
    hessian[:, 10:20] = 0
    hessian[10:20, :] = 0
    rounded = round_matrix(weight, hessian, grid(Format.INT4)).weight
    assert torch.isfinite(rounded).all() and float((rounded - weight)[:, 10:20].abs().max()) < 0.5
    free = Rounder({}).round(weight.numpy(), None, Format.INT8).weight
    assert float((free - weight).abs().max()) < 0.05


def test_zero_and_constant_matrices() -> None:
    hessian = problem(4, 64)[1]
    for value in (0.0, -0.37):
        weight = torch.full((4, 64), value)
        for fmt in INTEGER:
            rounded = round_matrix(weight, hessian, grid(fmt)).weight
            assert torch.isfinite(rounded).all()
            assert damage(weight, rounded, hessian) <= 0.05 * max(damage(weight, 0 * weight, hessian), 1e-12)


def test_moments_that_rounding_left_indefinite_are_damped_until_they_can_be_used() -> None:
    generator = torch.Generator().manual_seed(3)
    vectors = torch.linalg.qr(torch.randn(96, 96, generator=generator)).Q
    spectrum = torch.linspace(-0.2, 2.0, 96)
    spectrum[-1] = 20.0
    hessian = vectors @ torch.diag(spectrum) @ vectors.T
    used = factor(hessian, 32)
    inverse = used.upper.T @ used.upper
    torch.testing.assert_close(inverse @ used.damped, torch.eye(96), atol=2e-3, rtol=0)
    weight = torch.randn(8, 96, generator=generator)
    assert torch.isfinite(round_factored(weight, grid(Format.INT4), used, 1).weight).all()


def test_inputs_that_are_not_finite_are_told() -> None:
    hessian = torch.eye(64)
    hessian[3, 5] = hessian[5, 3] = torch.nan
    with pytest.raises(N730Error, match=r"expected finite numbers"):
        factor(hessian, 32)
