"""Who signs a bundle, and whose signature is wanted: each in exactly one of three ways."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from albert_deploy.runtime.errors import InputError


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
