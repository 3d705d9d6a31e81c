"""Signatures of bundles with the model-signing library: by a key, by a certificate, or keyless.

What is signed is the name and the SHA-256 of every file but ``bundle.json`` and the signature.
Those two follow from the rest: ``bundle.json`` lists the very same, and the signature's own hash.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.runtime.bundle import IGNORED, LISTING, SIGNATURE, Bundle
from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.scripts.bundle.signature import KINDS, SignatureFile, read_signature

if TYPE_CHECKING:
    from types import ModuleType


@dataclass(frozen=True, kw_only=True)
class Signer:
    """How a bundle is signed: with a key, with a key that has a certificate, or keyless.

    Args:
        key: Private key, PEM, on NIST's P-256, P-384 or P-521. The password of an encrypted one
            is taken from the environment variable ``ALBERT_DEPLOY_KEY_PASSWORD``.
        certificate: Of the key, PEM; the key must have no password then.
        chain: The certificates between it and the root, PEM.
        keyless: As the person or the job that logs in to Sigstore.

    Raises:
        InputError: None of them, two, or one without what it belongs to.
    """

    key: Path | None = None
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()
    keyless: bool = False

    def __post_init__(self) -> None:
        if self.key is None and (self.certificate is not None or self.chain):
            raise InputError("--sign-cert and --sign-chain need --sign-key, the certificate's key")
        if self.chain and self.certificate is None:
            raise InputError("--sign-chain needs --sign-cert, the certificate it leads from")
        if (self.key is not None) == self.keyless:
            raise InputError("sign with one of --sign-key and --sign-keyless")


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Whose signature is wanted: that of a key, a certificate or an identity.

    Args:
        key: Public key, PEM.
        cert_chain: Root certificates to trust, PEM; the system's are never taken.
        cert_subject: Who the certificate has to be issued to; see ``check_issued``. None for
            anybody whom a root stands for.
        identity: Who signed keyless, such as an address of mail.
        identity_provider: Who vouches for the identity, an ``https://`` address.

    Raises:
        InputError: None of them, two, or one without what it belongs to.
    """

    key: Path | None = None
    cert_chain: tuple[Path, ...] = ()
    cert_subject: str | None = None
    identity: str | None = None
    identity_provider: str | None = None

    def __post_init__(self) -> None:
        if "" in (self.cert_subject, self.identity, self.identity_provider):
            raise InputError("--cert-subject, --identity and --identity-provider cannot be empty")
        if self.cert_subject is not None and not self.cert_chain:
            raise InputError("--cert-subject needs --cert-chain, the roots to trust")
        if (self.identity is None) != (self.identity_provider is None):
            raise InputError(
                "--identity and --identity-provider go together: another provider may give the "
                "same name to somebody else"
            )
        if not (self.identity_provider or "https://").startswith("https://"):
            raise InputError(f"--identity-provider {self.identity_provider} is no https:// address")
        if [self.key is None, not self.cert_chain, self.identity is None].count(False) != 1:
            raise InputError("check the signature with one of --key, --cert-chain and --identity")

    @property
    def kind(self) -> str:
        """Key of ``KINDS``."""
        if self.key is not None:
            return "key"
        return "certificate" if self.cert_chain else "keyless"

    def __str__(self) -> str:
        if self.key is not None:
            return str(self.key)
        if self.cert_chain:
            return " or ".join(map(str, self.cert_chain))
        return f"{self.identity} of {self.identity_provider}"


# Secrets are looked for in variables and are no options, as others see command lines.
PASSWORD_VARIABLE = "ALBERT_DEPLOY_KEY_PASSWORD"
TOKEN_VARIABLE = "ALBERT_DEPLOY_IDENTITY_TOKEN"
# Sigstore's clients limit each of their requests, not all of them, and a login not at all.
ANSWER_SECONDS = 60.0
LOGIN_SECONDS = 600.0
_REFUSED = "do not use it; get it again from who made it"


def sign(directory: Path, signer: Signer) -> None:
    """Write the signature of a folder's files into it.

    Args:
        directory: Folder of a bundle without ``bundle.json`` yet.
        signer: With what.

    Raises:
        InputError: Key, certificate or token cannot be used.
        MachineError: model-signing is not installed; or Sigstore cannot be reached or gives no
            certificate.
    """
    signing, hashing = _library("signing"), _library("hashing")
    config = signing.Config().set_hashing_config(_hashing(hashing))
    if signer.key is None:
        _use_login(config)
        _online(lambda: config.sign(directory, directory / SIGNATURE), LOGIN_SECONDS)
        return
    if signer.certificate is not None:
        _use_certificate(config, signer, signer.key, signer.certificate)
    else:
        _use_key(config, signer.key)
    config.sign(directory, directory / SIGNATURE)


def _use_key(config: Any, key: Path) -> None:
    text = os.environ.get(PASSWORD_VARIABLE)
    password = None if text is None else text.encode()  # What the library hands on wants bytes.
    try:
        config.use_elliptic_key_signer(private_key=key, password=password)
    except Exception as error:  # Whatever the libraries below it raise on a bad key.
        raise InputError(
            f"cannot sign with {key}: {_said(error)}; wanted a private EC key as PEM, such as "
            f"openssl ecparam -name prime256v1 -genkey makes, its password in {PASSWORD_VARIABLE}"
        ) from error


