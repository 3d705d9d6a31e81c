"""What differs between TensorRT 10, TensorRT 11 and TensorRT for RTX is met, without a GPU."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from fake_trt import RECORDED, REMOVED_IN_11, Config, Severity, fake_trt, members

from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.trt import flavours
from albert_deploy.runtime.trt.flavours import (
    FLAVOURS,
    Flavour,
    builder_flags,
    check_settings,
    create_network,
    load_flavour,
    set_target,
)
from albert_deploy.runtime.trt.gpu import Gpu, Probe
from albert_deploy.runtime.trt.log import collecting, logger
from albert_deploy.runtime.trt.targets import TENSORRT, TENSORRT_RTX, target_named

Install = Callable[..., None]
VERSIONS = [("tensorrt", "10.16.1.11"), ("tensorrt", "11.4.0.106"), ("tensorrt_rtx", "1.7.1.116")]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """A function that makes a machine with these modules, and a GPU of this capability or none."""

    def make(*modules: Any, gpu: tuple[int, int] | None = None) -> None:
        named = {module.__name__: module for module in modules}
        monkeypatch.setattr(flavours, "installed", lambda name: name in named)
        monkeypatch.setattr(flavours, "importlib", SimpleNamespace(import_module=named.__getitem__))
        devices = () if gpu is None else (Gpu(index=0, name="GPU", capability=gpu, total_bytes=1),)
        found = Probe(devices=devices, why="" if gpu else "there is no GPU here")
        monkeypatch.setattr(flavours, "probe", lambda: found)

    return make


def _flavour(name: str, version: str, module: Any | None = None) -> Flavour:
    return Flavour(
        name=name,
        version=version,
        module=module or fake_trt(name, version),
        ahead_of_time=FLAVOURS[name].ahead_of_time,
    )


def test_the_fakes_have_the_members_of_the_real_bindings() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    real = set(dir(trt))
    for name in list(real):
        value = getattr(trt, name)
        if isinstance(value, type):
            real |= set(dir(value))
    assert members(fake_trt("tensorrt_rtx", "1.7.1.116")) <= real
    # What is common to all flavours is in both; RTX alone builds ahead of time.
    rest = {"IntEnum", "ILogger", "Builder", "Runtime", "Severity", "log", "serialize", "NONE"}
    for version in ("10.16.1.11", "11.4.0.106"):
        old = {"FP16", "BF16", "INT8", "FP8", "OBEY_PRECISION_CONSTRAINTS", "EXPLICIT_BATCH"}
        assert members(fake_trt("tensorrt", version)) - rest - old <= RECORDED
    assert "ComputeCapability" not in RECORDED


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_networks_are_strongly_typed(name: str, version: str) -> None:
    module = fake_trt(name, version)
    flavour = _flavour(name, version, module)
    network = create_network(flavour, module.Builder(logger(flavour)))
    typed = module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    # Versions from 11 on know nothing else.
    assert network.flags == (1 << typed if version.startswith("10.") else 0)
    assert network.flags in {0, 2}


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_no_setting_asks_for_a_precision(name: str, version: str) -> None:
    flavour = _flavour(name, version)
    row = FLAVOURS[name]
    settings = dict.fromkeys(row.settings, True)
    flags = builder_flags(flavour, settings)
    assert not set(flags) & set(REMOVED_IN_11)
    # Each flag is one that the bindings have.
    assert set(flags) <= set(flavour.module.BuilderFlag.__members__)


def test_a_stripped_plan_takes_the_same_weights_again() -> None:
    flavour = _flavour(*VERSIONS[1])
    assert builder_flags(flavour, {"strip": True}) == ("STRIP_PLAN", "REFIT_IDENTICAL")
    assert set(builder_flags(flavour, {"strip": True, "refit": True})) == {"STRIP_PLAN", "REFIT"}


def test_rtx_leaves_the_lean_runtime_out() -> None:
    asked = {"version_compatible": True}
    assert "EXCLUDE_LEAN_RUNTIME" in builder_flags(_flavour(*VERSIONS[2]), asked)
    assert builder_flags(_flavour(*VERSIONS[1]), asked) == ("VERSION_COMPATIBLE",)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        (TENSORRT_RTX, "level"),
        (TENSORRT_RTX, "require_cache_hit"),
        (TENSORRT_RTX, "hardware_compatible"),
        (TENSORRT, "stream_capture"),
    ],
)
def test_a_setting_that_a_flavour_lacks_is_refused(name: str, setting: str) -> None:
    flavour = _flavour(name, "11.0")
    with pytest.raises(InputError) as error:
        check_settings(flavour, {setting: True})
    assert FLAVOURS[name].label in str(error.value)
    assert all(having in str(error.value) for having in FLAVOURS[name].settings)


def test_rtx_needs_a_gpu_to_strip(install: Install) -> None:
    install(gpu=None)
    with pytest.raises(MachineError, match="needs a GPU to build with strip"):
        check_settings(_flavour(*VERSIONS[2]), {"strip": True, "tf32": True})
    install(gpu=(8, 9))
    check_settings(_flavour(*VERSIONS[2]), {"strip": True})


def test_rtx_builds_for_a_gpu_that_is_elsewhere() -> None:
    module = fake_trt("tensorrt_rtx", "1.7.1.116")
    config = module.Builder(None).create_builder_config()
    set_target(_flavour(*VERSIONS[2], module), config, target_named("l4"))
    assert config.num_compute_capabilities == 1
    assert config.capabilities == {0: module.ComputeCapability.SM89}
    with pytest.raises(MachineError, match=r"does not build for NVIDIA H100 \(sm90\).*`kit=True`"):
        set_target(_flavour(*VERSIONS[2], module), config, target_named("h100"))
    # The fake is of a version that does not list SM121 yet.
    with pytest.raises(MachineError, match="does not know sm121; update it"):
        set_target(_flavour(*VERSIONS[2], module), config, target_named("dgx-spark"))


@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106"])
def test_tensorrt_builds_for_the_gpu_of_this_machine(install: Install, version: str) -> None:
    flavour = _flavour(TENSORRT, version)
    # It has no API for capabilities: the fake would fail where one is set.
    install(gpu=(8, 9))
    set_target(flavour, Config(), target_named("l4"))
    with pytest.raises(
        MachineError, match=r"GPU \(sm89\), not for NVIDIA H100 \(sm90\).*`kit=True`"
    ):
        set_target(flavour, Config(), target_named("h100"))
    install(gpu=None)
    with pytest.raises(
        MachineError, match=r"there is no GPU here; make a build kit with `kit=True`"
    ):
        set_target(flavour, Config(), target_named("l4"))


def test_auto_takes_the_one_that_can_build(install: Install) -> None:
    full, rtx = fake_trt(TENSORRT), fake_trt(TENSORRT_RTX, "1.7.1.116")
    install(rtx)
    assert load_flavour().name == TENSORRT_RTX
    assert load_flavour(need=target_named("l4")).version == "1.7.1.116"
    install(full, rtx, gpu=(8, 9))
    assert load_flavour().name == TENSORRT
    assert load_flavour(need=target_named("l4")).name == TENSORRT
    # The GPU here is another one: what builds ahead of time can.
    assert load_flavour(need=target_named("a10")).name == TENSORRT_RTX
    assert load_flavour(need=target_named("h100")).name == TENSORRT
    install(full, rtx, gpu=None)
    assert load_flavour(need=target_named("l4")).name == TENSORRT_RTX


def test_what_is_missing_is_told_with_the_remedy(install: Install) -> None:
    install()
    with pytest.raises(MachineError, match=r"albert-deploy\[gpu\].*albert-deploy\[rtx\]"):
        load_flavour()
    with pytest.raises(MachineError, match=r"TensorRT for RTX is not installed.*\[rtx\]"):
        load_flavour(TENSORRT_RTX)
    install(fake_trt(TENSORRT_RTX, "1.7.1.116"))
    for name in ("auto", TENSORRT_RTX):
        with pytest.raises(MachineError, match=r"NVIDIA H100 \(sm90\); TensorRT does.*`kit=True`"):
            load_flavour(name, need=target_named("h100"))
    with pytest.raises(InputError, match=r"unknown flavour 'trt'.*tensorrt_rtx"):
        load_flavour("trt")


def test_versions_with_another_api_are_refused(install: Install) -> None:
    install(fake_trt(TENSORRT, "8.6.1"))
    with pytest.raises(MachineError, match=r"got TensorRT 8\.6\.1, wanted version 10 and 11"):
        load_flavour(TENSORRT)


def test_a_broken_installation_is_told(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise ImportError("libnvinfer.so.11: cannot open shared object file")

    install(fake_trt(TENSORRT))
    monkeypatch.setattr(flavours, "importlib", SimpleNamespace(import_module=fail))
    with pytest.raises(MachineError, match=r"cannot be imported: libnvinfer\.so\.11"):
        load_flavour(TENSORRT)


def test_one_logger_for_the_process_serves_all_who_collect() -> None:
    flavour = _flavour("tensorrt", "11.4.0.106")
    log = logger(flavour)
    assert logger(flavour) is log

    def texts(lines: Iterable[Any]) -> list[str]:
        return [f"{line.severity} {line.text}" for line in lines]

    with collecting() as outer, collecting() as inner:
        log.log(Severity.ERROR, "one")
    with collecting() as later:
        log.log(Severity.VERBOSE, "two")
    log.log(Severity.VERBOSE, "three")
    assert texts(outer) == texts(inner) == ["ERROR one"]
    assert texts(later) == ["VERBOSE two"]


def test_the_installed_flavour_loads() -> None:
    pytest.importorskip("tensorrt_rtx")
    flavour = load_flavour(TENSORRT_RTX, need=target_named("sm120"))
    assert flavour.ahead_of_time
    assert flavour.major >= 1
    assert importlib.util.find_spec("tensorrt_rtx") is not None
    assert flavour.label == f"TensorRT for RTX {flavour.version}"
