from __future__ import annotations

import subprocess
import sys

import pytest

from common.config import TrainingSettings, parse_settings
from common.errors import UserError
from common.lora import A_END, B_END
from common.methods import ENDS, METHODS, chosen, sent, trained

NAMES = [layer + end for layer in ("h.1.c_attn", "h.0.c_attn") for end in (A_END, B_END)]
A, B = sorted(name for name in NAMES if name.endswith(A_END)), sorted(name for name in NAMES if name.endswith(B_END))


def test_the_ends_of_names_are_the_adapters() -> None:
    assert ENDS == {"A": A_END, "B": B_END}


def test_settings_take_every_method_and_no_other() -> None:
    for method in METHODS:
        assert parse_settings(TrainingSettings, {"method": method}, "here").method == method
    with pytest.raises(UserError, match="'fedmagic': value error, none of fedavg, ffa"):
        parse_settings(TrainingSettings, {"method": "fedmagic"}, "here")


@pytest.mark.parametrize(("method", "names"), [("fedavg", sorted(NAMES)), ("ffa", B), ("fedsvd", B)])
def test_what_trains_travels_in_every_round(method: str, names: list[str]) -> None:
    for number in (1, 2, 7):
        assert trained(NAMES, method, number) == sent(NAMES, method, number) == names


@pytest.mark.parametrize(("number", "names"), [(1, B), (2, A), (3, B), (100, A)])
def test_rolora_takes_turns_and_begins_with_b_whose_gradient_is_there_from_the_start(
    number: int, names: list[str]
) -> None:
    assert trained(NAMES, "rolora", number) == sent(NAMES, "rolora", number) == names


def test_fedsa_trains_both_and_sends_a_alone() -> None:
    assert trained(NAMES, "fedsa", 3) == sorted(NAMES)
    assert sent(NAMES, "fedsa", 3) == A


def test_nothing_is_sent_that_is_not_trained_and_every_round_sends_something() -> None:
    for method, travel in METHODS.items():
        for number in range(1, 6):
            assert sent(NAMES, method, number)
            assert set(sent(NAMES, method, number)) <= set(trained(NAMES, method, number))
            assert set(travel.trains(number)) <= set(ENDS)


def test_names_that_are_no_factors_are_never_chosen() -> None:
    assert chosen([*NAMES, "head.weight", "h.0.lora_A.bias"], "AB") == sorted(NAMES)
    assert chosen(NAMES, "") == []


def test_what_travels_is_known_without_torch() -> None:
    code = "import sys, common.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
