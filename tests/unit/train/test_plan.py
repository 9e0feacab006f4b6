"""The plan of training: the µLM trains on a card of 32 GB, and with savings on one of 12."""

from __future__ import annotations

from mulm.model.presets import preset
from mulm.train.plan import options

OPTIONS = options(preset("base", 32768), 1024)


def test_base_trains_on_32_gb_in_every_way() -> None:
    assert all(option.rows_by_card_gb[32] >= 16 for option in OPTIONS)


def test_base_trains_on_12_gb_with_savings() -> None:
    saving = [o for o in OPTIONS if o.is_checkpointed and o.state_dtype == "int8"]
    assert len(saving) == 2
    assert {o.optimizer for o in saving} == {"muon", "adamw"}
    assert all(option.rows_by_card_gb[12] >= 16 for option in saving)


def test_savings_save() -> None:
    by_way = {
        (o.optimizer, o.state_dtype, o.is_checkpointed): o for o in OPTIONS if not o.is_offloaded
    }
    for kind in ("muon", "adamw"):
        for is_checkpointed in (False, True):
            sizes = [
                by_way[kind, dtype, is_checkpointed].one_row_bytes
                for dtype in ("fp32", "bf16", "int8")
            ]
            assert sizes == sorted(sizes, reverse=True)
    kept, again = by_way["muon", "fp32", False], by_way["muon", "fp32", True]
    assert again.one_row_bytes < kept.one_row_bytes


def test_states_in_the_memory_of_the_cpu_are_the_last_resort() -> None:
    away = [option for option in OPTIONS if option.is_offloaded]
    assert OPTIONS[-2:] == away
    assert {option.optimizer for option in away} == {"muon", "adamw"}
    for option in away:
        others = [o for o in OPTIONS if o.optimizer == option.optimizer and not o.is_offloaded]
        assert option.one_row_bytes < min(o.one_row_bytes for o in others)
