"""Certificates that sign bundles: the checks of them that the model-signing library leaves out.

The library takes the day of the check from the certificate itself, so that an expired one passes,
takes one that was issued to a server for its connections, and never asks to whom it was issued.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.runtime.errors import ContractError, InputError

if TYPE_CHECKING:
    from cryptography import x509


def check_usable(path: Path) -> None:
    """Fail unless a certificate can sign today.

    Args:
        path: Certificate, PEM.

    Raises:
        InputError: It cannot be read, is not valid today, or is for something else.
    """
    import datetime

    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        why = _unfit(certificate)
    except (OSError, ValueError, x509.DuplicateExtension) as error:
        raise InputError(
            f"cannot sign with {path}: {error}; wanted the certificate of the key, as PEM"
        ) from error
    if why is None and not start <= datetime.datetime.now(datetime.UTC) <= end:
        why = f"it is valid from {start:%Y-%m-%d} to {end:%Y-%m-%d} alone"
    if why is not None:
        raise InputError(f"cannot sign with {path}: {why}; have another one issued")


def check_issued(chain: Sequence[bytes], roots: Sequence[Path], subject: str | None) -> str:
    """Fail unless a signature's certificate leads to a root, today, and is for signing.

    Args:
        chain: The certificate and those between it and a root, DER.
        roots: Files of the certificates to trust, PEM.
        subject: Who it has to be issued to: one of its names, or with a ``=`` all of its subject
            as RFC 4514 writes it. None for anybody whom a root stands for.

    Returns:
        Who it was issued to.

    Raises:
        ContractError: It is not valid today, of another root, for something else, or for somebody
            else.
        Exception: Whatever cryptography and pyOpenSSL raise on what is no certificate.
    """
    from cryptography import x509
    from OpenSSL import crypto

    store = crypto.X509Store()
    for path in roots:
        for root in x509.load_pem_x509_certificates(path.read_bytes()):
            store.add_cert(crypto.X509.from_cryptography(root))
    certificate, *between = (x509.load_der_x509_certificate(der) for der in chain)
    subject_name = certificate.subject.rfc4514_string()
    names = _names(certificate)
    told = _printable(subject_name or ", ".join(sorted(names)))
    try:
        crypto.X509StoreContext(
            store,
            crypto.X509.from_cryptography(certificate),
            [crypto.X509.from_cryptography(one) for one in between],
        ).verify_certificate()
    except crypto.X509StoreContextError as error:
        raise ContractError(f"the certificate of {told} does not count today: {error}") from error
    if why := _unfit(certificate):
        raise ContractError(f"the certificate of {told} is not for signing: {why}")
    if subject is not None and subject not in ({subject_name} if "=" in subject else names):
        also = _printable(", ".join(sorted(names)))
        raise ContractError(f"the certificate is that of {told} ({also}), not of {subject}")
    return told


def _unfit(certificate: x509.Certificate) -> str | None:
    """Return why a certificate is not for signing, or None."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    usage, extended = (
        _extension(certificate, kind) for kind in (x509.KeyUsage, x509.ExtendedKeyUsage)
    )
    if usage is None or not usage.digital_signature:
        return "its key usage lacks digitalSignature"
    if extended is not None and ExtendedKeyUsageOID.CODE_SIGNING not in extended:
        return "its extended key usage lacks codeSigning"
    return None


def _names(certificate: x509.Certificate) -> set[str]:
    """Return the common name and the alternative names of who a certificate was issued to."""
    from cryptography import x509

    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    names = {str(one.value) for one in common}
    other = _extension(certificate, x509.SubjectAlternativeName)
    if other is not None:
        for kind in (x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier):
            names |= set(other.get_values_for_type(kind))
    return names


def _extension(certificate: x509.Certificate, kind: type[Any]) -> Any:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _printable(text: str) -> str:
    """Return a text that cannot steer the terminal it is shown on."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
