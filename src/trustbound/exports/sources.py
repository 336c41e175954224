"""The data and the model that a run speaks of: taken only where their digests say that they are the same."""

from __future__ import annotations

from trustbound.data.labelled import LabelledSet
from trustbound.errors import InputError
from trustbound.model.wrapping import Model
from trustbound.record.audit import AuditRecord


def same_examples(data: LabelledSet, record: AuditRecord) -> LabelledSet:
    """The examples of the audit, in its order, out of data that holds them.

    Raises      InputError where the data is another.
    """
    if data.sha256 == record.data.sha256:
        return data
    place = {int(row): at for at, row in enumerate(data.indices)}
    if all(row in place for row in record.data.indices):
        taken = data.take([place[row] for row in record.data.indices])
        if taken.sha256 == record.data.sha256:
            return taken
    raise InputError(
        f"the audit was made on {record.data.n} examples of {record.data.name} with the digest "
        f"{record.data.sha256[:16]}…; {data.name}, {len(data)} examples, does not hold them with the same values. Give "
        "the data that was audited, read the same way."
    )


def same_model(model: Model, record: AuditRecord) -> Model:
    """The model of the audit.

    Raises      InputError where it is another.
    """
    if model.sha256 != record.model.sha256:
        raise InputError(
            f"the audit was made of {record.model.name} with the digest {record.model.sha256[:16]}…; {model.name} has "
            f"{model.sha256[:16]}…. Give the model that was audited."
        )
    return model
