import pytest
import torch
from torch import nn

from study.training import loops


@pytest.mark.parametrize(("count", "size"), [(1, 1), (1, 64), (5, 64), (10, 3), (10, 5), (64, 64), (129, 64)])
def test_batches_are_a_shuffled_epoch_without_the_rest(count: int, size: int) -> None:
    found = list(loops.batches(count, size, torch.device("cpu")))
    assert len(found) == loops.steps_per_epoch(count, size) == max(1, count // size)
    drawn = torch.cat(found).tolist()
    assert ({len(batch) for batch in found}, len({*drawn})) == ({min(count, size)}, len(drawn))
    with pytest.raises(ValueError, match=f"must hold, but got 0 and {size}"):
        next(loops.batches(0, size, torch.device("cpu")))


@pytest.mark.parametrize(("count", "batch"), [(55_000, 256), (1024, 256), (120, 30), (9, 2), (1, 2)])
def test_few_images_have_at_least_four_steps_an_epoch(count: int, batch: int) -> None:
    assert loops.fitting_batch(256, count) == batch
    assert count < 8 or loops.steps_per_epoch(count, batch) >= 4


def test_eval_mode_restores_each_module() -> None:
    modes = nn.Linear(1, 1).train(), nn.Linear(1, 1).eval()
    with loops.eval_mode(*modes):
        assert not any(module.training for module in modes)
        assert not modes[0](torch.ones(1)).requires_grad
    assert [module.training for module in modes] == [True, False]
