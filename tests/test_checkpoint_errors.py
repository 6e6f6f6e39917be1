"""What cannot be saved or loaded: the error names place and fix, and nothing has changed."""

import json
import os
import pickle
import random
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
from checkpoint_common import SUFFIXES, assert_same, small_optimizer
from conftest import run_python

import instep
from instep import CheckpointError
from instep.schedules import Lambda, Schedule, Warmup


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"model{request.param}"


# ---- saving ----------------------------------------------------------------------------------

own = np.dtype([("a", "f4"), ("b", "O")])
overlapping = np.dtype({"names": ["a", "b"], "formats": ["f4", "f4"], "offsets": [0, 2]})
cycle = []
cycle.append([cycle])
deep = []
for _ in range(100):
    deep = [deep]

# value -> what the message names
REFUSED = {
    "function": (len, r"extra\['value'\] is builtin_function_or_method .*Schedule class"),
    "lambda": ([lambda t: 0.1], r"extra\['value'\]\[0\] is function .*instep\.schedules"),
    "Lambda": (Lambda(len), r"extra\['value'\]\['function'\] is builtin_function"),
    "in a schedule": (Warmup(Lambda(len), 3), r"\['value'\]\['after'\]\['function'\] is builtin"),
    "set": ({"a": ({1, 2},)}, r"extra\['value'\]\['a'\]\[0\] is set .*make it a list"),
    "object": ([object()], r"\[0\] is object .*a checkpoint holds arrays, numbers"),
    "key": ({frozenset(): 1}, r"extra\['value'\]\[frozenset\(\)\] is frozenset"),
    "generator": (np.random.default_rng(0), r"Generator .*pass its \.bit_generator\.state"),
    "bits": (np.random.PCG64(0), r"PCG64 .*pass its \.state"),
    "old generator": (np.random.RandomState(0), r"RandomState .*get_state\(legacy=False\)"),
    "python's": (random.Random(0), r"random\.Random .*pass its \.getstate\(\)"),
    "memory": (memoryview(b"a"), r"memoryview .*a checkpoint holds"),
    "masked": (np.ma.array([1.0], mask=[1]), r"extra\['value'\] is a masked array.*\.mask"),
    "objects": (np.array([{}]), r"extra\['value'\] is an array of dtype object.*without pickle"),
    "record": (np.zeros(2, own), r"is an array of dtype \[\('a'"),
    "overlapping fields": (np.zeros(2, overlapping), r"is an array of dtype \{"),
    "strings": (np.array(["a"], np.dtypes.StringDType()), r"StringDType.*\.astype\('U'\)"),
    "optimizer": (small_optimizer()[0], r"extra\['value'\] is instep\.optim\.sgd\.SGD"),
}


def refused(path, error, match, value):
    """Neither a new file is made nor an old one changed."""
    with pytest.raises(error, match=match):
        instep.save(path, {}, value=value)
    assert os.listdir(path.parent) == []
    instep.save(path, {}, value=1)
    before = path.read_bytes()
    with pytest.raises(error, match=match):
        instep.save(path, {}, array=np.ones(3), value=value)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_saved(name, path):
    value, match = REFUSED[name]
    refused(path, TypeError, match, value)


def test_what_has_an_array_is_told_to_become_one(path):
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return np.ones(2)

    refused(path, TypeError, r"Tensor .*numpy\.asarray", Tensor())


def test_bfloat16_within_a_record(path):
    """NumPy's own files would make nameless bytes of it."""
    dtype = np.dtype([("a", "f4"), ("b", pytest.importorskip("ml_dtypes").bfloat16)])
    refused(path, TypeError, r"is an array of dtype \[\('a'", np.zeros(2, dtype))


@pytest.mark.parametrize("value", [cycle, deep], ids=["cycle", "deep"])
def test_too_deep(path, value):
    refused(path, ValueError, "extra is nested more than 100 deep, or holds itself", value)


def test_a_function_as_a_schedule(path):
    opt = instep.SGD([{"params": np.ones(2)}, {"params": np.ones(2), "lr": lambda t: 0.1}])
    with pytest.raises(TypeError, match=r"state_dict\['param_groups'\]\[1\]\['lr'\] is function"):
        instep.save(path, opt)
    assert os.listdir(path.parent) == []


def test_arguments(path):
    with pytest.raises(TypeError, match="optimizer or its state_dict, got list"):
        instep.save(path, [])
    with pytest.raises(TypeError, match=r"path must be a str or os\.PathLike, got int \(3\)"):
        instep.save(3, {})
    with pytest.raises(TypeError, match=r"path must be a str or os\.PathLike, got NoneType"):
        instep.load(None)
    with pytest.raises(FileNotFoundError):
        instep.load(path)
    with pytest.raises(IsADirectoryError):
        instep.load(path.parent)


