"""What the store records of tasks: leases while they run, receipts when they are done.

Imports `store.objects` and `errors` only. `leases` holds `Leases`; `receipts` holds `Receipts`.

States of a task, as the store shows them. A receipt names the digest of its task, so a task whose inputs or settings
change is another task and begins at "open":

    receipt   lease     count of the lease      state
    absent    absent    -                       open: never begun, failed, or stopped
    absent    present   grows every 15 s        running
    absent    present   stands still            abandoned: its process or machine is gone
    present   present   -                       done; the lease is void
    present   absent    -                       done

Transitions. Every write is atomic; the worker alone writes unless stated otherwise:

    open      -> running     1. create the lease by a conditional write; a second worker gets the holder instead
    running   -> done        2. read the receipt: if it is present, skip to 7
                             3. remove the receipts of earlier digests of this part, before its output is touched
                             4. write the output, chunk by chunk
                             5. flush all that was written to a local disk
                             6. read the lease: if another holds it, stop here; else write the receipt
                             7. remove the lease
    running   -> open        an error: remove the lease, write no receipt; the driver retries or records the failure
    running   -> abandoned   a kill, or a lost machine: nothing is written any more
    abandoned -> running     another worker removes the lease and creates its own. Allowed at once if the holder was a
                             process of the same machine that has ended, or if the driver knows the attempt is gone;
                             else when a driver has seen the same count for `run.lease_minutes` by its own clock
    done      -> open        `verify` or a repetition removes the receipt; a void lease is removed by the next driver

Correctness rests on receipts alone. Leases save work: if two workers run one task, both write the same bytes.
"""

__all__ = ["leases", "receipts"]
