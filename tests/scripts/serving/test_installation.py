"""The server is found where its package lies, and is told nothing that it need not know."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

import pytest

from albert_deploy.runtime.errors import MachineError
from albert_deploy.scripts.serving import installation
from albert_deploy.scripts.serving.installation import (
    NOBODY,
    Installation,
    Ports,
    command,
    environment,
    find_installation,
    prepare_backends,
    remove_memory,
)

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
STUB = "triton_python_backend_stub"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that looks like the real one, as far as it is looked at."""
    home = tmp_path / "site" / "pytriton" / "tritonserver"
    for file in (
        "bin/tritonserver",
        f"python_backend_stubs/{VERSION}/{STUB}",
        "python_backend_stubs/3.7/" + STUB,
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_utils.py",
        "backends/python/__pycache__/x.pyc",
        f"backends/python/{STUB}",
        "../__init__.py",
    ):
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).write_text(file)
    (home / "bin/tritonserver").chmod(0o755)
    (home / f"python_backend_stubs/{VERSION}/{STUB}").chmod(0o755)
    (tmp_path / "site" / "nvidia_pytriton.libs").mkdir()
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> importlib.machinery.ModuleSpec | None:
        if name == "pytriton":
            return importlib.util.spec_from_file_location(name, home.parent / "__init__.py")
        return real(name, package)

    monkeypatch.setattr(installation.importlib.util, "find_spec", find_spec)
    return home


def test_the_server_is_found_with_all_that_it_needs(package: Path) -> None:
    found = find_installation()
    assert found.program == package / "bin/tritonserver"
    assert found.backends == package / "backends"
    assert found.stub == package / "python_backend_stubs" / VERSION / STUB
    assert found.libraries[0] == package.parent.parent / "nvidia_pytriton.libs"
    assert "pytriton" not in sys.modules  # It starts a server of its own when it is imported.


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        MachineError, match=r"not installed; run: pip install 'albert-deploy\[cpu,s"
    ):
        find_installation()


def test_a_package_without_a_server_is_named(package: Path) -> None:
    (package / "bin/tritonserver").unlink()
    with pytest.raises(MachineError, match="brings no Triton server for this machine"):
        find_installation()


def test_a_server_of_other_pythons_is_named(package: Path) -> None:
    (package / f"python_backend_stubs/{VERSION}/{STUB}").unlink()
    (package / f"python_backend_stubs/{VERSION}").rmdir()
    with pytest.raises(MachineError, match=f"runs models in Python 3.7, this is {VERSION}"):
        find_installation()


