"""Muon against singular value decompositions, and against its own formula written out for one matrix."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from harness_mini.training.optimiser import Muon, orthogonal

WIDE, TALL, SQUARE = (24, 80), (80, 24), (64, 64)
LR, DECAY = 0.01, 0.1


def random_matrices(count, shape, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def graded(shape, singular_values, seed=0):
    """A matrix of given singular values, and the orthogonal matrix U V^T of the same directions."""
    left, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(shape[0], len(singular_values))))
    right, _ = np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(shape[1], len(singular_values))))
    matrix = left * singular_values @ right.T
    return torch.from_numpy(matrix[None]).float(), left, right


def parameters(shapes, seed=0):
    """Parameters with a gradient each."""
    found = []
    for i, shape in enumerate(shapes):
        value, gradient = random_matrices(2, shape, seed=seed + i)
        found.append(nn.Parameter(value.clone()))
        found[-1].grad = gradient.clone()
    return found


def copies(given):
    made = [nn.Parameter(value.detach().clone()) for value in given]
    for mine, value in zip(made, given, strict=True):
        mine.grad = value.grad.clone()
    return made


# --- orthogonal matrices -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [WIDE, TALL, SQUARE])
def test_singular_values_end_near_one(shape):
    # The smallest is a fifth of the mean or more in wide and tall matrices; a square one has some near zero.
    values = torch.linalg.svdvals(orthogonal(random_matrices(8, shape)))
    assert values.max() < 1.3
    assert values.min() > 0.6 or shape == SQUARE
    assert (values > 0.6).float().mean() > 0.95


@pytest.mark.parametrize("shape", [WIDE, TALL, SQUARE])
def test_directions_are_those_of_the_singular_value_decomposition(shape):
    matrix, left, right = graded(shape, np.geomspace(1, 0.05, min(shape)))
    found = orthogonal(matrix)[0].double().numpy()
    # In the matrix's own singular vectors the result is diagonal, so what is left of it is U V^T but for scale.
    seen = left.T @ found @ right
    assert np.abs(seen - np.diag(np.diag(seen))).max() < 1e-4
    assert (np.diag(seen) > 0.6).all()
    nearest = left @ right.T
    cosine = (found * nearest).sum() / np.linalg.norm(found) / np.linalg.norm(nearest)
    assert cosine > 0.97


def test_scale_does_not_matter():
    x = random_matrices(3, WIDE)
    torch.testing.assert_close(orthogonal(1000 * x), orthogonal(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(orthogonal(-x), -orthogonal(x))


def test_a_transposed_matrix_gives_the_transposed_result():
    x = random_matrices(3, TALL)
    torch.testing.assert_close(orthogonal(x), orthogonal(x.transpose(1, 2)).transpose(1, 2))


def test_matrices_of_a_batch_do_not_mix():
    x = random_matrices(5, WIDE)
    alone = torch.cat([orthogonal(one[None]) for one in x])
    torch.testing.assert_close(orthogonal(x), alone, rtol=1e-4, atol=1e-5)


def test_a_gradient_of_zero_gives_no_direction():
    assert not orthogonal(torch.zeros(1, *WIDE)).any()


# --- steps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_the_first_steps_are_those_of_the_formula(shape):
    """Nesterov momentum of 0.95, and 0.2 sqrt(larger side) from AdamW's scale (arXiv 2502.16982, equation 4)."""
    (matrix,) = parameters([shape])
    value, gradient = matrix.detach().double(), matrix.grad.double()
    momentum = torch.zeros_like(gradient)
    muon = Muon([matrix], lr=LR, weight_decay=DECAY)
    for factor in (1.0, -0.5, 2.0):
        matrix.grad = (factor * gradient).float()
        muon.step()
        momentum = 0.95 * momentum + 0.05 * factor * gradient
        looked_ahead = 0.05 * factor * gradient + 0.95 * momentum
        direction = orthogonal(looked_ahead[None])[0]
        value = value - LR * DECAY * value - LR * 0.2 * 80**0.5 * direction
        torch.testing.assert_close(matrix.detach().double(), value, rtol=1e-4, atol=1e-5)


def test_an_update_is_as_long_as_one_of_adam():
    """About 0.2 for each number, whatever the gradient's scale: what the factor before the update is for."""
    for shape in (WIDE, TALL):
        (matrix,) = parameters([shape])
        before = matrix.detach().clone()
        matrix.grad *= 1e-3
        Muon([matrix], lr=LR, weight_decay=0.0).step()
        length = float((matrix.detach() - before).square().mean().sqrt()) / LR
        assert 0.7 * 0.2 < length < 1.2 * 0.2


def test_weight_decay_is_apart_from_the_gradient():
    plain, decayed = parameters([WIDE]), parameters([WIDE])
    before = plain[0].detach().clone()
    Muon(plain, lr=LR, weight_decay=0.0).step()
    Muon(decayed, lr=LR, weight_decay=DECAY).step()
    torch.testing.assert_close(plain[0] - decayed[0], LR * DECAY * before, rtol=1e-4, atol=1e-6)


def test_matrices_of_many_shapes_step_as_they_would_alone():
    together = parameters([WIDE, TALL, WIDE, SQUARE, TALL])
    alone = copies(together)
    muon = Muon(together, lr=LR, weight_decay=DECAY)
    others = [Muon([matrix], lr=LR, weight_decay=DECAY) for matrix in alone]
    for _ in range(2):
        muon.step()
        for other in others:
            other.step()
    for matrix, other in zip(together, alone, strict=True):
        torch.testing.assert_close(matrix, other, rtol=1e-4, atol=1e-5)


def test_a_matrix_without_a_gradient_stays():
    moved, still = parameters([WIDE, WIDE])
    before, still.grad = still.detach().clone(), None
    muon = Muon([moved, still], lr=LR, weight_decay=DECAY)
    muon.step()
    assert torch.equal(still, before)
    assert still not in muon.state


def test_its_state_is_all_that_the_next_step_needs():
    (matrix,) = parameters([WIDE])
    muon = Muon([matrix], lr=LR, weight_decay=DECAY)
    muon.step()
    (resumed,) = copies([matrix])
    again = Muon([resumed], lr=1.0, weight_decay=0.0)
    again.load_state_dict(copy.deepcopy(muon.state_dict()))
    for value, optimiser in ((matrix, muon), (resumed, again)):
        value.grad = value.grad.flip(0)
        optimiser.step()
    assert torch.equal(resumed, matrix)


def test_a_closure_is_refused():
    with pytest.raises(NotImplementedError, match="no closure"):
        Muon(parameters([WIDE]), lr=LR, weight_decay=DECAY).step(lambda: 0.0)
