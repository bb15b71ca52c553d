from collections import Counter

import pytest

from procmem.errors import InputError
from procmem_pretrain.grammar import program_set_sha256, sample_program
from procmem_pretrain.operations import OPERATIONS
from procmem_pretrain.program import Program, parse_program

PROGRAMS = [sample_program(5, number) for number in range(1500)]


def test_equal_seeds_give_equal_programs() -> None:
    assert [p.id for p in PROGRAMS[:50]] == [sample_program(5, n).id for n in range(50)]


def test_no_two_of_many_programs_are_equal() -> None:
    assert len({program.id for program in PROGRAMS}) == len(PROGRAMS)


def test_every_operation_of_the_table_is_drawn() -> None:
    drawn = Counter(node.operation for program in PROGRAMS for node in program.nodes)
    assert set(OPERATIONS) <= set(drawn)


def test_every_program_is_read_back_from_its_text() -> None:
    # Reading checks every input's type and every count of parameters.
    for program in PROGRAMS:
        assert parse_program(program.text) == program


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "gives no color"),
        ("0 plane  | ", "gives no color"),
        ("0 plane  | \n1 gray 0 | ", "did you mean 'gray|did you mean"),
        ("0 plane  | \n1 grey 0 | ", r"reads \('coord',\) and 0 numbers, wanted \('scalar',\)"),
        ("0 plane  | \n1 disc 7 | 0.5", "reads .'nothing',."),
        ("0 plane  | \n2 disc 0 | 0.5", "wanted index 1"),
        ("0 plane  | \n1 disc x | 0.5", "wanted 'index operation inputs"),
    ],
)
def test_a_text_that_is_no_program_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_program(text)


def test_parameters_stay_in_their_ranges() -> None:
    for program in PROGRAMS:
        for node in program.nodes[1:]:
            ranges = OPERATIONS[node.operation].parameters.values()
            assert len(ranges) == len(node.parameters)
            for value, parameter in zip(node.parameters, ranges, strict=True):
                # Rounding to four digits may step over an end by half of the last digit.
                assert parameter.low - 5e-5 <= value <= parameter.high + 5e-5


def test_the_id_changes_with_any_number_of_the_program() -> None:
    program = next(p for p in PROGRAMS if p.nodes[-1].parameters)
    last = program.nodes[-1]
    changed = type(last)(
        last.operation, last.inputs, (last.parameters[0] + 0.5, *last.parameters[1:])
    )
    assert Program((*program.nodes[:-1], changed)).id != program.id


def test_the_program_set_hash_depends_on_the_order() -> None:
    assert program_set_sha256(PROGRAMS[:2]) != program_set_sha256(PROGRAMS[1::-1])


def test_a_negative_program_number_is_refused() -> None:
    with pytest.raises(InputError, match="program number is -1"):
        sample_program(5, -1)