def test_a_bad_change_of_a_group_is_found_before_it_is_saved(path):
    opt, _ = small_optimizer()
    opt.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr must be at least 0"):
        instep.save(path, opt)
    assert os.listdir(path.parent) == []


def test_the_error_is_a_value_error_and_pickles():
    assert issubclass(CheckpointError, ValueError)
    error = pickle.loads(pickle.dumps(CheckpointError("a")))
    assert type(error) is CheckpointError and error.args == ("a",)


# ---- foreign and newer files -----------------------------------------------------------------


def test_foreign_files(tmp_path):
    pytest.importorskip("safetensors")
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    np.save(tmp_path / "a.npy", np.ones(3))
    (tmp_path / "a.pickle").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "a.json").write_text('{"a": 1}')
    from safetensors.numpy import save_file

    save_file({"a": np.ones(3)}, tmp_path / "a.safetensors", metadata={"format": "np"})
    save_file({"a": np.ones(3)}, tmp_path / "b.safetensors")
    cases = {
        "a.npz": r"no checkpoint\.json, so instep\.save did not write it; numpy\.load",
        "a.npy": r"neither \.npz nor \.safetensors",
        "a.pickle": r"neither \.npz nor \.safetensors",
        "empty": r"neither .*begins with b''",
        "a.json": r"neither \.npz nor \.safetensors",
        "a.safetensors": r"no metadata 'instep', so instep\.save did not write it",
        "b.safetensors": r"no metadata 'instep', so instep\.save did not write it",
    }
    for name, match in cases.items():
        with pytest.raises(CheckpointError, match=match):
            instep.load(tmp_path / name)


def rewritten(path, change):
    """The same file with other JSON and right checksums."""
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as old:
            members = {name: old.read(name) for name in old.namelist()}
        document = json.loads(members["checkpoint.json"])
        change(document)
        members["checkpoint.json"] = json.dumps(document).encode()
        with zipfile.ZipFile(path, "w") as new:
            for name, content in members.items():
                new.writestr(name, content)
        return
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    document = json.loads(header["__metadata__"]["instep"])
    change(document)
    text = json.dumps(document)
    header["__metadata__"] = {"instep": text, "instep_crc32": f"{zlib.crc32(text.encode()):08x}"}
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data[8 + size :])


def test_newer_files(path):
    instep.save(path, {}, a=np.ones(3))
    rewritten(path, lambda document: None)
    assert_same(instep.load(path).extra, {"a": np.ones(3)})

    def change(document):
        document.update(version=2, written_by="instep 9.0", arrays="other")

    rewritten(path, change)
    with pytest.raises(CheckpointError, match=r"version 2 .*by instep 9\.0.*reads 1: update"):
        instep.load(path)


