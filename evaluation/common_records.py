"""The token records on which evaluate compares several runs."""

import sys
from collections.abc import Sequence

from data.records import Records, open_records
from data.stored.folders import digest_folder
from drawing.opening import Checkpoint


def open_common_records(checkpoints: Sequence[Checkpoint], named: str | None) -> Records:
    """The records that all runs were trained on, or those that are `named`.

    Raises:
        ValueError: the runs have different records; or the named ones have another VQGAN or other
            examples.
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
    """Raise ValueError if the checkpoint's scores on these records would mean something else. If
    the records were `chosen`, other examples only get a warning."""
    ours, theirs = (digest_folder(p) for p in (checkpoint.folder / "vqgan", records.vqgan_folder))
    if ours != theirs:
        raise ValueError(
            f"{records.folder} was encoded with another VQGAN ({theirs}) than the one that "
            f"{checkpoint.folder} decodes with ({ours}); name --records encoded with "
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
