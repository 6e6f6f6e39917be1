"""What `import instep` brings at once, and what only on use."""

import subprocess
import sys

import instep

PROGRAM = """
import sys, instep
late = {
    "checkpoint", "interop", "loss_scale", "lr_range", "plots", "recommendation", "schedules",
    "verdict",
}
print(sorted(name for name in late if f"instep.{name}" in sys.modules))
"""


def test_what_training_does_without_is_imported_on_use():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_listed():
    for name in instep.__all__:
        assert getattr(instep, name) is getattr(instep, name)
    assert set(instep.__all__) <= set(dir(instep))
    assert not hasattr(instep, "no_such_name")


def test_functions_are_not_hidden_by_their_modules():
    import instep.recommendation
    import instep.verdict

    assert instep.diagnose is instep.verdict.diagnose
    assert instep.recommend is instep.recommendation.recommend
