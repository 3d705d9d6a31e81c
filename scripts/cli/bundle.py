"""The commands about bundles: bundle and verify."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.scripts.bundle.sign import Signer, Trust
from albert_deploy.scripts.bundle.step import FORMATS, BundleConfig, check_folder
from albert_deploy.scripts.bundle.step import bundle as make_bundle
from albert_deploy.scripts.cli import options
from albert_deploy.scripts.serving.options import FORMS

if TYPE_CHECKING:
    from albert_deploy.runtime.bundle import Bundle

_FILE = click.Path(path_type=Path, dir_okay=False)
# Fields of ``Signer`` and their options; those of ``Trust`` are named alike.
_SIGNER = {
    "key": "sign_key",
    "certificate": "sign_cert",
    "chain": "sign_chain",
    "keyless": "sign_keyless",
}
_Made = TypeVar("_Made")


@click.command()
@options.directory
@options.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="B",
    help="Folder or, for an archive, NAME.tar.gz to write.",
)
@options.option("--format", "form", default="plain", help=f"One of: {', '.join(FORMATS)}.")
@options.option(
    "--variants",
    type=options.NAMES,
    default=None,
    help="Variants to take; by default all in DIR.",
)
@options.option("--license", "licence", default=None, help="Of the model, such as apache-2.0.")
@options.option(
    "--allow-failed", is_flag=True, help="Bundle what did not pass its validation, or had none."
)
@options.option(
    "--sign-key",
    default=None,
    metavar="KEY.pem",
    type=_FILE,
    help="Sign with this private EC key; its password, if it has one, is in the variable "
    "ALBERT_DEPLOY_KEY_PASSWORD.",
)
@options.option(
    "--sign-cert",
    default=None,
    metavar="CERT.pem",
    type=_FILE,
    help="Certificate of the key, to be trusted instead of it.",
)
@options.option(
    "--sign-chain",
    multiple=True,
    metavar="CA.pem",
    type=_FILE,
    help="Certificate between that one and the root; once for each.",
)
@options.option(
    "--sign-keyless",
    is_flag=True,
    help="Sign as who you are to Sigstore: with the token in the variable "
    "ALBERT_DEPLOY_IDENTITY_TOKEN, that of a CI job, or by a login in the browser.",
)
@options.option(
    "--triton-model",
    default=None,
    metavar="FORM",
    help="With --format triton: "
    + "; ".join(f"{name}, {what}" for name, what in FORMS.items())
    + ". By default direct.",
)
@options.takes(options.Serving, "served")
def bundle(
    directory: Path,
    out: Path,
    triton_model: str | None,
    served: options.Serving,
    **given: Any,
) -> None:
    """Write what deployment needs of DIR, with its evidence, as a bundle that verify checks.

    The same DIR gives the same bytes. A bundle is a deployment directory, too, and a model folder
    of the Hugging Face hub. With --format triton it also has models/, a repository for Triton.
    """
    serving = ({} if triton_model is None else {"form": triton_model}) | served.given()
    if serving and not FORMATS[given["form"]].served:
        name = "triton-model" if "form" in serving else next(iter(serving)).replace("_", "-")
        raise InputError(f"--{name} goes with --format triton")
    signer = _given(Signer, **{field: given.pop(name) for field, name in _SIGNER.items()})
    config = BundleConfig(serving=serving, signer=signer, **given)
    made = make_bundle(directory, config, out=out)
    click.echo(f"{out}: {_described(made)}, {'signed' if made.signed else 'not signed'}")


@click.command()
@click.argument("place", metavar="B", type=click.Path(path_type=Path))
@options.option(
    "--key", default=None, metavar="PUB.pem", type=_FILE, help="Public key of who signed it."
)
@options.option(
    "--cert-chain",
    multiple=True,
    metavar="CA.pem",
    type=_FILE,
    help="Root to trust, where a certificate signed it; once for each.",
)
@options.option(
    "--cert-subject",
    default=None,
    metavar="NAME",
    help="Who the certificate was issued to; without it, anybody whom the root stands for passes.",
)
@options.option(
    "--identity", default=None, metavar="WHO", help="Who signed it keyless: me@example.org."
)
@options.option(
    "--identity-provider",
    default=None,
    metavar="URL",
    help="Who vouches for WHO: https://accounts.google.com.",
)
@options.option(
    "--require-signature", is_flag=True, help="Fail where it is not signed by one of those."
)
@options.option(
    "--extract",
    default=None,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Unpack an archive there, if all of it is good.",
)
@options.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def verify(
    place: Path, require_signature: bool, extract: Path | None, as_json: bool, **trusted: Any
) -> None:
    """Check every byte of the bundle B, a folder or an archive, and its signature.

    Ends with 4 where anything is not as it was bundled, and with 3 where B is no bundle.
    """
    trust = _given(Trust, **trusted)
    with _unpacked(place, extract) as folder:
        found, signature = _checked(folder, place, trust, require_signature)
        if extract is not None:
            from albert_deploy.runtime.directory import publish

            publish(folder, extract)
    if as_json:
        report = {"bundle": str(place), "sha256": found.sha256, "signature": signature}
        click.echo(json.dumps(report | {"files": found.files}, indent=2))
    else:
        click.echo(f"{place}: intact, {_described(found)}, {signature}")


def _given(kind: Callable[..., _Made], **fields: Any) -> _Made | None:
    """Make a ``Signer`` or a ``Trust`` of options; None where none of them was given."""
    return None if all(one in (None, (), False) for one in fields.values()) else kind(**fields)


def _checked(folder: Path, place: Path, trust: Trust | None, required: bool) -> tuple[Bundle, str]:
    from albert_deploy.runtime.bundle import check_bundle

    found = check_bundle(folder)
    if required and not found.signed:
        raise ContractError(f"{place} carries no signature, and --require-signature wants one")
    if required and trust is None:
        raise InputError(
            "--require-signature needs --key, --cert-chain or --identity: a signature by anybody "
            "proves nothing"
        )
    if trust is not None:
        from albert_deploy.scripts.bundle.sign import check_signature

        return found, f"signed by {check_signature(found, trust)}"
    if found.signed:
        return found, "signature not checked (no --key, --cert-chain or --identity)"
    return found, "not signed"


@contextlib.contextmanager
def _unpacked(place: Path, extract: Path | None) -> Iterator[Path]:
    """Give the folder of a bundle; that of an archive lives beside where it goes."""
    from albert_deploy.runtime.directory import staged

    if not place.is_file():
        if extract is not None:
            raise InputError(f"{place} is no archive; --extract unpacks one")
        if not place.exists():
            raise InputError(f"{place} does not exist; wanted a bundle's folder or archive")
        yield place
        return
    from albert_deploy.scripts.bundle.archive import FOLDER, extract_archive

    with contextlib.ExitStack() as stack:
        if extract is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="albert-deploy-")))
        else:
            check_folder(extract)
            work = stack.enter_context(staged(extract))
        folder = work / FOLDER
        folder.mkdir()
        extract_archive(place, folder)
        yield folder


def _described(found: Bundle) -> str:
    total = sum(int(record["bytes"]) for record in found.files.values())
    return f"{len(found.files)} files, {total:,} bytes, sha256 {found.sha256[:12]}"
