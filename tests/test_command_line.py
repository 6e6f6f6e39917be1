"""``python -m instep``: output, exit codes and messages, in this process and in one of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import instep
from instep import schedules
from instep.__main__ import STEPS, gallery, main
from instep._advice import MODELS, TASKS

WITHOUT_MATPLOTLIB = """
import sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name="matplotlib")
sys.meta_path.insert(0, Absent)
from instep.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def run(*arguments, cwd, **options):
    """A process of its own, in a folder from which this instep is importable by path alone."""
    env = os.environ | {"PYTHONPATH": str(Path(instep.__file__).parent.parent)}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=env | {"PYTHONWARNINGS": "error"},
        cwd=cwd,
        check=False,
        **options,
    )


# ---- what it prints --------------------------------------------------------------------------


def test_what_this_install_is(tmp_path, capsys):
    assert main([]) == 0
    here = capsys.readouterr().out
    instep.show_config()
    assert here == capsys.readouterr().out
    done = run("-m", "instep", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    told = dict(line.strip().split(": ", 1) for line in done.stdout.splitlines())
    facts = instep.show_config(mode="dicts")
    assert told.keys() == facts.keys() >= {"instep", "numpy", "python", "isa", "threads"}
    assert told["instep"] == instep.__version__
    assert told["available_isas"] == str(instep.available_isas())


@pytest.mark.parametrize("task", [None, *TASKS])
@pytest.mark.parametrize("model", [None, *MODELS])
def test_advice(task, model, capsys):
    arguments = ["recommend"]
    arguments += ["--task", task] if task else []
    arguments += [f"--model={model}"] if model else []
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert told.out == f"{instep.recommend(task, model)}\n" and told.err == ""


def test_advice_from_outside(tmp_path):
    done = run("-m", "instep", "recommend", "--task", "binary", "--model", "cnn", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{instep.recommend('binary', 'cnn')}\n"


def kinds():
    """The schedules that there are."""
    found = {name: getattr(schedules, name) for name in schedules.__all__}
    return {
        name: kind
        for name, kind in found.items()
        if isinstance(kind, type) and kind is not schedules.Schedule
    }


def test_schedules_are_listed(capsys):
    assert main(["schedules"]) == 0
    listed = dict(re.findall(r"^(\w+) +(.+)$", capsys.readouterr().out, re.MULTILINE))
    assert listed.keys() == kinds().keys()
    for name, kind in kinds().items():
        assert kind.__doc__.replace("``", "").startswith(listed[name])


def test_help_and_usage(tmp_path, capsys):
    for arguments in (["--help"], ["recommend", "--help"], ["schedules", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith("usage: python -m instep")


# ---- what it refuses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["teach"], "invalid choice: 'teach'"),
        (["recommend", "--task", "clustering"], "argument --task: invalid choice: 'clustering'"),
        (["recommend", "--model", "CNN"], "argument --model: invalid choice: 'CNN'"),
        (["recommend", "binary"], "unrecognized arguments: binary"),
        (["schedules", "--plot"], "argument --plot: expected one argument"),
        (["schedules", "--plot", "a.pn"], "--plot: must end in .png, .svg, .pdf, got 'a.pn'"),
        (["schedules", "--plot", "picture"], "--plot: must end in .png, .svg, .pdf, got 'pic"),
    ],
)
def test_bad_usage(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    told = capsys.readouterr()
    assert ended.value.code == 2 and told.out == "" and message in told.err
    if "--task" in arguments or "--model" in arguments:
        assert all(name in told.err for name in (TASKS if "--task" in arguments else MODELS))
    assert list(tmp_path.iterdir()) == []


def test_bad_usage_from_outside(tmp_path):
    done = run("-m", "instep", "recommend", "--task", "nothing", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr


def test_missing_matplotlib(tmp_path):
    """Said in a line; the rest works without."""
    done = run("-c", WITHOUT_MATPLOTLIB, "schedules", "--plot", "a.png", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "python -m instep: matplotlib is missing; install it with: "
        'python -m pip install "instep[plots]"\n'
    )
    assert list(tmp_path.iterdir()) == []
    for arguments in ([], ["schedules"], ["recommend"]):
        assert run("-c", WITHOUT_MATPLOTLIB, *arguments, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("first_line", "reason"),
    [
        ("import parser_of_matplotlib", "No module named 'parser_of_matplotlib'"),
        ("raise ImportError('built for NumPy 1')", "built for NumPy 1"),
        ("raise ValueError('no backend nonsense')", "no backend nonsense"),
    ],
)
def test_broken_matplotlib(first_line, reason, tmp_path):
    """Said as what it is: installing it would not help."""
    (tmp_path / "matplotlib.py").write_text(first_line)
    done = run("-m", "instep", "schedules", "--plot", "a.png", cwd=tmp_path)
    message = f"python -m instep: matplotlib cannot be imported: {reason}\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)
    assert not (tmp_path / "a.png").exists()


def test_closed_pipe(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    env = os.environ | {"PYTHONPATH": str(Path(instep.__file__).parent.parent)}
    command = [sys.executable, "-m", "instep", "recommend", "--task", "binary"]
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, env=env, cwd=tmp_path, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def redirected(redirection, *arguments, cwd):
    """The command with its output somewhere else."""
    command = [sys.executable, "-m", "instep", *arguments]
    env = os.environ | {"PYTHONPATH": str(Path(instep.__file__).parent.parent)}
    env.pop("PYTHONUNBUFFERED", None)  # argparse ignores what fails at once
    shell = ["sh", "-c", f'exec "$0" "$@" {redirection}']
    return subprocess.run(
        [*shell, *command], capture_output=True, text=True, env=env, cwd=cwd, check=False
    )


COMMANDS = [[], ["recommend"], ["schedules"], ["schedules", "--plot", "a.png"], ["--help"]]
UNIX = pytest.mark.skipif(os.name != "posix", reason="a shell of Unix")
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")


@UNIX
@pytest.mark.parametrize("arguments", COMMANDS)
def test_closed_output(arguments, tmp_path):
    done = redirected(">&-", *arguments, cwd=tmp_path)
    message = "python -m instep: cannot write the output: standard output is closed\n"
    assert (done.returncode, done.stderr) == (1, message)
    assert list(tmp_path.iterdir()) == []
    both = redirected(">&- 2>&-", *arguments, cwd=tmp_path)
    assert (both.returncode, both.stderr) == (1, "")


@FULL
@pytest.mark.parametrize("arguments", COMMANDS)
def test_full_disk_behind_the_output(arguments, tmp_path):
    if "--plot" in arguments:
        pytest.importorskip("matplotlib")
    done = redirected("> /dev/full", *arguments, cwd=tmp_path)
    message = "python -m instep: cannot write the output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, message)


@UNIX
def test_closed_messages(tmp_path):
    """They do not end up in the output."""
    pytest.importorskip("matplotlib")
    done = redirected("2>&-", "schedules", "--plot", "no/a.png", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")


# ---- the picture -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head"), [("a.png", b"\x89PNG"), ("b.SVG", b"<?xml"), ("c d.pdf", b"%PDF")]
)
def test_picture(name, head, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / name
    assert main(["schedules", "--plot", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert path.read_bytes().startswith(head) and path.stat().st_size > 5_000


def test_picture_from_outside(tmp_path):
    pytest.importorskip("matplotlib")
    done = run("-m", "instep", "schedules", "--plot", "all.png", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "all.png\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["all.png"]


def test_picture_that_cannot_be_written(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    missing = tmp_path / "nowhere" / "a.png"
    assert main(["schedules", "--plot", str(missing)]) == 1
    told = capsys.readouterr()
    message = f"python -m instep: cannot write {missing}: No such file or directory\n"
    assert (told.out, told.err) == ("", message)
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert main(["schedules", "--plot", str(folder)]) == 1
    assert re.fullmatch(r"python -m instep: cannot write .*: \S.*\n", capsys.readouterr().err)


@FULL
@pytest.mark.parametrize("name", ["a.png", "a.svg", "a.pdf"])
def test_full_disk_behind_the_picture(name, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / name
    path.symlink_to("/dev/full")
    assert main(["schedules", "--plot", str(path)]) == 1
    message = f"python -m instep: cannot write {path}: No space left on device\n"
    assert capsys.readouterr() == ("", message)


def test_the_picture_shows_every_kind():
    shown = gallery()
    assert {type(schedule) for schedule in shown.values()} >= {
        kind for name, kind in kinds().items() if name not in ("Lambda", "ReduceOnPlateau")
    }
    for label, schedule in shown.items():
        values = [schedule(step) for step in range(STEPS)]
        assert 0 <= min(values) < max(values) <= 1 or label == "Constant", label
        assert max(values) == pytest.approx(1, abs=0.02), label
