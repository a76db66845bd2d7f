"""Process groups: collectives, errors that all share, joining and leaving, threads per process."""

import datetime

import pytest
import torch
from nsff.distributed import LostProcess, ProcessGroup, divide_cores, join_process_group
from nsff.errors import InputError
from process_groups import run_together

LOST_PROCESS = """
import os
import sys
from nsff.cli import run_script
from nsff.distributed import join_process_group
from nsff.errors import InputError
def main(argv):
    with join_process_group() as group:
        group.barrier()
        if not group.is_main:
            os._exit(0)
        for collective in (group.barrier, lambda: group.all_gather("x"), lambda: group.broadcast("x")):
            try:
                collective()
            except InputError as error:
                print(error, file=sys.stderr, flush=True)
        os._exit(0)
run_script(main)
"""


def test_collectives_report_a_lost_process():
    errors = run_together(2, "-c", LOST_PROCESS)[0].splitlines()
    assert sum("the connection to another process of the group failed, see its own" in line for line in errors) == 3
    assert all("gloo" in line or "onnection" in line for line in errors)  # with the words of the library


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.distributed.DistBackendError("NCCL error: remote process exited"), LostProcess),
        (torch.distributed.DistNetworkError("The client socket has timed out"), LostProcess),
        (RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:18324."), LostProcess),
        (RuntimeError("Application timeout caused pair closure"), LostProcess),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), torch.OutOfMemoryError),
        (RuntimeError("The size of tensor a (2) must match the size of tensor b (3)"), RuntimeError),
    ],
)
def test_collectives_blame_another_process_for_lost_connections_only(monkeypatch, error, expected):
    def fail(_: torch.Tensor, group: object) -> None:
        raise error

    monkeypatch.setattr("torch.distributed.all_reduce", fail)
    with pytest.raises(expected) as caught:
        ProcessGroup(0, 2).all_reduce_mean([torch.zeros(1)])
    assert ("another process" in str(caught.value)) is (expected is LostProcess)
    assert str(error) in str(caught.value)  # whatever it was, its own words are shown


SHARED_ERRORS = """
import sys
from nsff.cli import run_script
from nsff.distributed import join_process_group
from nsff.errors import InputError
def main(argv):
    with join_process_group() as group:
        for failing in ({1}, {0, 1}, set()):
            try:
                with group.share_errors():
                    if group.rank in failing:
                        raise InputError(f"cause {group.rank}")
                print("no error", file=sys.stderr)
            except InputError as error:
                print(error, file=sys.stderr)
            assert group.all_gather(("after", failing)) == [("after", failing)] * 2
run_script(main)
"""


def test_error_of_one_process_is_raised_on_all():
    first, second = run_together(2, "-c", SHARED_ERRORS)
    assert first.splitlines() == ["process 1: cause 1", "cause 0", "no error"]
    assert second.splitlines() == ["cause 1", "cause 1", "no error"]


def test_gradients_are_averaged_in_one_collective(monkeypatch):
    reduced = []

    def double(bucket: torch.Tensor, group: object) -> None:
        reduced.append(bucket.clone())
        bucket *= 3.0

    monkeypatch.setattr("torch.distributed.all_reduce", double)
    values = [torch.ones(2, 3), torch.arange(4.0), torch.tensor(5.0)]
    ProcessGroup(0, 2).all_reduce_mean(values)
    assert [value.tolist() for value in reduced] == [[1.0] * 6 + [0.0, 1.0, 2.0, 3.0, 5.0]]
    torch.testing.assert_close(values, [1.5 * torch.ones(2, 3), 1.5 * torch.arange(4.0), torch.tensor(7.5)])


def test_split_and_shard_cover_everything_once():
    for size in (1, 2, 3, 7):
        groups = [ProcessGroup(rank, size) for rank in range(size)]
        assert sum(group.split(1000) for group in groups) == 1000
        assert max(group.split(1000) for group in groups) - min(group.split(1000) for group in groups) <= 1
        assert sorted(item for group in groups for item in group.shard(list(range(10)))) == list(range(10))


@pytest.mark.parametrize(("device", "gpu_groups"), [("cuda", [("nccl", 600.0)]), ("cpu", [])])
def test_join_process_group_connects_gpus_with_a_short_timeout(monkeypatch, device, gpu_groups):
    calls, store = [], torch.distributed.HashStore()
    store.set("started 0", "")  # the other process
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # leaves the threads of this process alone
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setattr("torch.distributed.rendezvous", lambda _: iter([(store, 1, 2)]))
    monkeypatch.setattr("torch.distributed.init_process_group", lambda name, **more: calls.append((name, more["rank"])))
    monkeypatch.setattr("torch.distributed.all_reduce", lambda _: calls.append("barrier"))
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: calls.append("destroyed"))

    def connect_gpus(backend, timeout):
        calls.append((backend, timeout.total_seconds()))
        return backend

    monkeypatch.setattr("torch.distributed.new_group", connect_gpus)
    with join_process_group(torch.device(device)) as group:
        assert (group.rank, group.size, group.is_main) == (1, 2, False)
        assert group.gpus == ("nccl" if gpu_groups else None)
    assert calls == [("gloo", 1), *gpu_groups, "barrier", "destroyed"]


def test_group_is_not_closed_after_an_error(monkeypatch):
    """Closing it would wait for collectives of the others; and a process that never starts is not waited for."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    store = torch.distributed.HashStore()
    monkeypatch.setattr("torch.distributed.rendezvous", lambda _: iter([(store, 1, 2)]))
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *_, **__: None)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: pytest.fail("closed"))
    monkeypatch.setattr("nsff.distributed.JOIN_TIMEOUT", datetime.timedelta(seconds=0.2))
    with pytest.raises(InputError, match="not all of 2 processes have started"), join_process_group():
        pass
    store.set("started 0", "")
    with pytest.raises(ValueError, match="cause"), join_process_group():
        raise ValueError("cause")


@pytest.mark.parametrize(("omp_threads", "processes", "threads"), [("1", 2, 4), ("1", 16, 1), ("3", 2, 1)])
def test_divide_cores_sets_threads_per_process(monkeypatch, omp_threads, processes, threads):
    """torchrun sets 1 thread; any other number is the user's own choice and is kept."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", omp_threads)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    torch.set_num_threads(1)
    divide_cores()
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
