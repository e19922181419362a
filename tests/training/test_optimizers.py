"""Parameter groups, their rates, and optimiser state by name."""

import pytest
import torch
from torch import nn

from src.errors import UserError
from src.training.optimizers import (
    export_state,
    import_state,
    make_optimizer,
    parameter_names,
    set_learning_rates,
)
from tests.training.tiny import Group, TinyDenoiser, groups_of

NAMES = ["unet_lora", "unet", "text_encoder_lora", "text_encoder", "text_encoder_2_lora", "token_embedding"]


def test_each_component_has_its_rate() -> None:
    groups = [Group(name, [(name, nn.Parameter(torch.ones(2)))]) for name in NAMES]
    settings = {"lr": 1.0, "lr_text_encoder": 0.5, "lr_token_embedding": 0.25}
    optimizer = make_optimizer(groups, algorithm=torch.optim.AdamW, **settings)
    expected = dict(zip(NAMES, [1.0, 1.0, 0.5, 0.5, 0.5, 0.25], strict=True))
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} != expected, "set each step"
    assert set_learning_rates(optimizer, 1.0) == expected
    assert set_learning_rates(optimizer, 0.5) == {name: rate / 2 for name, rate in expected.items()}
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    settings["lr_text_encoder_2"] = 0.125
    optimizer = make_optimizer(groups, algorithm=torch.optim.AdamW, **settings)
    assert set_learning_rates(optimizer, 1.0) == expected | {"text_encoder_2_lora": 0.125}
    alone = make_optimizer(groups, algorithm=torch.optim.AdamW, lr=1.0)
    assert set(set_learning_rates(alone, 1.0).values()) == {1.0}
    second = make_optimizer(groups, algorithm=torch.optim.AdamW, lr=1.0, lr_text_encoder_2=0.5)
    assert {name for name, rate in set_learning_rates(second, 1.0).items() if rate != 1.0} == {
        "text_encoder_2_lora"
    }


def test_fused_where_there_is_such_a_thing() -> None:
    groups = groups_of(TinyDenoiser())
    assert make_optimizer(groups, algorithm=torch.optim.AdamW, lr=1.0).defaults["fused"]
    assert "fused" not in make_optimizer(groups, algorithm=torch.optim.Adamax, lr=1.0).defaults


def _trained(algorithm) -> tuple[torch.optim.Optimizer, list[Group]]:
    groups = groups_of(TinyDenoiser())
    optimizer = make_optimizer(groups, algorithm=algorithm, lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for group in groups:
            for _, parameter in group.parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return optimizer, groups


@pytest.mark.parametrize(
    "algorithm",
    [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adamax, torch.optim.Adafactor, torch.optim.RMSprop],
)
def test_state_goes_out_and_comes_back_exactly(algorithm) -> None:
    optimizer, groups = _trained(algorithm)
    tensors, scalars = export_state(optimizer, parameter_names(groups))
    other_groups = groups_of(TinyDenoiser())
    other = make_optimizer(other_groups, algorithm=algorithm, lr=0.1)
    import_state(other, parameter_names(other_groups), tensors, scalars)
    back_tensors, back_scalars = export_state(other, parameter_names(other_groups))
    assert back_scalars == scalars
    assert back_tensors.keys() == tensors.keys()
    assert all(torch.equal(tensors[name], back_tensors[name]) for name in tensors)
    assert all(tensors[name].dtype == back_tensors[name].dtype for name in tensors)


def test_state_of_other_parameters_is_refused() -> None:
    optimizer, groups = _trained(torch.optim.AdamW)
    names = parameter_names(groups)
    tensors, scalars = export_state(optimizer, names)
    with pytest.raises(UserError, match="which this run does not train"):
        import_state(optimizer, ["x" + name for name in names], tensors, scalars)
