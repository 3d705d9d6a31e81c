"""The file of a signature, in its only form: of which kind it is, and which files it covers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.runtime.errors import ContractError, InputError

if TYPE_CHECKING:
    from cryptography import x509


def check_usable(path: Path) -> None:
    """Fail unless a certificate can sign today.

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
    issued_to = _printable(subject_name or ", ".join(sorted(names)))
    try:
        crypto.X509StoreContext(
            store,
            crypto.X509.from_cryptography(certificate),
            [crypto.X509.from_cryptography(one) for one in between],
        ).verify_certificate()
    except crypto.X509StoreContextError as error:
        raise ContractError(
            f"the certificate of {issued_to} does not count today: {error}"
        ) from error
    if why := _unfit(certificate):
        raise ContractError(f"the certificate of {issued_to} is not for signing: {why}")
    if subject is not None and subject not in ({subject_name} if "=" in subject else names):
        also = _printable(", ".join(sorted(names)))
        raise ContractError(f"the certificate is that of {issued_to} ({also}), not of {subject}")
    return issued_to


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


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A way to sign.

    Args:
        material: What says in the file who signed.
        made: For messages.
        option: Of ``verify``, that checks it.
    """

    material: str
    made: str
    option: str


KINDS = {
    "key": Kind(material="publicKey", made="with a key", option="--key"),
    "certificate": Kind(
        material="x509CertificateChain", made="with a certificate", option="--cert-chain"
    ),
    "keyless": Kind(material="certificate", made="keyless", option="--identity"),
}
# What a timestamp authority and the public log say of a keyless signature.
_BESIDE = {"tlogEntries", "timestampVerificationData"}


@dataclass(frozen=True, kw_only=True)
class SignatureFile:
    """What a signature says; nothing of it is checked yet.

    Attributes:
        kind: Key of ``KINDS``.
        files: Name to SHA-256 of what it covers.
        certificates: Of the signer, then those that lead to a root, DER; empty for other kinds.
    """

    kind: str
    files: Mapping[str, str]
    certificates: tuple[bytes, ...]


def read_signature(place: Path) -> SignatureFile:
    """Return what a signature says.

    The library reads several spellings of a name. Here one alone passes, once: with two of them
    in one file, the library could check the one and this function return the other.

    Args:
        place: A ``bundle.sig``.

    Raises:
        OSError: It cannot be read.
        ValueError: It is in no form, or another, of a signature; also ``KeyError``, ``TypeError``,
            ``IndexError``, ``AttributeError`` and ``RecursionError``.
    """
    value = json.loads(place.read_text(encoding="utf-8"), object_pairs_hook=_once)
    _check_names(value, {"mediaType", "verificationMaterial", "dsseEnvelope"})
    material, envelope = value["verificationMaterial"], value["dsseEnvelope"]
    _check_names(envelope, {"payload", "payloadType", "signatures"})
    kinds = [name for name, kind in KINDS.items() if kind.material in material]
    if len(kinds) != 1:
        raise ValueError("it does not say in one way who signed")
    name = KINDS[kinds[0]].material
    _check_names(material, {name, *(_BESIDE & set(material))})
    inner = material[name]
    certificates: tuple[bytes, ...] = ()
    if kinds == ["certificate"]:
        _check_names(inner, {"certificates"})
        for one in inner["certificates"]:
            _check_names(one, {"rawBytes"})
        certificates = tuple(_decoded(one["rawBytes"]) for one in inner["certificates"])
    else:
        _check_names(inner, {"hint"} if kinds == ["key"] else {"rawBytes"})
        if not all(inner.values()):
            raise ValueError("it does not say who signed")
    statement = json.loads(_decoded(envelope["payload"]), object_pairs_hook=_once)
    covered = statement["predicate"]["resources"]
    files = {one["name"]: one["digest"] for one in covered if one["algorithm"] == "sha256"}
    if len(files) != len(covered):
        raise ValueError("it names a file twice, or without a SHA-256")
    return SignatureFile(kind=kinds[0], files=files, certificates=certificates)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name is there twice")
    return dict(pairs)


def _check_names(value: Any, wanted: set[str]) -> None:
    if not isinstance(value, dict) or set(value) != wanted:
        raise ValueError(f"{', '.join(sorted(wanted))} were wanted, once each, and nothing else")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
