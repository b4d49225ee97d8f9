"""The token records that runs have in common, by which evaluate compares them."""

import sys
from collections.abc import Sequence

from data.folders import digest_folder
from data.records import Records, open_records
from opening import Checkpoint


def open_common_records(checkpoints: Sequence[Checkpoint], named: str | None) -> Records:
    """The records of all the runs, or those that are `named`.

    Raises:
        ValueError: they are not the same, or not what the runs were trained on, or made with
            another VQGAN than a run paints with.
    """
    folders = [named or checkpoint.records for checkpoint in checkpoints]
    for folder, checkpoint in zip(folders, checkpoints, strict=True):
        if folder is None:
            raise ValueError(f"{checkpoint.folder} does not know its data; name --records")
        if open_records(folder).digest != open_records(str(folders[0])).digest:
            raise ValueError(
                f"{checkpoint.folder} was trained on {folder}, {checkpoints[0].folder} on "
                f"{folders[0]}, which is other data; evaluate them apart, or name --records"
            )
    records = open_records(str(folders[0]))
    for checkpoint in checkpoints:
        check_records(checkpoint, records, chosen=named is not None)
    return records


def check_records(checkpoint: Checkpoint, records: Records, chosen: bool) -> None:
    """Raise ValueError where a score would be about something else; only warn about other
    examples if they were `chosen`."""
    ours, theirs = (digest_folder(p) for p in (checkpoint.folder / "vqgan", records.vqgan_folder))
    if ours != theirs:
        raise ValueError(
            f"{records.folder} was encoded with another VQGAN ({theirs}) than the one that "
            f"{checkpoint.folder} paints with ({ours}); name --records encoded with "
            f"{checkpoint.folder / 'vqgan'}"
        )
    if checkpoint.records_digest == records.digest:
        return
    if chosen:
        print(
            f"warning: {checkpoint.folder} does not say that it was trained on {records.folder}; "
            f"pictures of its training may be among the prompts",
            file=sys.stderr,
        )
    elif checkpoint.records_digest is not None:
        raise ValueError(
            f"{checkpoint.folder} was trained on records {checkpoint.records_digest}, but "
            f"{records.folder} holds {records.digest} now; name --records"
        )
