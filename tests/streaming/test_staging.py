import threading

from ptyzarr.streaming.staging import SlotRing


class Copy:
    """A copy under way: `complete` is what the device would do."""

    def __init__(self):
        self.done = threading.Event()
        self.waited = 0

    def wait(self):
        self.waited += 1
        assert self.done.wait(10)


def test_a_slot_is_handed_out_again_only_after_its_copy():
    ring = SlotRing(["a"])
    copy = Copy()
    ring.release(ring.acquire(), copy.wait)
    acquired = []
    thread = threading.Thread(target=lambda: acquired.append(ring.acquire()))
    thread.start()
    assert not acquired
    copy.done.set()
    thread.join()
    assert acquired == ["a"]
    assert copy.waited == 1


def test_a_poisoned_slot_is_never_copied():
    # The "device" reads the slot only when the copy completes: overwriting it early would show.
    slots = [bytearray(4), bytearray(4)]
    ring = SlotRing(slots)
    received = []

    def finish(slot):
        received.append(bytes(slot))
        slot[:] = b"\xff" * 4

    for number in range(9):
        slot = ring.acquire()
        slot[:] = bytes([number]) * 4
        ring.release(slot, lambda slot=slot: finish(slot))
    ring.drain()
    assert received == [bytes([number]) * 4 for number in range(9)]


def test_free_slots_go_before_waiting():
    ring = SlotRing(["a", "b"])
    copy = Copy()
    ring.release(ring.acquire(), copy.wait)
    assert ring.acquire() == "b"
    assert copy.waited == 0


def test_the_oldest_copy_is_waited_for():
    ring = SlotRing(["a", "b"])
    copies = [Copy(), Copy()]
    first, second = ring.acquire(), ring.acquire()
    ring.release(second, copies[1].wait)
    ring.release(first, copies[0].wait)
    copies[1].done.set()
    assert ring.acquire() == "b"
    assert copies[0].waited == 0


def test_nothing_is_handed_out_while_all_slots_are_held():
    ring = SlotRing(["a"])
    slot = ring.acquire()
    assert ring.acquire() is None
    ring.release(slot)
    assert ring.acquire() == "a"


def test_draining_waits_for_every_copy():
    ring = SlotRing(["a", "b"])
    copies = [Copy(), Copy()]
    for copy in copies:
        copy.done.set()
        ring.release(ring.acquire(), copy.wait)
    ring.drain()
    assert [copy.waited for copy in copies] == [1, 1]
    assert {ring.acquire(), ring.acquire()} == {"a", "b"}
