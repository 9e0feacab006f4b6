"""The fast product is the plain one, and no row sees another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mulm.model.int8_product import Int8Product, can_multiply, ignore_warning, largest
from mulm.model.quantize import Int8Matrix, quantize_int8

CPU = torch.device("cpu")
fast = pytest.mark.skipif(not can_multiply(CPU), reason="this CPU does not multiply bytes fast")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    ignore_warning()


def multiply_plainly(x_XI: Tensor, matrix: Int8Matrix) -> Tensor:
    """The same in plain torch, in fp64 so that the sums are exact: the reference."""
    largest_X1 = largest(x_XI.double())
    rounded_XI = (x_XI.double() / largest_X1 * 127).round()
    sums_XO = rounded_XI @ matrix.codes_OI.double().T
    return (sums_XO * matrix.scale_O.double() * (largest_X1 / 127)).to(x_XI.dtype)


def test_who_can_multiply() -> None:
    assert not can_multiply(CPU, {"avx2": True})
    assert not can_multiply(torch.device("cuda"), {"avx512_vnni": True})


def test_the_plain_product_is_close_to_that_of_the_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    weight_OI, x_XI = torch.randn(48, 96, generator=generator), torch.randn(5, 96)
    y_XO = multiply_plainly(x_XI, quantize_int8(weight_OI))
    wanted = x_XI @ weight_OI.T
    assert float((y_XO - wanted).norm() / wanted.norm()) < 0.02


@fast
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_is_plain(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = quantize_int8(torch.randn(50, 100, generator=generator))
    product = Int8Product(matrix)
    for shape in ((100,), (1, 100), (3, 7, 100)):
        x_XI = torch.randn(shape, generator=generator).to(dtype)
        y_XO = product(x_XI)
        assert y_XO.dtype == dtype
        assert y_XO.shape == (*shape[:-1], 50)
        torch.testing.assert_close(y_XO, multiply_plainly(x_XI, matrix), rtol=1e-2, atol=1e-2)


@fast
def test_a_row_does_not_depend_on_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(1)
    product = Int8Product(quantize_int8(torch.randn(64, 64, generator=generator)))
    x_XI = torch.randn(33, 64, generator=generator) * torch.logspace(-3, 3, 33)[:, None]
    alone = torch.cat([product(row[None]) for row in x_XI])
    assert torch.equal(product(x_XI), alone)


@fast
def test_zeros_and_nans_pass_through() -> None:
    product = Int8Product(quantize_int8(torch.ones(4, 8)))
    assert bool((product(torch.zeros(1, 8)) == 0).all())
    assert bool(product(torch.full((1, 8), torch.nan)).isnan().all())
