"""What a checkpoint tells to set is what a checkpoint may set."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from data_pipeline.foundation.errors import Failure
from train.checkpoint.save import loss_scaler_of, restore_loss_scaler


@pytest.fixture
def engine() -> Any:
    """Of fp16, which no CPU trains, only DeepSpeed's loss scaler: the real one."""
    from train.extensions import import_deepspeed

    import_deepspeed()
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    optimizer = SimpleNamespace(loss_scaler=DynamicLossScaler(2.0**16, 1000, 1, 2, False))
    return SimpleNamespace(deepspeed=SimpleNamespace(fp16_enabled=lambda: True, optimizer=optimizer))


def test_the_state_of_the_loss_scale_comes_back_and_its_settings_stay_the_runs(engine):
    state = loss_scaler_of(engine)
    assert state == {"cur_scale": 65536.0, "cur_iter": 0, "last_overflow_iter": -1, "cur_hysteresis": 2}
    restore_loss_scaler(engine, {**state, "cur_scale": 128.0, "cur_iter": 7})
    assert loss_scaler_of(engine) == {**state, "cur_scale": 128.0, "cur_iter": 7}


@pytest.mark.parametrize("told", [{"update_scale": 1}, {"scale_window": 5}, {"cur_scale": "4"}, {"cur_iter": True}])
@pytest.mark.parametrize("fp16", [True, False])
def test_anything_else_is_refused_by_name(engine, told, fp16):
    engine.deepspeed.fp16_enabled = lambda: fp16
    before = dict(vars(engine.deepspeed.optimizer.loss_scaler))
    with pytest.raises(Failure, match=rf"trainer.json sets {next(iter(told))}="):
        restore_loss_scaler(engine, told)
    assert vars(engine.deepspeed.optimizer.loss_scaler) == before
