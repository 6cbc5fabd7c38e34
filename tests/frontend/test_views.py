"""Views of stored tensors: names, shapes and values."""

from __future__ import annotations

import numpy as np
import pytest

from n730c.ir.views import apply_view, increased, renamed, rows_of, stored_name, transposed, view_shape


def test_a_view_is_its_name() -> None:
    stored = np.arange(24, dtype=np.float32).reshape(2, 12)
    name = rows_of(transposed("a.weight"), 3, 1, 2)
    assert name == "a.weight|transpose|rows-3-1-2"
    assert stored_name(name) == "a.weight" and renamed(name, "b") == "b|transpose|rows-3-1-2"
    assert view_shape(name, stored.shape) == (6, 2)
    assert np.array_equal(apply_view(name, stored), stored.T[[1, 2, 5, 6, 9, 10]])
    assert transposed(transposed("a")) == "a"
    assert (
        apply_view(increased("norm", -1.5e-7), np.ones(2, np.float32)).tolist()
        == [np.float32(1) + np.float32(-1.5e-7)] * 2
    )
    assert np.array_equal(apply_view(rows_of("bias", 1, 1, 2), np.arange(4)), [1, 2])
    assert np.array_equal(apply_view("plain", stored), stored)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("a|transpose", (3,)), ("a|rows-2-0-1", (3,)), ("a|rows-1-2-2", (3,)), ("a|rows-1-2", (3,)), ("a|what", (3,))],
)
def test_what_does_not_fit_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        view_shape(name, shape)
