from __future__ import annotations

import numpy as np
import pytest

from routers.bag import BagRouter
from routers.mean import Mean, MeanRouter


def test_routers_that_err_differently_are_averaged() -> None:
    truth = np.arange(4) % 2
    right = np.where(truth[:, np.newaxis] == np.arange(2), 0.8, 0.2)
    strong, cheap = right.copy(), right.copy()
    strong[0], cheap[1] = strong[0, ::-1], [0.6, 0.4]
    mean = Mean.fit(cheap, strong, truth, np.ones(4))
    assert mean.share > 0
    both = mean.of(cheap, strong)
    assert (both.argmax(axis=1) == truth).all()
    np.testing.assert_allclose(both.sum(axis=1), 1)


def test_a_router_that_only_errs_has_no_share() -> None:
    truth = np.zeros(200, dtype=np.int64)
    strong = np.array([[0.9, 0.1]] * 200)
    assert Mean.fit(strong[:, ::-1], strong, truth, np.ones(200)).share == 0


def test_two_routers_of_one_type_are_refused() -> None:
    with pytest.raises(ValueError, match="two types; got two of bag"):
        MeanRouter(BagRouter("a"), BagRouter("b"), "toy")
