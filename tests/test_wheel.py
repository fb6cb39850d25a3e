"""Whoever installs only the package gets the command line, and pages from records, without the repository."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY
from made_runs import make_measurement, two_starts

pytestmark = pytest.mark.slow
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}  # tests run beside each other


@pytest.fixture(scope="module")
def bitsample(tmp_path_factory):
    """Runs `bitsample` from an environment in which the wheel is installed and the repository is not to be seen.

    What the wheel depends on is seen through the running environment: to install it again would take minutes.
    """
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    source = folder / "source"
    copied = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "bitsample_llm", "pyproject.toml", "README.md", "LICENSE"]
    for name in filter(None, subprocess.run(copied, capture_output=True, text=True, check=True).stdout.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((REPOSITORY / name).read_bytes())
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    python = folder / "env" / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
        ).stdout.strip()
    )
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(*words) -> subprocess.CompletedProcess:
        command = [python, "-c", "import sys; from bitsample_llm.__main__ import main; sys.exit(main())", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=ENVIRONMENT)

    run.site = site
    return run


def test_the_wheel_is_what_is_imported(bitsample):
    python = bitsample.site.parents[2] / "bin" / "python"
    code = "import bitsample_llm, importlib.metadata as m; print(bitsample_llm.__file__); print(m.entry_points(name='bitsample'))"
    shown = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd="/", env=ENVIRONMENT).stdout
    assert str(bitsample.site) in shown and "bitsample_llm.__main__:main" in shown


def test_the_wheel_says_that_it_is_typed_and_holds_no_tests(bitsample):
    assert (bitsample.site / "bitsample_llm" / "py.typed").is_file()
    assert not (bitsample.site / "tests").exists() and not (bitsample.site / "eval").exists()


def test_a_report_is_made_from_records(bitsample, tmp_path):
    two_starts(tmp_path / "runs")
    done = bitsample("report", tmp_path / "runs", "--output_dir", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    assert "times the FLOPs of SFT" in done.stdout and (tmp_path / "report" / "report.html").is_file()


def test_a_plan_is_made_from_a_measurement(bitsample, tmp_path):
    make_measurement(tmp_path / "measured", [0.5] * 200, is_exact=True)
    done = bitsample("plan", tmp_path / "measured")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("RL CAN PAY") and (tmp_path / "measured" / "plan" / "keep.jsonl").is_file()


def test_a_run_directory_alone_is_summed_up(bitsample, tmp_path):
    arm = two_starts(tmp_path / "runs")[0]
    run_dir = arm.runs[0].run.run_dir
    assert bitsample(run_dir).stdout == bitsample("summary", run_dir).stdout != ""


def test_what_is_no_run_is_one_line(bitsample, tmp_path):
    done = bitsample(tmp_path)
    assert done.returncode == 1 and done.stderr == f"error: {tmp_path} is not a run directory: it has no manifest.json\n"
