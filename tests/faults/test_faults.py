"""A share of the faults that `python bench/faults.py` injects; EDGEDISTILL_FAULTS says which share, 1 for all."""

import os
import random
from pathlib import Path

import pytest

from tests.faults import clients, corruptions, disks, kills, mutations
from tests.faults.forked import preload
from tests.faults.material import Material, make
from tests.faults.sizes import FULL, share_of

pytestmark = pytest.mark.slow
SIZES = share_of(FULL, float(os.environ.get("EDGEDISTILL_FAULTS", "0.02")))


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    preload()
    return make(Path(tmp_path_factory.mktemp("faults")))


def test_mutated_inputs_end_in_a_sentence(material: Material):
    assert mutations.inject(material, SIZES.mutations, random.Random(1)).wrong == []


def test_a_corrupted_run_is_made_whole(material: Material):
    assert corruptions.inject(material, SIZES.corruptions, random.Random(2)).wrong == []


def test_killed_commands_go_on(material: Material):
    for counts in kills.inject(material, SIZES.kills, SIZES.signals, random.Random(3)):
        assert counts.wrong == []


def test_full_disks_are_a_sentence(material: Material):
    if not disks.can_mount():
        pytest.skip("needs root, for a small file system in memory")
    assert disks.inject(material, SIZES.disks, random.Random(4)).wrong == []


def test_hostile_clients_are_refused_in_form(material: Material):
    assert clients.inject(material, SIZES.clients, random.Random(5)).wrong == []