def _use_certificate(config: Any, signer: Signer, key: Path, certificate: Path) -> None:
    from albert_deploy.scripts.bundle.signature import check_usable

    check_usable(certificate)
    try:
        config.use_certificate_signer(
            private_key=key,
            signing_certificate=certificate,
            # The library cannot read an empty list; the certificate twice does no harm.
            certificate_chain=signer.chain or (certificate,),
        )
    except Exception as error:  # As above.
        raise InputError(
            f"cannot sign with {key} and {certificate}: {_said(error)}; wanted a private EC key "
            "without a password, its certificate and those between it and the root, as PEM"
        ) from error


def _use_login(config: Any) -> None:
    token = os.environ.get(TOKEN_VARIABLE)
    if token is not None:
        from sigstore.oidc import IdentityToken

        try:
            IdentityToken(token)
        except Exception as error:
            raise InputError(
                f"cannot sign with the token in {TOKEN_VARIABLE}: {_said(error)}; wanted an OpenID "
                "Connect token for the audience sigstore that has not expired"
            ) from error
    _online(
        lambda: config.use_sigstore_signer(use_ambient_credentials=True, identity_token=token),
        ANSWER_SECONDS,
    )


def check_signature(bundle: Bundle, trust: Trust) -> str:
    """Fail unless who is trusted signed exactly what is in a bundle.

    Args:
        bundle: Result of ``check_bundle``.
        trust: Whose signature is wanted.

    Returns:
        Who signed it, for people.

    Raises:
        ContractError: No signature, one by another way or by somebody else, or of other files.
        InputError: Key or roots cannot be read.
        MachineError: model-signing is not installed, or Sigstore's roots cannot be fetched.
    """
    place = bundle.directory / SIGNATURE
    if not bundle.signed:
        raise ContractError(f"{bundle.directory} carries no signature; {_REFUSED}")
    verifying, hashing = _library("verifying"), _library("hashing")
    bad = f"{place} is no signature of these files by {trust}"
    try:
        found = read_signature(place)
    except Exception as error:  # A check that breaks has not passed.
        raise ContractError(f"{bad}: {_said(error)}; {_REFUSED}") from error
    if found.kind != trust.kind:
        raise ContractError(
            f"{bad}: it was made {KINDS[found.kind].made}, which "
            f"{KINDS[trust.kind].option} does not check; {KINDS[found.kind].option} does"
        )
    config = verifying.Config().set_hashing_config(_hashing(hashing))
    _use_trust(config, trust)
    try:
        config.verify(bundle.directory, place)
        signer = _signed_by(found, trust)
    except Exception as error:  # As above.
        raise ContractError(f"{bad}: {_said(error)}; {_REFUSED}") from error
    # A signer may leave files out; here nothing that is used may be.
    wanted = {n: record["sha256"] for n, record in bundle.files.items() if n != SIGNATURE}
    if found.files != wanted:
        odd = sorted(n for n in {*found.files, *wanted} if found.files.get(n) != wanted.get(n))
        raise ContractError(f"{place} does not cover {', '.join(odd[:5])}; {_REFUSED}")
    return signer


def _use_trust(config: Any, trust: Trust) -> None:
    if trust.kind == "keyless":
        who = {"identity": trust.identity, "oidc_issuer": trust.identity_provider}
        _online(lambda: config.use_sigstore_verifier(**who), ANSWER_SECONDS)
        return
    try:
        if trust.kind == "key":
            config.use_elliptic_key_verifier(public_key=trust.key)
        else:
            config.use_certificate_verifier(certificate_chain=trust.cert_chain)
    except Exception as error:  # Whatever the libraries below it raise on a bad file.
        wanted = "the public EC key of who signed" if trust.key else "root certificates"
        raise InputError(
            f"cannot verify with {trust}: {_said(error)}; wanted {wanted}, as PEM"
        ) from error


def _signed_by(found: SignatureFile, trust: Trust) -> str:
    if trust.kind != "certificate":
        return str(trust)
    from albert_deploy.scripts.bundle.signature import check_issued

    issued_to = check_issued(found.certificates, trust.cert_chain, trust.cert_subject)
    anybody = "" if trust.cert_subject else "; anybody of it passes, as there is no --cert-subject"
    return f"{issued_to}, a certificate of {trust}{anybody}"


def _online(work: Callable[[], object], seconds: float) -> None:
    """Do what asks Sigstore, for so long at most."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        failed = [TimeoutError(f"no answer within {seconds:g} seconds")]
    if failed:
        raise MachineError(
            f"keyless signatures need Sigstore, by network, and to sign a login: "
            f"{_said(failed[0])}; go online, sign where a browser opens or with a token in "
            f"{TOKEN_VARIABLE}, or use a key or a certificate"
        ) from failed[0]


def _said(error: BaseException) -> str:
    """Return a library's message in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _hashing(hashing: ModuleType) -> Any:
    return hashing.Config().set_ignored_paths(
        paths=[LISTING, SIGNATURE, *IGNORED], ignore_git_paths=False
    )


def _library(name: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError as error:
        raise MachineError(
            f"signatures need model-signing ({error}); run: pip install 'albert-deploy[sign]'"
        ) from error