# What a file of right checksums may still say, and the message.
ODD = {
    "format": (lambda d: d.update(format="x"), "its format is 'x'"),
    "no extra": (lambda d: d.pop("extra"), "damaged: KeyError: 'extra'"),
    "no object": (lambda d: d.clear(), "damaged: KeyError"),
    "mark": (lambda d: d["extra"].update(b={"#new": 1}), "unknown mark '#new'"),
    "array": (lambda d: d["extra"].update(b={"#array": 5}), "damaged: IndexError"),
    "schedule": (lambda d: d["extra"].update(b={"#schedule": 0}), "damaged: IndexError"),
    "text": (lambda d: d["extra"].update(b={"#int": "no"}), "damaged: ValueError"),
    "shape": (lambda d: d["arrays"][0].update(shape=[4, 1]), "24 bytes, float64 of shape"),
    "huge": (lambda d: d["arrays"][0].update(shape=[2**60]), "24 bytes, float64 of shape"),
    "negative": (lambda d: d["arrays"][0].update(shape=[-3, -1]), "24 bytes, float64 of shape"),
    "dtype": (lambda d: d["arrays"][0].update(dtype="<f4"), "24 bytes, float32 of shape"),
    "objects": (lambda d: d["arrays"][0].update(dtype="|O"), "holds objects"),
    "unknown dtype": (lambda d: d["arrays"][0].update(dtype="<f99"), "damaged: TypeError"),
    "axes": (lambda d: d["arrays"][0].update(axes=[3]), r"\[3\] are not the axes"),
    "name": (lambda d: d["arrays"][0].update(name="x"), r"does not have the \w+ that were written"),
    "fewer": (lambda d: d["arrays"].clear(), r"does not have the \w+ that were written"),
    "checksum": (lambda d: d["arrays"][0].update(crc32="00000001"), "not the one|checksum"),
    "scalar": (lambda d: d["extra"].update(b={"#scalar": ["<f4", "00"]}), "1 bytes for a float32"),
    "no code": (lambda d: d["extra"].update(b={"#scalar": ["|O", "00" * 8]}), "holds objects"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_files(name, path):
    change, match = ODD[name]
    instep.save(path, {}, a=np.arange(3.0))
    rewritten(path, change)
    with pytest.raises(CheckpointError, match=match):
        instep.load(path)


def test_compressed_members(tmp_path):
    """As another program may leave them: a bomb would be let in with them."""
    path = tmp_path / "model.npz"
    instep.save(path, {}, a=np.ones(3))
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in members.items():
            new.writestr(name, content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is compressed"):
        instep.load(path)


def test_nothing_is_unpickled(tmp_path):
    """An .npy member of objects under right checksums."""
    path = tmp_path / "model.npz"
    instep.save(path, {}, a=np.arange(3.0))
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    np.save(tmp_path / "evil.npy", np.array([print]), allow_pickle=True)
    evil = members["extra/a.npy"] = (tmp_path / "evil.npy").read_bytes()
    document = json.loads(members["checkpoint.json"])
    document["arrays"][0] |= {"dtype": "|O", "shape": [1], "crc32": f"{zlib.crc32(evil):08x}"}
    members["checkpoint.json"] = json.dumps(document).encode()
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    with pytest.raises(CheckpointError, match="holds objects"):
        instep.load(path)


# ---- what has to be there --------------------------------------------------------------------


@dataclass(frozen=True)
class Tapering(Schedule):
    lr: float
    every: int

    def _at(self, step):
        return self.lr * 0.5 ** (step // self.every)


def test_a_schedule_class_of_your_own(path, monkeypatch):
    """It comes back where its module has been imported."""
    opt = instep.SGD(np.ones(2), lr=Tapering(0.5, 3))
    instep.save(path, opt, other=Warmup(Tapering(0.1, 2), 4))
    checkpoint = instep.load(path)
    assert checkpoint.state_dict["param_groups"][0]["lr"] == Tapering(0.5, 3)
    assert checkpoint.extra["other"] == Warmup(Tapering(0.1, 2), 4)
    monkeypatch.delitem(Schedule._known, "Tapering")
    match = rf"a schedule 'Tapering' of the module '{__name__}'; import the module"
    with pytest.raises(CheckpointError, match=match):
        instep.load(path)


def test_a_schedule_class_that_has_changed(path, monkeypatch):
    instep.save(path, {}, lr=Tapering(0.5, 3))
    rewritten(path, lambda document: document["schedules"][0]["fields"].update(more=1))
    with pytest.raises(CheckpointError, match=r"'Tapering' does not fit the class.*more"):
        instep.load(path)


WITHOUT = """
import sys
sys.modules[{module!r}] = None  # not to be imported
import numpy as np, instep
try:
    {call}
except ImportError as error:
    print(error)
"""


def test_without_ml_dtypes(path):
    bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    instep.save(path, {}, a=np.ones(3, bfloat16))
    call = f"instep.load({str(path)!r})"
    done = run_python(WITHOUT.format(module="ml_dtypes", call=call))
    assert "arrays of bfloat16, which need ml_dtypes: python -m pip install" in done.stdout
    instep.save(path, {}, a=bfloat16.type(1))
    done = run_python(WITHOUT.format(module="ml_dtypes", call=call))
    assert "arrays of bfloat16, which need ml_dtypes: python -m pip install" in done.stdout


@pytest.mark.parametrize("function", ["save", "load"])
def test_without_safetensors(function, tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "model.safetensors"
    if function == "load":
        instep.save(path, {}, a=1)
    call = f"instep.{function}({str(path)!r}" + (", {})" if function == "save" else ")")
    done = run_python(WITHOUT.format(module="safetensors", call=call))
    assert 'python -m pip install "instep[safetensors]"' in done.stdout, done.stderr
    assert os.listdir(tmp_path) == [path.name] * (function == "load")


def test_npz_needs_neither(tmp_path):
    code = f"""
import sys
sys.modules["safetensors"] = sys.modules["ml_dtypes"] = None
import numpy as np, instep
opt = instep.SGD(np.ones(3), momentum=0.5)
opt.step(np.ones(3))
instep.save({str(tmp_path / "a.npz")!r}, opt, a=np.ones(3))
print(opt.load_state_dict(instep.load({str(tmp_path / "a.npz")!r}).state_dict))
"""
    done = run_python(code)
    assert done.stdout.strip() == "LoadReport(missing=(), unexpected=())", done.stderr


def test_a_checkpoint_of_another_process(tmp_path):
    """Nothing in the file depends on the process that wrote it."""
    path = tmp_path / "model.npz"
    code = f"import instep, numpy as np; instep.save({str(path)!r}, {{}}, a=np.arange(5.0))"
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "5"}
    subprocess.run([sys.executable, "-c", code], check=True, env=here)
    data = path.read_bytes()
    instep.save(path, {}, a=np.arange(5.0))
    assert path.read_bytes() == data
