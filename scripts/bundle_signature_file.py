"""The file of a signature, in its only form: of which kind it is, and which files it covers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
