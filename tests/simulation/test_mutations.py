"""The simulation finds every removed safeguard, by the invariant that the safeguard protects."""

from itertools import count

import pytest

from tests.simulation.mutations import HARMLESS, MUTATIONS
from tests.simulation.world import run_seed


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_taken_out_is_missed(name: str) -> None:
    mutation = MUTATIONS[name]
    for seed in count():
        assert seed < mutation.runs_max, f"{name}: none of {mutation.runs_max} runs has noticed"
        assert run_seed(seed, lanes=mutation.lanes).violation is None, "the unmutated system passes the same seed"
        found = run_seed(seed, mutation.parts, mutation.lanes).violation
        if found is not None and found.invariant in mutation.invariants:
            return


@pytest.mark.parametrize("name", HARMLESS)
def test_what_has_something_behind_it_may_be_taken_out(name: str) -> None:
    for seed in range(200):
        assert run_seed(seed, HARMLESS[name]).violation is None
