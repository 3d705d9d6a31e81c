"""Signatures of bundles with the model-signing library: a local elliptic-curve key signs.

What is signed is the name and the SHA-256 of every file but ``bundle.json`` and the signature.
Those two follow from the rest: ``bundle.json`` lists the very same, and the signature's own hash.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.runtime.bundle_verify import IGNORED, LISTING, SIGNATURE, Bundle
from albert_deploy.runtime.errors import ContractError, InputError, MachineError

if TYPE_CHECKING:
    from types import ModuleType

# Where the password of an encrypted key is looked for: no option, as others see command lines.
PASSWORD_VARIABLE = "ALBERT_DEPLOY_KEY_PASSWORD"
_REFUSED = "do not use it; get it again from who made it"


def sign(directory: Path, key: Path) -> None:
    """Write the signature of a folder's files into it.

    Args:
        directory: Folder of a bundle without ``bundle.json`` yet.
        key: Private key, PEM, on NIST's P-256, P-384 or P-521. The password of an encrypted one
            is taken from the environment variable ``ALBERT_DEPLOY_KEY_PASSWORD``.

    Raises:
        InputError: The key cannot be read.
        MachineError: model-signing is not installed.
    """
    signing, hashing = _library("signing"), _library("hashing")
    told = os.environ.get(PASSWORD_VARIABLE)
    password = None if told is None else told.encode()  # What the library hands on wants bytes.
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=key, password=password)
    except Exception as error:  # Whatever the libraries below it raise on a bad key.
        raise InputError(
            f"cannot sign with {key}: {error}; wanted a private EC key as PEM, such as openssl "
            f"ecparam -name prime256v1 -genkey makes, its password in {PASSWORD_VARIABLE}"
        ) from error
    signer.set_hashing_config(_hashing(hashing)).sign(directory, directory / SIGNATURE)


def check_signature(bundle: Bundle, key: Path) -> None:
    """Fail unless a key signed exactly what is in a bundle.

    Args:
        bundle: Result of ``check_bundle``.
        key: Public key, PEM.

    Raises:
        ContractError: No signature, one by another key, or of other files.
        InputError: The key cannot be read.
        MachineError: model-signing is not installed.
    """
    place = bundle.directory / SIGNATURE
    if not bundle.signed:
        raise ContractError(f"{bundle.directory} carries no signature; {_REFUSED}")
    verifying, hashing = _library("verifying"), _library("hashing")
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except Exception as error:  # As above.
        raise InputError(
            f"cannot verify with {key}: {error}; wanted the public EC key of who signed, as PEM"
        ) from error
    try:
        verifier.set_hashing_config(_hashing(hashing)).verify(bundle.directory, place)
        signed = _signed_files(place)
    except Exception as error:  # A check that breaks has not passed.
        raise ContractError(
            f"{place} is no signature of these files by {key}: {error or type(error).__name__}; "
            f"{_REFUSED}"
        ) from error
    # A signer may leave files out; here nothing that is used may be.
    wanted = {n: record["sha256"] for n, record in bundle.files.items() if n != SIGNATURE}
    if signed != wanted:
        odd = sorted(n for n in {*signed, *wanted} if signed.get(n) != wanted.get(n))
        raise ContractError(f"{place} does not cover {', '.join(odd[:5])}; {_REFUSED}")


def _hashing(hashing: ModuleType) -> Any:
    return hashing.Config().set_ignored_paths(
        paths=[LISTING, SIGNATURE, *IGNORED], ignore_git_paths=False
    )


def _signed_files(place: Path) -> dict[str, str]:
    """Return name to SHA-256 of what a signature covers, from its in-toto statement."""
    envelope = json.loads(place.read_bytes())["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"], validate=True))
    return {
        one["name"]: one["digest"]
        for one in statement["predicate"]["resources"]
        if one["algorithm"] == "sha256"
    }


def _library(name: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError as error:
        raise MachineError(
            f"signatures need model-signing ({error}); run: pip install 'albert-deploy[sign]'"
        ) from error