def test_the_backend_stands_beside_the_stub_of_this_python(package: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    backends = prepare_backends(find_installation(), tmp_path / "work")
    found = {str(path.relative_to(backends)) for path in backends.rglob("*") if path.is_file()}
    assert found == {
        "python/libtriton_python.so",
        "python/triton_python_backend_utils.py",
        f"python/{STUB}",
    }
    stub = backends / "python" / STUB
    assert stub.read_text() == f"python_backend_stubs/{VERSION}/{STUB}"
    assert os.access(stub, os.X_OK)
    assert (package / f"backends/python/{STUB}").read_text() == f"backends/python/{STUB}"


LEAKY = {
    "LD_PRELOAD": "/tmp/evil.so",
    "LD_LIBRARY_PATH": "/tmp/evil",
    "LD_AUDIT": "/tmp/evil.so",
    "PYTHONSTARTUP": "/tmp/evil.py",
    "PYTHONPATH": "/tmp/evil",
    "PYTHONHOME": "/tmp/evil",
    "PYTHONINSPECT": "1",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "HF_TOKEN": "secret",
    "ALBERT_DEPLOY_KEY_PASSWORD": "secret",
    "OMP_WAIT_POLICY": "ACTIVE",
}


def test_the_environment_leaks_nothing(package: Path) -> None:
    given = LEAKY | {"HOME": "/home/me", "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "1"}
    found = environment(find_installation(), given)
    text = "\n".join(f"{name}={value}" for name, value in found.items())
    assert "evil" not in text
    assert "secret" not in text
    usual = {"PATH", "LD_LIBRARY_PATH", "OMP_WAIT_POLICY", "HOME", "CUDA_VISIBLE_DEVICES"}
    assert found.keys() <= usual
    assert (found["HOME"], found["CUDA_VISIBLE_DEVICES"]) == ("/home/me", "1")
    assert found["OMP_WAIT_POLICY"] == "PASSIVE"
    assert found["PATH"].split(":") == [str(Path(sys.prefix) / "bin"), "/usr/bin", "/bin"]
    assert str(package.parent.parent / "nvidia_pytriton.libs") in found["LD_LIBRARY_PATH"]


@pytest.mark.parametrize("path", [None, "", ":", "/usr/bin::/bin", "bin:."])
def test_programs_are_not_looked_for_where_it_was_started(package: Path, path: str | None) -> None:
    """An empty or relative entry of PATH is the current folder, or one below it."""
    given = {} if path is None else {"PATH": path}
    entries = environment(find_installation(), given)["PATH"].split(":")
    assert all(Path(entry).is_absolute() for entry in entries), entries


def made(package: Path) -> list[str]:
    return command(
        find_installation(),
        models=Path("/m"),
        backends=Path("/b"),
        name="mine",
        ports=Ports(http=1, grpc=2, metrics=3),
        memory="mine-",
        exit_timeout_s=7,
    )


def test_the_command_listens_here_alone(package: Path) -> None:
    program, *options = made(package)
    assert program == str(package / "bin/tritonserver")
    told = dict(option.removeprefix("--").split("=", 1) for option in options if "=" in option)
    for kind, port in (("http", "1"), ("grpc", "2"), ("metrics", "3")):
        assert told[f"{kind}-address"] == "127.0.0.1"
        assert told[f"{kind}-port"] == port
    assert (told["model-repository"], told["backend-directory"]) == ("/m", "/b")
    assert told["exit-timeout-secs"] == "7"


def test_clients_may_load_map_trace_and_log_nothing(package: Path) -> None:
    options = made(package)
    assert "--model-control-mode=explicit" in options
    assert "--load-model=mine" in options
    assert "--disable-auto-complete-config" in options
    closed = [o.partition("=")[2] for o in options if "restricted" in o]
    assert len(closed) == 2
    for one in closed:
        parts, _, header = one.partition(":")
        assert set(parts.split(",")) == {"model-repository", "shared-memory", "trace", "logging"}
        assert header == NOBODY
    assert ":" in NOBODY.partition("=")[0]  # so that no client can send it


def test_shared_memory_has_a_name_of_its_own_and_is_removed(package: Path) -> None:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        pytest.skip("needs /dev/shm")
    (told,) = [one for one in made(package) if "shm-region-prefix-name" in one]
    assert told.endswith("=mine-")
    mine, other = (f"albert-test-{package.parent.name}-{name}-" for name in ("x", "y"))
    places = [folder / f"{name}0" for name in (mine, other)]
    try:
        for place in places:
            place.write_bytes(b"x")
        remove_memory(mine)
        remove_memory(mine)
        assert [place.exists() for place in places] == [False, True]
    finally:
        for place in places:
            place.unlink(missing_ok=True)


def test_a_python_without_its_shared_library_is_refused(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation.sysconfig, "get_config_var", lambda _: str(tmp_path))
    (tmp_path / f"libpython{VERSION}.so.1.0").touch()
    assert tmp_path in find_installation().libraries
    (tmp_path / f"libpython{VERSION}.so.1.0").unlink()

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(installation.ctypes, "CDLL", missing)
    with pytest.raises(MachineError, match=f"need libpython{VERSION}"):
        find_installation()
    monkeypatch.setattr(installation.ctypes, "CDLL", str)
    assert tmp_path not in find_installation().libraries


def test_a_library_that_is_not_there_is_not_named(package: Path, tmp_path: Path) -> None:
    found = find_installation()
    gone = Installation(
        program=found.program,
        backends=found.backends,
        stub=found.stub,
        libraries=(tmp_path / "gone", tmp_path),
    )
    assert environment(gone, {})["LD_LIBRARY_PATH"] == str(tmp_path)
