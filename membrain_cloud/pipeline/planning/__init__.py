"""Planning: from settings, a project and its receipts to the tasks that are left to do, and what they will take.

Planning may import the stages, the store, and `pipeline.settings`, `tasks`, `models` and `digest`. It writes nothing
and reads no voxel; only `invalidate` removes receipts.

Modules
-------
plan
    `plan`, the entry point, and its result `Plan`.
digests
    Which stages take part, and the digests from which sessions and receipts are named.
builder, records
    Every possible task of every run, and which of them are left.
receipt_index
    What the receipts in the store say: which tasks are done, and with which settings.
estimates
    Hours and cost of what is left.
invalidate
    Forget results, and find annotations that a plan must not overwrite.
"""

__all__ = ["builder", "digests", "estimates", "invalidate", "plan", "receipt_index", "records"]
