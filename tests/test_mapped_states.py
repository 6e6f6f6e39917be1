"""States and masters in files and shared memory: loading, resuming, more than memory holds."""

import copy
import pickle
import sys
from multiprocessing import shared_memory

import numpy as np
import pytest
from conftest import LOW, Shelf, bits, copy_tree, everything, leaves, run_python, tiny_problem

import instep

# ---- loading and copies ----------------------------------------------------------------------


def test_loading_writes_into_the_arrays_that_are_there():
    shelf = Shelf()
    params, plain = {"a": np.ones(4), "b": np.ones(3)}, {"a": np.ones(4), "b": np.ones(3)}
    opt = instep.Adam(params, lr=0.1, state_factory=shelf)
    other = instep.Adam(plain, lr=0.1)
    grads = {"a": np.linspace(0, 1, 4), "b": np.linspace(1, 2, 3)}
    for _ in range(3):
        other.step(grads)
    opt.step({"a": grads["a"], "b": None})
    present, asked = dict(shelf.arrays), len(shelf.asked)
    opt.load_state_dict(other.state_dict())
    assert [name for name, _, _ in shelf.asked[asked:]] == ["b.exp_avg", "b.exp_avg_sq"]
    assert everything(opt)[2] == everything(other)[2]
    for state, name in [("exp_avg", "a.exp_avg"), ("exp_avg_sq", "a.exp_avg_sq")]:
        assert opt.state["a"][state] is present[name] is shelf.arrays[name]
    opt.step(grads)
    other.step(grads)
    assert everything(opt)[2] == everything(other)[2]


def test_a_failed_load_changes_nothing():
    """Neither what is there nor what the factory hands out."""
    room = np.full(12, 7.0)
    where = {"a.exp_avg": room[:4], "a.exp_avg_sq": room[4:8]}
    opt = instep.Adam({"a": np.ones(4), "b": np.ones(4)}, state_factory=lambda n, s, d: where[n])
    opt.step({"a": np.ones(4), "b": None})
    source = instep.Adam({"a": np.ones(4), "b": np.ones(4)}, lr=0.5)
    source.step({"a": np.ones(4), "b": np.ones(4)})
    before = everything(opt, room)
    where.update({"b.exp_avg": room[8:12], "b.exp_avg_sq": room[7:11]})
    with pytest.raises(ValueError, match=r"'b.exp_avg(_sq)?' overlaps "):
        opt.load_state_dict(source.state_dict())
    assert everything(opt, room) == before
    where["b.exp_avg_sq"] = np.zeros(5)
    with pytest.raises(ValueError, match=r"returned shape \(5,\)"):
        opt.load_state_dict(source.state_dict())
    where["b.exp_avg_sq"] = np.zeros(4)
    room[:4].flags.writeable = True
    opt.state["a"]["exp_avg"].flags.writeable = False
    with pytest.raises(
        ValueError, match=r"state\['a'\]\['exp_avg'\] of the optimizer is read-only"
    ):
        opt.load_state_dict(source.state_dict())
    opt.state["a"]["exp_avg"].flags.writeable = True
    assert everything(opt, room) == before and opt.param_groups[0]["lr"] == 1e-3
    opt.load_state_dict(source.state_dict())
    assert everything(opt)[2] == everything(source)[2]


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_have_memory_of_their_own_and_no_factory(way):
    shelf = Shelf()
    opt = instep.Adam({"w": np.ones(3, np.float16)}, lr=0.1, state_factory=shelf)
    opt.step({"w": np.ones(3)})
    asked = list(shelf.asked)
    shelf.make = None  # a lambda: would not pickle
    other = way(opt)
    assert other.state_factory is None and shelf.asked == asked
    before = [bits(array) for array in shelf.arrays.values()]
    assert everything(other, other.master["w"]) == everything(opt, opt.master["w"])
    other.step({"w": np.ones(3)})
    assert [bits(array) for array in shelf.arrays.values()] == before


# ---- files and shared memory -----------------------------------------------------------------


