"""Files: written whole or not at all."""

import numpy as np
import pytest
from nsff.io import atomic_write, write_array


def test_atomic_write_failure_leaves_old_file(tmp_path):
    path = tmp_path / "a.npy"
    write_array(path, np.arange(3))

    def write_half() -> None:
        with atomic_write(path) as partial:
            partial.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert np.load(path).tolist() == [0, 1, 2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npy"]
