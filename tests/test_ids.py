import pytest

from zflow.ids import Slot, new_birth, new_token

NO_SLOTS = ["", "/", "resize", "resize/", "/0", "resize/x", "resize/-1", "resize/1.0", "resize/ 1"]
# Digits that are read as a number but never written by a slot.
OTHER_SPELLINGS = ["resize/01", "resize/٣", "resize/²"]


@pytest.mark.parametrize("slot", [Slot("resize", 0), Slot("resize", 12), Slot("a/b", 3)])
def test_a_slot_is_read_back_from_what_it_is_written_as(slot):
    assert Slot.parse(str(slot)) == slot


def test_a_slot_is_written_as_its_stage_and_its_index():
    assert str(Slot("resize", 3)) == "resize/3"


@pytest.mark.parametrize("text", [*NO_SLOTS, *OTHER_SPELLINGS])
def test_a_text_that_no_slot_is_written_as_is_refused(text):
    with pytest.raises(ValueError, match="slot is written|invalid literal"):
        Slot.parse(text)


def test_slots_sort_by_stage_and_then_by_number():
    slots = [Slot("b", 0), Slot("a", 10), Slot("a", 2)]
    assert sorted(slots) == [Slot("a", 2), Slot("a", 10), Slot("b", 0)]


def test_a_token_is_never_0_and_fits_64_bits():
    tokens = [new_token() for _ in range(500)]
    assert all(0 < token < 1 << 64 for token in tokens)
    assert len(set(tokens)) == len(tokens)


def test_a_birth_fits_a_signed_64_bit_integer():
    births = [new_birth() for _ in range(500)]
    assert all(0 <= birth < 1 << 63 for birth in births)
    assert len(set(births)) == len(births)
