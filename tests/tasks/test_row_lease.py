"""One node is helped at a time, by a device that has nothing else to do."""

from edge_node.domain import NodeId
from edge_node.shared_rows import BUSY, LEASED
from edge_node.tasks.row_lease import LEASE_S_MAX, LEASE_S_MIN, LEASE_STEPS, RowLease

ONE, OTHER = NodeId("one"), NodeId("other")


def test_who_asks_renews_it_and_another_waits_until_it_lapses() -> None:
    lease = RowLease()
    assert lease.ask(ONE, idle=True, pair_s=1.0, now_s=0.0) == ""
    assert lease.ask(OTHER, idle=True, pair_s=1.0, now_s=LEASE_STEPS - 0.1) == LEASED
    assert lease.ask(ONE, idle=True, pair_s=1.0, now_s=LEASE_STEPS - 0.1) == ""
    assert lease.ask(OTHER, idle=True, pair_s=1.0, now_s=LEASE_STEPS + 0.5) == LEASED
    assert lease.holder(now_s=LEASE_STEPS + 0.5) == ONE
    late_s = 2 * LEASE_STEPS
    assert lease.holder(now_s=late_s) is None
    assert lease.ask(OTHER, idle=True, pair_s=1.0, now_s=late_s) == ""


def test_own_work_ends_it() -> None:
    lease = RowLease()
    lease.ask(ONE, idle=True, pair_s=1.0, now_s=0.0)
    assert lease.ask(ONE, idle=False, pair_s=1.0, now_s=0.1) == BUSY
    assert lease.holder(now_s=0.1) is None
    assert lease.ask(OTHER, idle=True, pair_s=1.0, now_s=0.2) == ""


def test_it_is_bounded_whatever_is_said_of_a_step() -> None:
    for pair_s, until_s in ((0.0, LEASE_S_MIN), (1e9, LEASE_S_MAX)):
        lease = RowLease()
        lease.ask(ONE, idle=True, pair_s=pair_s, now_s=0.0)
        assert lease.holder(now_s=0.99 * until_s) == ONE
        assert lease.holder(now_s=until_s) is None
