"""Signatures of bundles: a key, a certificate and keyless each cover every file, or do not pass."""

from __future__ import annotations

import base64
import datetime
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from folders import relist

from albert_deploy.runtime.bundle import LISTING, SIGNATURE, check_bundle
from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.scripts.bundle import sign as bundle_sign
from albert_deploy.scripts.bundle.sign import (
    PASSWORD_VARIABLE,
    TOKEN_VARIABLE,
    Signer,
    Trust,
    check_signature,
    sign,
)
from albert_deploy.scripts.bundle.step import BundleConfig, bundle

DOCS = Path(__file__).resolve().parents[3] / "docs/bundles.md"
NOW = datetime.datetime.now(datetime.UTC)
WHO: dict[str, Any] = {"identity": "me@example.org", "identity_provider": "https://login.example"}


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A key and its certificate, as cryptography has them and as files."""

    key: Any
    certificate: Any
    private: Path
    public: Path
    file: Path


Issue = Callable[..., Issued]


@pytest.fixture(scope="module")
def issue(tmp_path_factory: pytest.TempPathFactory) -> Issue:
    """A function that makes a key with a certificate: ``issue(name, by=None, **how)``."""
    pytest.importorskip("model_signing.signing", reason="needs model-signing and pyopenssl")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    folder = tmp_path_factory.mktemp("keys")
    pem = serialization.Encoding.PEM
    purposes = {"code": ExtendedKeyUsageOID.CODE_SIGNING, "server": ExtendedKeyUsageOID.SERVER_AUTH}

    def usage(*names: str) -> Any:
        usages = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        usages += ("digital_signature", "key_cert_sign", "crl_sign")
        fields = (*usages, "encipher_only", "decipher_only")
        return x509.KeyUsage(**{field: field in names for field in fields})

    def make(
        name: str,
        by: Issued | None = None,
        *,
        ca: bool = False,
        days: tuple[int, int] = (-2, 30),
        use: str | None = "digital_signature",
        purpose: str | None = "code",
        password: bytes | None = None,
    ) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Acme"),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        draft = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if by is None else by.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + datetime.timedelta(days[0]))
            .not_valid_after(NOW + datetime.timedelta(days[1]))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        if ca:
            draft = draft.add_extension(usage("key_cert_sign"), critical=True)
        else:
            if use is not None:
                draft = draft.add_extension(usage(use), critical=True)
            if purpose is not None:
                draft = draft.add_extension(
                    x509.ExtendedKeyUsage([purposes[purpose]]), critical=False
                )
            other = [x509.DNSName(f"{name}.acme.example"), x509.RFC822Name(f"{name}@acme.example")]
            draft = draft.add_extension(x509.SubjectAlternativeName(other), critical=False)
        certificate = draft.sign(key if by is None else by.key, hashes.SHA256())
        stem = folder / f"{name}-{certificate.serial_number:x}"
        hiding: Any = serialization.NoEncryption()
        if password is not None:
            hiding = serialization.BestAvailableEncryption(password)
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        made = Issued(
            key=key,
            certificate=certificate,
            private=stem.with_suffix(".key"),
            public=stem.with_suffix(".pub"),
            file=stem.with_suffix(".pem"),
        )
        made.private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, hiding))
        made.public.write_bytes(key.public_key().public_bytes(pem, form))
        made.file.write_bytes(certificate.public_bytes(pem))
        return made

    return make


@pytest.fixture(scope="module")
def root(issue: Issue) -> Issued:
    return issue("root", ca=True, days=(-900, 900))


@pytest.fixture(scope="module")
def between(issue: Issue, root: Issued) -> Issued:
    return issue("between", root, ca=True, days=(-800, 800))


@pytest.fixture(scope="module")
def release(issue: Issue, between: Issued) -> Issued:
    """Who signs with a certificate."""
    return issue("release", between)


@pytest.fixture(scope="module")
def made(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "bundle"
    bundle(exported, BundleConfig(allow_failed=True), out=out)
    return out


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """A bundle without its list, ready to be signed."""
    folder = Path(shutil.copytree(made, tmp_path / "bundle"))
    (folder / LISTING).unlink()
    return folder


def signed(folder: Path, signer: Signer) -> Path:
    sign(folder, signer)
    return relist(folder)


def by_library(folder: Path, one: Issued) -> Path:
    """Sign with a certificate without the checks of ours."""
    from model_signing import hashing, signing

    config = signing.Config().use_certificate_signer(
        private_key=one.private, signing_certificate=one.file, certificate_chain=[one.file]
    )
    config.set_hashing_config(bundle_sign._hashing(hashing)).sign(folder, folder / SIGNATURE)
    return relist(folder)


def trusting(root: Issued, subject: str | None = None) -> Trust:
    return Trust(cert_chain=(root.file,), cert_subject=subject)


@dataclass
class Sigstore:
    """Stands in for what of the library asks Sigstore: a key signs, in the form of keyless."""

    issued: Issued
    asked: list[dict[str, Any]]

    def use_sigstore_signer(self, config: Any, **given: Any) -> Any:
        from model_signing._signing import sign_ec_key
        from sigstore_models.bundle.v1 import VerificationMaterial
        from sigstore_models.common.v1 import X509Certificate

        issued = self.issued

        class Standing(sign_ec_key.Signer):
            def _get_verification_material(self) -> Any:
                from cryptography.hazmat.primitives.serialization import Encoding

                der = base64.b64encode(issued.certificate.public_bytes(Encoding.DER))
                return VerificationMaterial(
                    certificate=X509Certificate(raw_bytes=der), tlog_entries=[]
                )

        self.asked.append({"signer": given})
        config._signer = Standing(issued.private)
        return config

    def use_sigstore_verifier(self, config: Any, **given: Any) -> Any:
        from cryptography.hazmat.primitives.asymmetric import ec
        from model_signing._signing import sign_ec_key, sign_sigstore_pb

        public = self.issued.key.public_key()

        class Standing(sign_sigstore_pb.Verifier):
            def _verify_bundle(self, bundle: Any) -> tuple[str, bytes]:
                envelope = bundle.dsse_envelope
                hashed = ec.ECDSA(sign_ec_key.get_ec_key_hash(public))
                told = sign_sigstore_pb.pae(envelope.payload)
                public.verify(envelope.signatures[0].sig, told, hashed)
                return envelope.payload_type, envelope.payload

        self.asked.append({"verifier": given})
        config._verifier = Standing()
        return config


@pytest.fixture
def sigstore(release: Issued, monkeypatch: pytest.MonkeyPatch) -> Sigstore:
    from model_signing import signing, verifying

    standing = Sigstore(issued=release, asked=[])
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    for module, name in ((signing, "use_sigstore_signer"), (verifying, "use_sigstore_verifier")):
        method = getattr(standing, name)
        monkeypatch.setattr(
            module.Config, name, lambda self, _method=method, **given: _method(self, **given)
        )
    return standing


Way = tuple[Signer, Trust]
WAYS = ("key", "certificate", "keyless")


@pytest.fixture
def ways(root: Issued, between: Issued, release: Issued, sigstore: Sigstore) -> dict[str, Way]:
    """Each way to sign, and the trust that it passes with."""
    certified = Signer(key=release.private, certificate=release.file, chain=(between.file,))
    return {
        "key": (Signer(key=release.private), Trust(key=release.public)),
        "certificate": (certified, trusting(root, "release")),
        "keyless": (Signer(keyless=True), Trust(**WHO)),
    }


def test_signatures_need_their_library(
    cli: Any, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("signing", "verifying", "hashing"):
        monkeypatch.setitem(sys.modules, f"model_signing.{name}", None)
    out = tmp_path / "out"
    for options in (("--sign-key", tmp_path / "key.pem"), ("--sign-keyless",)):
        command = ("bundle", exported, "--out", out, "--allow-failed", *options)
        cli.refuses(9, *command, hints=("albert-deploy[sign]",), out=out)


def test_a_bundle_without_a_signature_is_not_signed(cli: Any, made: Path, tmp_path: Path) -> None:
    cli("verify", made, "--require-signature").check_refusal(4, ("carries no signature",))
    named = ("--identity", "me", "--identity-provider", "https://login.example")
    for trust in (("--key", tmp_path / "x"), ("--cert-chain", tmp_path / "x"), named):
        cli("verify", made, *trust).check_refusal(4, ("carries no signature",))


FILE = Path("x.pem")


@pytest.mark.parametrize(
    ("kind", "fields", "hint"),
    [
        (Signer, {}, "one of --sign-key and --sign-keyless"),
        (Signer, {"key": FILE, "keyless": True}, "one of --sign-key and --sign-keyless"),
        (Signer, {"certificate": FILE}, "need --sign-key"),
        (Signer, {"certificate": FILE, "keyless": True}, "need --sign-key"),
        (Signer, {"chain": (FILE,), "keyless": True}, "need --sign-key"),
        (Signer, {"key": FILE, "chain": (FILE,)}, "--sign-chain needs --sign-cert"),
        (Trust, {}, "one of --key, --cert-chain and --identity"),
        (Trust, {"key": FILE, "cert_chain": (FILE,)}, "one of --key"),
        (Trust, {"key": FILE} | WHO, "one of --key"),
        (Trust, {"cert_chain": (FILE,)} | WHO, "one of --key"),
        (Trust, {"key": FILE, "cert_subject": "me"}, "--cert-subject needs --cert-chain"),
        (Trust, {"cert_subject": "me"}, "--cert-subject needs --cert-chain"),
        (Trust, {"cert_chain": (FILE,), "cert_subject": ""}, "cannot be empty"),
        (Trust, {"identity": "me"}, "go together"),
        (Trust, {"identity_provider": "https://x"}, "go together"),
        (Trust, {"key": FILE, "identity_provider": "https://x"}, "go together"),
        (Trust, WHO | {"identity": ""}, "cannot be empty"),
        (Trust, WHO | {"identity_provider": "http://x"}, "no https:// address"),
    ],
)
def test_there_is_exactly_one_way(kind: Any, fields: dict[str, Any], hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        kind(**fields)


def test_options_that_do_not_go_together_are_refused(
    cli: Any, exported: Path, made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for options in (("--sign-cert", "x"), ("--sign-key", "x", "--sign-keyless")):
        command = ("bundle", exported, "--out", out, "--allow-failed", *options)
        cli.refuses(3, *command, hints=("--sign-key",), out=out)
    for options in (("--cert-subject", ""), ("--identity", "me"), ("--key", "x", "--identity", "")):
        cli("verify", made, *options).check_refusal(3, ("--identity",))


def test_a_key_signs(cli: Any, issue: Issue, exported: Path, tmp_path: Path) -> None:
    own, other = issue("own"), issue("other")
    for out, form in ((tmp_path / "signed", "plain"), (tmp_path / "s.tar.gz", "archive")):
        options = ("--allow-failed", "--format", form, "--sign-key", own.private)
        assert cli("bundle", exported, "--out", out, *options).code == 0
        assert "signature not checked" in cli("verify", out).out
        result = cli("verify", out, "--key", own.public, "--require-signature")
        assert (result.code, f"signed by {own.public}" in result.out) == (0, True), result.err
        refused = cli("verify", out, "--key", other.public)
        refused.check_refusal(4, ("is no signature of these files", "Key mismatch"))
        cli("verify", out, "--key", own.private).check_refusal(3, ("cannot verify with",))
        cli("verify", out, "--require-signature").check_refusal(3, ("needs --key, --cert-chain",))
    with pytest.raises(InputError, match="cannot sign with"):
        sign(tmp_path / "signed", Signer(key=own.public))


def test_a_certificate_signs(
    cli: Any, issue: Issue, root: Issued, between: Issued, exported: Path, tmp_path: Path
) -> None:
    own, unrelated = issue("own", between), issue("unrelated", ca=True)
    named = ("--sign-key", own.private, "--sign-cert", own.file, "--sign-chain", between.file)
    for out, form in ((tmp_path / "signed", "plain"), (tmp_path / "s.tar.gz", "archive")):
        options = ("--allow-failed", "--format", form, *named)
        assert cli("bundle", exported, "--out", out, *options).code == 0
        checked = ("verify", out, "--require-signature", "--cert-chain")
        result = cli(*checked, root.file, "--cert-chain", unrelated.file)
        assert result.code == 0, result.err
        assert f"signed by CN=own,O=Acme, a certificate of {root.file} or " in result.out
        assert "anybody of it passes" in result.out
        for name in ("own", "own.acme.example", "own@acme.example", "CN=own,O=Acme"):
            result = cli(*checked, root.file, "--cert-subject", name)
            assert (result.code, "anybody" in result.out) == (0, False), result.err
        for name in ("release", "Own", "Acme", "CN=own", "acme.example"):
            result = cli(*checked, root.file, "--cert-subject", name)
            result.check_refusal(4, ("is that of CN=own,O=Acme", "own.acme.example", name))
        cli(*checked, unrelated.file).check_refusal(4, ("is no signature of these files",))
        cli(*checked, tmp_path / "none.pem").check_refusal(3, ("cannot verify with",))
        cli(*checked, own.public).check_refusal(3, ("wanted root certificates",))


def test_a_name_of_a_certificate_cannot_pose_as_a_whole_subject(
    issue: Issue, root: Issued, copied: Path
) -> None:
    posing = issue("CN=release,O=Acme", root)
    found = check_bundle(signed(copied, Signer(key=posing.private, certificate=posing.file)))
    check_signature(found, trusting(root))
    with pytest.raises(ContractError, match="not of CN=release,O=Acme"):
        check_signature(found, trusting(root, "CN=release,O=Acme"))


def test_a_certificate_without_its_chain_does_not_reach_the_root(
    root: Issued, between: Issued, release: Issued, copied: Path
) -> None:
    found = check_bundle(signed(copied, Signer(key=release.private, certificate=release.file)))
    with pytest.raises(ContractError, match="unable to get local issuer certificate"):
        check_signature(found, trusting(root))
    check_signature(found, Trust(cert_chain=(root.file, between.file)))


def test_a_root_that_a_signature_brings_along_is_not_trusted(
    issue: Issue, root: Issued, copied: Path
) -> None:
    fake = issue("root", ca=True)
    forger = issue("release", fake)
    signer = Signer(key=forger.private, certificate=forger.file, chain=(fake.file,))
    found = check_bundle(signed(copied, signer))
    check_signature(found, trusting(fake))
    with pytest.raises(ContractError, match="is no signature of these files"):
        check_signature(found, trusting(root))


@pytest.mark.parametrize(
    ("how", "hint"),
    [
        ({"days": (-30, -1)}, "certificate has expired"),
        ({"days": (1, 30)}, "not yet valid"),
        ({"purpose": "server"}, "lacks codeSigning"),
        ({"use": "key_agreement"}, "lacks digitalSignature"),
        ({"use": None, "purpose": "code"}, "lacks digitalSignature"),
    ],
)
@pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated")  # In the library.
def test_a_certificate_that_does_not_count_is_refused_on_both_sides(
    how: dict[str, Any], hint: str, issue: Issue, root: Issued, copied: Path
) -> None:
    """The library takes them all: that it does is why the checks are ours."""
    from model_signing import hashing, verifying

    bad = issue("release", root, **how)
    with pytest.raises(InputError, match="valid from" if "days" in how else hint):
        sign(copied, Signer(key=bad.private, certificate=bad.file))
    assert not (copied / SIGNATURE).exists()
    found = check_bundle(by_library(copied, bad))
    with pytest.raises(ContractError, match=hint):
        check_signature(found, trusting(root, "release"))
    library = verifying.Config().use_certificate_verifier(certificate_chain=[root.file])
    library.set_hashing_config(bundle_sign._hashing(hashing))
    library.verify(copied, copied / SIGNATURE)


def test_a_certificate_without_purposes_signs(issue: Issue, root: Issued, copied: Path) -> None:
    plain = issue("release", root, purpose=None)
    found = check_bundle(signed(copied, Signer(key=plain.private, certificate=plain.file)))
    assert check_signature(found, trusting(root, "release")).startswith("CN=release,O=Acme")


def test_what_does_not_belong_to_the_key_does_not_sign(
    issue: Issue, release: Issued, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, locked = issue("other"), issue("locked", password=b"secret")
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    for signer, hint in (
        (Signer(key=other.private, certificate=release.file), "does not match"),
        (Signer(key=locked.private, certificate=locked.file), "without a password"),
        (Signer(key=other.private, certificate=other.private), "wanted the certificate"),
        (Signer(key=other.private, certificate=tmp_path / "none.pem"), "No such file"),
        (Signer(key=other.private, certificate=other.file, chain=(other.public,)), "and those"),
    ):
        with pytest.raises(InputError, match=hint):
            sign(copied, signer)
    assert not (copied / SIGNATURE).exists()


@pytest.mark.parametrize("way", WAYS)
def test_a_signature_covers_every_file(way: str, ways: dict[str, Way], copied: Path) -> None:
    signer, trust = ways[way]
    found = check_bundle(signed(copied, signer))
    assert len(found.files) > 6
    check_signature(found, trust)
    for name in found.files:
        path = copied / name
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(ContractError):
            check_signature(found, trust)
        path.write_bytes(good)
    check_signature(found, trust)


@pytest.mark.parametrize("way", WAYS)
def test_a_signer_cannot_leave_files_out(
    way: str, ways: dict[str, Way], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_signing import hashing

    signer, trust = ways[way]
    with monkeypatch.context() as patched:
        left_out = hashing.Config().set_ignored_paths(paths=["onnx"], ignore_git_paths=False)
        patched.setattr(bundle_sign, "_hashing", lambda _: left_out)
        sign(copied, signer)
    with pytest.raises(ContractError, match=r"does not cover onnx/model\.onnx"):
        check_signature(check_bundle(relist(copied)), trust)


@pytest.mark.parametrize("way", WAYS)
def test_a_signature_of_other_files_is_none_of_these(
    way: str, ways: dict[str, Way], copied: Path
) -> None:
    signer, trust = ways[way]
    sign(copied, signer)
    (copied / "README.md").write_text("something else\n")
    with pytest.raises(ContractError, match="is no signature of these files"):
        check_signature(check_bundle(relist(copied)), trust)


@pytest.mark.parametrize("way", WAYS)
def test_another_way_than_it_was_signed_is_named(
    way: str, ways: dict[str, Way], copied: Path
) -> None:
    found = check_bundle(signed(copied, ways[way][0]))
    said = {
        "key": "made with a key, .*; --key does",
        "certificate": "made with a certificate, .*; --cert-chain does",
        "keyless": "made keyless, .*; --identity does",
    }
    for other in set(WAYS) - {way}:
        with pytest.raises(ContractError, match=said[way]):
            check_signature(found, ways[other][1])


def rewritten(folder: Path, change: Callable[[Any], None]) -> Path:
    value = json.loads((folder / SIGNATURE).read_text())
    change(value)
    (folder / SIGNATURE).write_text(json.dumps(value))
    return relist(folder)


def test_a_name_written_twice_cannot_pass_for_another(
    issue: Issue, root: Issued, between: Issued, release: Issued, copied: Path
) -> None:
    """Somebody with a certificate of the same root wants to pass for ``release``."""
    mallory = issue("mallory", root)
    by_library(copied, mallory)
    good = (copied / SIGNATURE).read_text()
    with pytest.raises(ContractError, match="is that of CN=mallory"):
        check_signature(check_bundle(copied), trusting(root, "release"))

    def posing() -> dict[str, Any]:
        from cryptography.hazmat.primitives.serialization import Encoding

        chain = [one.certificate.public_bytes(Encoding.DER) for one in (release, between)]
        raw = [{"rawBytes": base64.b64encode(one).decode()} for one in chain]
        return {"certificates": raw}

    def other_spelling(value: Any) -> None:
        material = value["verificationMaterial"]
        material["x509_certificate_chain"] = material["x509CertificateChain"]
        material["x509CertificateChain"] = posing()

    def other_leaf(value: Any) -> None:
        leaf = value["verificationMaterial"]["x509CertificateChain"]["certificates"][0]
        leaf["raw_bytes"] = leaf["rawBytes"]
        leaf["rawBytes"] = posing()["certificates"][0]["rawBytes"]

    def other_kind(value: Any) -> None:
        value["verificationMaterial"]["publicKey"] = {"hint": "x"}

    def other_envelope(value: Any) -> None:
        value["dsse_envelope"] = value["dsseEnvelope"]

    for change in (other_spelling, other_leaf, other_kind, other_envelope):
        (copied / SIGNATURE).write_text(good)
        with pytest.raises(ContractError, match=r"nothing else|in one way"):
            check_signature(check_bundle(rewritten(copied, change)), trusting(root, "release"))
    name = '"x509CertificateChain":'
    assert name in good
    twice = good.replace(name, f"{name} {json.dumps(posing())}, {name}", 1)
    assert json.loads(twice) == json.loads(good)
    (copied / SIGNATURE).write_text(twice)
    with pytest.raises(ContractError, match="a name is there twice"):
        check_signature(check_bundle(relist(copied)), trusting(root, "release"))


@pytest.mark.parametrize("bad", ["", "[]", "null", "{}", "[" * 100_000, '{"mediaType": 1}'])
def test_what_is_no_signature_is_refused(bad: str, ways: dict[str, Way], copied: Path) -> None:
    (copied / SIGNATURE).write_text(bad)
    found = check_bundle(relist(copied))
    for _, trust in ways.values():
        with pytest.raises(ContractError, match="is no signature of these files"):
            check_signature(found, trust)


def test_a_key_signature_says_of_which_key(
    capsys: pytest.CaptureFixture[str], release: Issued, copied: Path
) -> None:
    """Without that the library prints a warning, in the middle of ``--json``."""
    signed(copied, Signer(key=release.private))

    def unnamed(value: Any) -> None:
        value["verificationMaterial"]["publicKey"]["hint"] = ""

    with pytest.raises(ContractError, match="does not say who signed"):
        check_signature(check_bundle(rewritten(copied, unnamed)), Trust(key=release.public))
    assert capsys.readouterr().out == ""


def test_a_locked_key_takes_its_password_from_the_environment(
    issue: Issue, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = issue("locked", password=b"secret")
    with pytest.raises(InputError, match=PASSWORD_VARIABLE):
        sign(copied, Signer(key=locked.private))
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    found = check_bundle(signed(copied, Signer(key=locked.private)))
    check_signature(found, Trust(key=locked.public))


def token(**claims: Any) -> str:
    import jwt

    start = int(NOW.timestamp())
    value = {"aud": "sigstore", "sub": "me", "iat": start, "exp": start + 3600, "iss": "https://x"}
    return jwt.encode(value | claims, "a secret of thirty-two bytes or more", algorithm="HS256")


def test_keyless_asks_the_library_for_a_login(
    cli: Any, sigstore: Sigstore, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = token()
    for number, given in enumerate((None, own)):
        if given is not None:
            monkeypatch.setenv(TOKEN_VARIABLE, given)
        out = tmp_path / f"out{number}"
        options = ("--allow-failed", "--sign-keyless")
        result = cli("bundle", exported, "--out", out, *options)
        assert (result.code, own in result.out + result.err) == (0, False), result.err
        named = ("--identity", "me@example.org", "--identity-provider", "https://login.example")
        result = cli("verify", out, *named, "--require-signature")
        assert "signed by me@example.org of https://login.example" in result.out, result.err
        assert sigstore.asked == [
            {"signer": {"use_ambient_credentials": True, "identity_token": given}},
            {"verifier": {"identity": "me@example.org", "oidc_issuer": "https://login.example"}},
        ]
        sigstore.asked.clear()


def test_a_token_that_cannot_be_used_is_refused_before_anything_is_asked(
    sigstore: Sigstore, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bad in ("", "no token", token(aud="others"), token(exp=1)):
        monkeypatch.setenv(TOKEN_VARIABLE, bad)
        with pytest.raises(InputError, match=TOKEN_VARIABLE) as told:
            sign(copied, Signer(keyless=True))
        assert not bad or bad == "no token" or bad not in str(told.value)
    assert sigstore.asked == []


def test_keyless_without_a_network_says_so(
    cli: Any, sigstore: Sigstore, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_signing import signing, verifying
    from sigstore.errors import TUFError

    signed_one = tmp_path / "signed"
    bundle(exported, BundleConfig(allow_failed=True, signer=Signer(keyless=True)), out=signed_one)
    named = ("--identity", "me@example.org", "--identity-provider", "https://login.example")
    bundling = ("bundle", exported, "--allow-failed", "--sign-keyless", "--out")
    forever = threading.Event()

    def offline(self: Any, **_: Any) -> None:
        raise TUFError("Failed to refresh\nTUF metadata")

    def silent(self: Any, **_: Any) -> None:
        forever.wait()

    for standing, hint in ((offline, "refresh TUF metadata"), (silent, "no answer within")):
        monkeypatch.setattr(signing.Config, "use_sigstore_signer", standing)
        monkeypatch.setattr(verifying.Config, "use_sigstore_verifier", standing)
        monkeypatch.setattr(bundle_sign, "ANSWER_SECONDS", 0.05)
        out = tmp_path / "out"
        cli.refuses(9, *bundling, out, hints=(hint, "go online", TOKEN_VARIABLE), out=out)
        cli("verify", signed_one, *named).check_refusal(9, (hint, "go online"))
    forever.set()


def test_a_login_that_nobody_finishes_ends(
    copied: Path, release: Issued, sigstore: Sigstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_signing import signing

    forever = threading.Event()
    monkeypatch.setattr(signing.Config, "sign", lambda *_: forever.wait())
    monkeypatch.setattr(bundle_sign, "LOGIN_SECONDS", 0.05)
    with pytest.raises(MachineError, match="no answer within"):
        sign(copied, Signer(keyless=True))
    forever.set()


def test_the_commands_in_the_docs_make_what_signs(cli: Any, exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_signing.signing", reason="needs model-signing and pyopenssl")
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    section = DOCS.read_text(encoding="utf-8").partition("## Signatures")[2].partition("\n## ")[0]
    blocks = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    made_with = [line for line in lines if line.startswith(("openssl", "printf"))]
    assert len(made_with) > 6
    script = "\n".join(["set -e", *made_with])
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    commands = [line.split() for line in lines if line.startswith("albert-deploy")]
    commands = [words for words in commands if "--identity" not in words]
    commands = [words for words in commands if "--sign-keyless" not in words]
    assert [words[1] for words in commands] == ["bundle", "verify"] * 2
    places = {"out/mine": exported, "bundle": tmp_path / "bundle"}
    for words in commands:
        files = {word: tmp_path / word for word in words if word.endswith(".pem")}
        given = [(places | files).get(word, word) for word in words[2:]]
        more = ["--allow-failed"] if words[1] == "bundle" else []
        result = cli(words[1], *given, *more)
        assert result.code == 0, result.err