def test_files_hold_the_states_and_resume(tmp_path):
    """Written through, closed, opened again as another process would: the same bits as never."""
    tree, steps = tiny_problem(steps=8)
    tree["half"] = np.asfortranarray(np.linspace(-1, 1, 12).reshape(3, 4).astype(LOW[-1]))
    for grads in steps:
        grads["half"] = np.linspace(0, 2, 12).reshape(3, 4)

    def mapped(name, shape, dtype):
        path = tmp_path / name
        return np.memmap(path, dtype, "r+" if path.exists() else "w+", shape=shape)

    params, plain = copy_tree(tree), copy_tree(tree)
    opt, other = instep.AdamW(params, lr=0.01, state_factory=mapped), instep.AdamW(plain, lr=0.01)
    for grads in steps[:4]:
        opt.step(grads)
        other.step(grads)
    for entry in opt.state.values():
        entry["exp_avg"].flush()
        entry["exp_avg_sq"].flush()
    opt.master["half"].flush()
    shapes = {leaf.name: leaf.given.shape for leaf in opt._leaves.all}
    small = opt.state_dict()
    for name, entry in small["state"].items():
        for key in ("exp_avg", "exp_avg_sq"):
            there = np.memmap(tmp_path / f"{name}.{key}", entry[key].dtype, "r")
            there = there.reshape(shapes[name], order="F" if name == "half" else "C")
            assert bits(there) == bits(entry[key])
            entry[key] = there
    # A copy: making an optimizer writes the parameter's values into its master.
    there = np.fromfile(tmp_path / "half.master", np.float32).reshape((3, 4), order="F")
    assert bits(there) == bits(small["master"]["half"])
    small["master"]["half"] = there
    del opt
    again = copy_tree(params)
    opt = instep.AdamW(again, state_factory=mapped)
    opt.load_state_dict(small)  # from the files that it goes on with
    assert everything(opt, *leaves(again)) == everything(other, *leaves(plain))
    for grads in steps[4:]:
        opt.step(grads)
        other.step(grads)
    assert everything(opt, *leaves(again)) == everything(other, *leaves(plain))
    on_disk = np.fromfile(tmp_path / "layers.0.W.exp_avg", np.float32)
    assert bits(on_disk) == bits(other.state["layers.0.W"]["exp_avg"])


def test_states_in_shared_memory_are_seen_by_another_process():
    blocks = {}

    def shared(name, shape, dtype):
        size = int(np.prod(shape)) * dtype.itemsize
        blocks[name] = shared_memory.SharedMemory(create=True, size=size)
        return np.ndarray(shape, dtype, blocks[name].buf)

    try:
        opt = instep.SGD(np.ones(5, np.float16), lr=0.5, momentum=0.9, state_factory=shared)
        opt.step(np.arange(5.0))
        names = [blocks[key].name for key in ("param.momentum_buffer", "param.master")]
        code = (
            "import numpy as np\n"
            "from multiprocessing import resource_tracker, shared_memory\n"
            f"for name in {names!r}:\n"
            "    block = shared_memory.SharedMemory(name)\n"
            "    resource_tracker.unregister(block._name, 'shared_memory')\n"
            "    print(np.ndarray(5, np.float32, block.buf).tolist())\n"
        )
        seen = run_python(code)
        assert seen.stdout.splitlines() == [
            str([0.0, 1.0, 2.0, 3.0, 4.0]),
            str([1.0, 0.5, 0.0, -0.5, -1.0]),
        ], seen.stderr
        del opt
    finally:
        for block in blocks.values():
            block.close()
            block.unlink()


LARGER_THAN_MEMORY = """
import resource
import numpy as np, instep
from conftest import LOW

folder, n = {folder!r}, 1 << 24

def mapped(name, shape, dtype):
    return np.memmap(f"{{folder}}/{{name}}", dtype, "w+", shape=shape)

param = mapped("param", (n,), LOW[-1])
param[...] = 1
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + (24 << 20),) * 2)
try:
    np.zeros(n, np.float32)
except MemoryError:
    print("memory is short")
opt = instep.AdamW(param, lr=1e-3, weight_decay=0, state_factory=mapped, threads=1)
for _ in range(2):
    opt.step(np.broadcast_to(np.float32(1), (n,)))
print(float(opt.master[0]), float(opt.master[-1]), float(param[n // 2]), opt.state["param"]["step"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts otherwise elsewhere")
def test_a_state_larger_than_memory(tmp_path):
    """States, master and parameter are 224 MB of files; 24 MB of memory may be taken."""
    done = run_python(LARGER_THAN_MEMORY.format(folder=str(tmp_path)), timeout=120)
    assert done.stdout.splitlines() == [
        "memory is short",
        f"{np.float32(0.998)} {np.float32(0.998)} {float(LOW[-1].type(0.998))} 2",
    ], done.stderr


def test_a_checkpoint_of_mapped_states_and_masters(tmp_path):
    """Written from the files without a copy, and loaded into the very same files."""
    tree, steps = tiny_problem(steps=6)
    tree["half"] = np.asfortranarray(np.linspace(-1, 1, 12).reshape(3, 4).astype(LOW[-1]))
    for grads in steps:
        grads["half"] = np.linspace(0, 2, 12).reshape(3, 4)

    def mapped(name, shape, dtype):
        path = tmp_path / name
        return np.memmap(path, dtype, "r+" if path.exists() else "w+", shape=shape)

    params, plain = copy_tree(tree), copy_tree(tree)
    opt, other = instep.AdamW(params, lr=0.01, state_factory=mapped), instep.AdamW(plain, lr=0.01)
    for grads in steps[:3]:
        opt.step(grads)
        other.step(grads)
    instep.save(tmp_path / "model.npz", opt)
    del opt
    again = copy_tree(params)
    opt = instep.AdamW(again, state_factory=mapped)
    opt.load_state_dict(instep.load(tmp_path / "model.npz").state_dict)
    for grads in steps[3:]:
        opt.step(grads)
        other.step(grads)
    found = everything(opt, *leaves(again), *leaves(opt.master))
    assert found == everything(other, *leaves(plain), *leaves(other.master))
    assert type(opt.state["half"]["exp_avg"]) is np.memmap
