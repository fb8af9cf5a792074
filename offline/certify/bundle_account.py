"""The account of bundles whose weights are gone: their looks and their rows, written down in the store for good.

The record of a bundle names every row that it was made of, which takes megabytes. Its looks at val_calib and its rows
move into two files of the store, which every later night reads; only then they leave the record, and the rest of it is
packed.
"""

from __future__ import annotations

from engines.store.bundle import Manifest
from engines.store.bundle_record import pack_record, records_of, sweep_packed
from engines.store.file_names import CALIBRATION, MANIFEST, SPLITS
from engines.store.store import Store
from offline.certify.calibration_ledger import looks_of, tell_store
from offline.certify.use_history import certifications_of
from offline.splits.bundle_past import read_past, remember_rows
from offline.splits.store_history import BundlePast, StoreHistory
from stage1.errors import ArtifactError


def settle_records(store: Store, at: str) -> None:
    """Write down the looks and the rows of every record that still has them, remove them from it, and pack the rest.

    A run that is killed in between does it again, which counts nothing twice. What cannot be read stays as it is.

    Args:
        store: the store.
        at: time to write down.

    Raises:
        DatasetError: a file of the store that accounts are kept in is damaged.
    """
    sweep_packed(store.root)
    for record in records_of(store.root):
        splits, calibration = record / SPLITS, record / CALIBRATION
        if splits.exists():
            try:
                past = BundlePast(record.name, record, read_past(splits))
                whole = Manifest.read(record / MANIFEST).holds(splits)
            except ArtifactError:
                continue
            if not whole:
                continue
            known = {look.key for look in looks_of(store.root)}
            for look in certifications_of(StoreHistory((past,)), at):
                if look.key not in known:
                    tell_store(store.root, look)
            remember_rows(store.root, record.name, past.rows)
            splits.unlink()
        # Last: without the splits it says nothing any more.
        calibration.unlink(missing_ok=True)
        pack_record(record)
