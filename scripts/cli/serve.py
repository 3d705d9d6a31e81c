"""The command serve: a real Triton on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from albert_deploy.scripts.cli import options


@click.command()
@options.directory
@options.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 is all of them.")
@options.option("--port", default=8000, type=click.IntRange(0, 65535), help="Of HTTP; 0: any.")
@options.option("--grpc-port", default=8001, type=click.IntRange(0, 65535), help="Of gRPC; 0: any.")
@options.option("--no-grpc", is_flag=True, help="Listen for HTTP alone.")
@options.option("--variant", default="auto", help="Variant to serve; auto takes the recommended.")
@options.option("--engine", default="auto", help="What runs it: ort, openvino, ort-cuda, trt.")
@options.takes(options.Serving, "serving")
@options.option(
    "--max-body-bytes",
    default=4 << 20,
    type=click.IntRange(min=1),
    metavar="N",
    help="Most bytes of a request.",
)
@options.option(
    "--max-in-flight",
    default=512,
    type=click.IntRange(min=1),
    metavar="N",
    help="Most requests that are accepted and not answered; more are refused at once.",
)
@options.option(
    "--drain",
    "drain_s",
    default=30.0,
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="How long accepted requests may take after SIGTERM, in seconds.",
)
@options.option("--verbose", is_flag=True, help="Pass on all that Triton says.")
def serve(
    directory: Path,
    host: str,
    port: int,
    grpc_port: int,
    no_grpc: bool,
    max_body_bytes: int,
    max_in_flight: int,
    drain_s: float,
    verbose: bool,
    serving: options.Serving,
    **given: Any,
) -> None:
    """Serve DIR, a deployment directory or a bundle, with Triton, until SIGTERM or Ctrl-C.

    Needs 'albert-deploy[cpu,serve]' in an environment of its own, as Triton's package wants
    numpy 1. Clients send texts and get answers; they can load, unload and configure nothing.
    """
    from albert_deploy.scripts.serving.installation import find_installation

    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # What is started here never returns.
    find_installation()  # First, as what comes next needs what was installed with it.
    from albert_deploy.scripts.serving.front.front import FrontConfig
    from albert_deploy.scripts.serving.serve import ServeConfig
    from albert_deploy.scripts.serving.serve import serve as run
    from albert_deploy.scripts.serving.supervise import WatchConfig

    front = FrontConfig(
        host=host,
        http_port=port,
        grpc_port=None if no_grpc else grpc_port,
        max_body_bytes=max_body_bytes,
        max_in_flight=max_in_flight,
    )
    run(
        directory,
        ServeConfig(
            watch=WatchConfig(front=front, drain_s=drain_s, verbose=verbose),
            model=serving.given(),
            **given,
        ),
        ready=click.echo,
    )
