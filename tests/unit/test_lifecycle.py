"""States and what they mean."""

import pytest

from slurmbridge.lifecycle import (
    FINAL_STATES,
    LEGAL_TRANSITIONS,
    STATE_OF_BASE,
    STATE_OF_FLAG,
    ProcessState,
    SlurmFlag,
    SlurmState,
    SlurmStatus,
    classify,
    is_legal,
    read_status,
)


def test_slurm_documents_twelve_base_states_and_seventeen_flags() -> None:
    assert (len(SlurmState), len(SlurmFlag)) == (12, 17)


def test_every_base_state_and_every_flag_has_a_row() -> None:
    assert set(STATE_OF_BASE) == set(SlurmState)
    assert set(STATE_OF_FLAG) == set(SlurmFlag)


@pytest.mark.parametrize("state", SlurmState)
def test_a_printed_base_state_is_read_and_classified(state: SlurmState) -> None:
    assert classify(read_status(state.value)) is STATE_OF_BASE[state]


@pytest.mark.parametrize("flag", SlurmFlag)
def test_a_flag_printed_in_place_of_the_base_state_is_never_final_but_for_failures(
    flag: SlurmFlag,
) -> None:
    state = classify(read_status(flag.value))
    assert state is (STATE_OF_FLAG[flag] or ProcessState.UNKNOWN)
    assert state is not ProcessState.COMPLETE


@pytest.mark.parametrize("text", ["", "COMPLETE", "BANANA", "COMPLETED,BANANA", "R"])
def test_an_unlisted_word_is_unknown_and_stays_open(text: str) -> None:
    state = classify(read_status(text))
    assert state is ProcessState.UNKNOWN
    assert not state.final


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CANCELLED by 1000", ProcessState.CANCELED),
        ("COMPLETED,COMPLETING", ProcessState.RUNNING),
        ("FAILED+REQUEUED", ProcessState.QUEUED),
        ("PENDING,SIGNALING", ProcessState.QUEUED),
        ("RUNNING,CONFIGURING", ProcessState.INITIALIZING),
        ("PENDING|LAUNCH_FAILED", ProcessState.SYSTEM_ERROR),
        ("COMPLETED,UPDATE_DB", ProcessState.COMPLETE),
    ],
)
def test_words_together_mean_what_the_strongest_says(text: str, expected: ProcessState) -> None:
    assert classify(read_status(text)) is expected


def test_the_words_of_a_status_can_be_read_again() -> None:
    status = SlurmStatus(SlurmState.FAILED, frozenset({SlurmFlag.REQUEUED}))
    assert read_status(str(status)) == status


def test_nothing_follows_a_final_state() -> None:
    assert not [pair for pair in LEGAL_TRANSITIONS if pair[0] in FINAL_STATES]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (ProcessState.RUNNING, ProcessState.QUEUED),
        (ProcessState.CANCELING, ProcessState.COMPLETE),
        (ProcessState.UNKNOWN, ProcessState.QUEUED),
    ],
)
def test_requeue_late_cancel_and_recovery_are_legal(
    before: ProcessState, after: ProcessState
) -> None:
    assert is_legal(before, after)


def test_a_process_that_is_being_canceled_does_not_run_again() -> None:
    assert not is_legal(ProcessState.CANCELING, ProcessState.RUNNING)
