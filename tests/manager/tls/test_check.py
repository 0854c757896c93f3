from __future__ import annotations

import base64
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from manager.tls.check import Report, examine
from tests.manager.tls.pki import (
    CLIENT,
    SERVER,
    Folder,
    Issued,
    authority,
    ec_key,
    issue,
    labelled_sha1,
    write,
)


def examined(folder: Folder, **settings: object) -> Report:
    return examine(folder.settings(**settings), time.time())


def only(messages: list[str]) -> str:
    assert len(messages) == 1, messages
    return messages[0]


@pytest.fixture(scope="module")
def leaf(intermediate: Issued) -> Issued:
    return issue("llm.test", intermediate)


@pytest.fixture(scope="module")
def rsa_authority() -> Issued:
    return issue("RSA root", authority=True, key=rsa.generate_private_key(65537, 2048))


def test_right_files_have_no_findings(folder: Folder, leaf: Issued, intermediate: Issued) -> None:
    folder.put(leaf, intermediate)
    report = examined(folder)
    assert (report.errors, report.warnings) == ([], [])
    checked = report.checked()
    assert checked.names == ("llm.test",)
    assert checked.chain.sent == (leaf.certificate, intermediate.certificate)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize(
    "before", ["", "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"]
)
def test_every_form_of_key_is_read(
    folder: Folder, leaf: Issued, intermediate: Issued, form: PrivateFormat, before: str
) -> None:
    folder.put(leaf, intermediate)
    text = leaf.key.private_bytes(Encoding.PEM, form, NoEncryption())
    write(folder.key, before.encode() + text, 0o600)
    assert examined(folder).errors == []


def test_one_file_may_hold_certificate_chain_and_key(folder: Folder, leaf: Issued, intermediate: Issued) -> None:
    write(folder.certificate, leaf.key_pem + leaf.pem + intermediate.pem, 0o600)
    report = examined(folder, certificate=folder.certificate, private_key=folder.certificate)
    assert (report.errors, report.warnings) == ([], [])


# What is wrong with a file.


@dataclass(frozen=True)
class Damage:
    """What is done to a file, and what is then said behind its path."""

    file: str
    text: Callable[[bytes], bytes]
    says: str


DAMAGES = {
    "empty key": Damage("key", lambda _: b"", "no private key in PEM is in it. It is empty."),
    "key of rubbish": Damage("key", lambda _: b"hello", "no private key in PEM is in it."),
    "key in DER": Damage("key", lambda _: b"\x30\x82", "It may be DER or PKCS #12: convert it"),
    "key cut off": Damage("key", lambda text: text[:80], "It was not written whole"),
    "key damaged": Damage("key", lambda text: text.replace(b"M", b"A", 1), "the private key is damaged"),
    "OpenSSH key": Damage("key", lambda _: b"-----BEGIN OPENSSH PRIVATE KEY-----", "rewrite it with ssh-keygen"),
    "certificate empty": Damage("certificate", lambda _: b"\n", "and it should hold the certificate. It is empty."),
    "certificate in DER": Damage("certificate", lambda _: b"\x30\x82", "It may be DER or PKCS #12"),
    "certificate cut off": Damage(
        "certificate", lambda text: text[:200], "(certificate): a certificate in it has no end"
    ),
    "second cut off": Damage("certificate", lambda text: text + text[:200], "was the file written whole?"),
    "certificate damaged": Damage(
        "certificate", lambda text: text.replace(b"M", b"A", 1), "a certificate in it is damaged"
    ),
    "chain empty": Damage("chain", lambda _: b"", "it should hold the chain. It is empty."),
    "chain cut off": Damage("chain", lambda text: text[:200], "(chain): a certificate in it has no end"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_damaged_file_is_named(folder: Folder, leaf: Issued, intermediate: Issued, damage: Damage) -> None:
    folder.put(leaf, intermediate)
    path: Path = getattr(folder, damage.file)
    write(path, damage.text(path.read_bytes()), 0o600)
    message = only(examined(folder).errors)
    assert message.startswith(str(path))
    assert damage.says in message


@pytest.mark.parametrize("file", ["key", "certificate", "chain"])
def test_file_that_can_not_be_read_is_named(folder: Folder, leaf: Issued, intermediate: Issued, file: str) -> None:
    folder.put(leaf, intermediate)
    path: Path = getattr(folder, file)
    path.unlink()
    path.mkdir()  # root may read every file
    named = {"certificate": folder.certificate, "private_key": folder.key, "chain": folder.chain}
    message = only(examined(folder, **named).errors)
    assert message.startswith(str(path))
    assert "can't read: Is a directory" in message


def test_swapped_files_are_recognised(folder: Folder, leaf: Issued) -> None:
    folder.put(leaf)
    message = only(examined(folder, certificate=folder.key, private_key=folder.certificate).errors)
    assert message == (
        f"{folder.certificate}: no private key in PEM is in it. It holds a certificate: are the two files swapped?"
    )
    write(folder.certificate, leaf.key_pem)
    assert "It holds a private key: are the two files swapped?" in only(examined(folder).errors)


def test_key_that_everyone_can_read_is_a_warning(folder: Folder, leaf: Issued, intermediate: Issued) -> None:
    folder.put(leaf, intermediate)
    folder.key.chmod(0o644)
    report = examined(folder)
    assert report.errors == []
    assert (
        only(list(report.warnings)) == f"{folder.key}: every user of this machine can read it: chmod 600 {folder.key}"
    )


def test_certificate_of_an_unknown_version_is_damaged(folder: Folder, leaf: Issued) -> None:
    folder.put(leaf)
    der = leaf.certificate.public_bytes(Encoding.DER).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)
    text = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
    write(folder.certificate, text)
    assert only(examined(folder).errors).startswith(
        f"{folder.certificate} (certificate): a certificate in it is damaged"
    )


# The passphrase.


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_passphrase_opens_the_key_and_a_wrong_one_is_never_shown(
    folder: Folder, leaf: Issued, intermediate: Issued, form: PrivateFormat
) -> None:
    folder.put(leaf, intermediate)
    write(folder.key, leaf.locked_key(b"opens", form), 0o600)
    assert "is encrypted, and there is no passphrase: set tls.passphrase_file" in only(examined(folder).errors)
    wrong = only(examined(folder, passphrase="sesame").errors)
    assert wrong.startswith(f"{folder.key}: the passphrase (tls.passphrase, tls.passphrase_file) does not open")
    assert "sesame" not in wrong
    assert examined(folder, passphrase="opens").errors == []
    write(folder.path / "pass", b"opens\n", 0o644)
    report = examined(folder, passphrase_file=folder.path / "pass")
    assert report.errors == []
    assert only(report.warnings).startswith(f"{folder.path / 'pass'}: every user of this machine can read it")


def test_passphrase_of_a_key_that_is_not_encrypted_is_a_warning(
    folder: Folder, leaf: Issued, intermediate: Issued
) -> None:
    folder.put(leaf, intermediate)
    report = examined(folder, passphrase="sesame")
    assert report.errors == []
    assert "is not encrypted" in only(report.warnings)


# Key and certificate.


def test_key_of_another_certificate_is_named(folder: Folder, leaf: Issued, intermediate: Issued) -> None:
    folder.put(leaf, intermediate)
    write(folder.key, issue("llm.test", intermediate).key_pem, 0o600)
    message = only(examined(folder).errors)
    assert message.startswith(
        f"{folder.key} is the key of another certificate: {folder.certificate} is for CN=llm.test (llm.test), issued "
    )


def test_certificate_that_was_not_renewed_with_its_chain_file_is_named(
    folder: Folder, leaf: Issued, intermediate: Issued
) -> None:
    renewed = issue("llm.test", intermediate)
    folder.put(renewed, renewed, intermediate)
    write(folder.certificate, leaf.pem)
    message = only(examined(folder).errors)
    assert message.startswith(
        f"{folder.certificate} belongs to another key than {folder.key}, whose certificate is in {folder.chain}: "
    )


# The chain.


def test_chain_is_sorted_out_of_any_order(folder: Folder, root: Issued, intermediate: Issued) -> None:
    lower = authority("Lower", intermediate)
    leaf = issue("llm.test", lower)
    expected = (leaf.certificate, lower.certificate, intermediate.certificate)
    for order in itertools.permutations([leaf, lower, intermediate, root, lower]):
        folder.put(leaf, *order)
        report = examined(folder)
        assert (report.errors, report.warnings) == ([], [])
        assert report.checked().chain.sent == expected


def test_fullchain_file_is_sorted_too(folder: Folder, leaf: Issued, intermediate: Issued, root: Issued) -> None:
    folder.put(leaf)
    write(folder.certificate, root.pem + intermediate.pem + leaf.pem)
    report = examined(folder)
    assert (report.errors, report.warnings) == ([], [])
    assert report.checked().chain.sent == (leaf.certificate, intermediate.certificate)


@pytest.mark.parametrize(("ends", "is_sent"), [(60.0, True), (-0.5, False)], ids=["valid", "over"])
def test_root_that_another_has_signed_too_belongs_to_the_chain(
    folder: Folder, leaf: Issued, intermediate: Issued, root: Issued, ends: float, is_sent: bool
) -> None:
    older = authority("Older root")
    crossed = issue("Root", older, authority=True, key=root.key, ends=ends)
    folder.put(leaf, root, older, intermediate, crossed)
    report = examined(folder)
    assert (report.errors, report.warnings) == ([], [])
    sent = (leaf.certificate, intermediate.certificate, crossed.certificate)
    assert report.checked().chain.sent == (sent if is_sent else sent[:2])


def test_certificate_that_does_not_belong_is_an_error(folder: Folder, leaf: Issued, intermediate: Issued) -> None:
    folder.put(leaf, intermediate, authority("Stranger"))
    assert only(examined(folder).errors).startswith(
        f"{folder.chain}: CN=Stranger does not belong to the chain of CN=llm"
    )


def test_issuer_of_the_same_name_with_another_key_does_not_belong(folder: Folder, leaf: Issued, root: Issued) -> None:
    folder.put(leaf, authority("Intermediate", root))
    report = examined(folder)
    assert "CN=Intermediate does not belong" in only(report.errors)
    assert "the certificate of its issuer CN=Intermediate is missing" in only(report.warnings)


def test_missing_intermediate_is_a_warning(folder: Folder, leaf: Issued) -> None:
    folder.put(leaf)
    report = examined(folder)
    assert report.errors == []
    assert only(report.warnings).startswith(
        f"{folder.certificate}: the certificate of its issuer CN=Intermediate is missing"
    )


def test_certificate_of_a_root_needs_nothing_else(folder: Folder, root: Issued) -> None:
    leaf = issue("llm.test", root)
    folder.put(leaf, root)
    report = examined(folder)
    assert (report.errors, report.warnings) == ([], [])
    assert report.checked().chain.sent == (leaf.certificate,)


def test_issuer_that_is_no_authority_is_an_error(folder: Folder, root: Issued) -> None:
    other = issue("other.test", root)
    folder.put(issue("llm.test", other), other)
    assert f"{folder.chain}: CN=other.test: it has signed another one and is no authority's" in only(
        examined(folder).errors
    )


def test_chain_that_is_over_is_an_error_and_ends_the_whole(folder: Folder, root: Issued) -> None:
    over = authority("Intermediate", root, begins=-9, ends=-1)
    folder.put(issue("llm.test", over), over)
    assert f"{folder.chain}: CN=Intermediate: it expired on" in only(examined(folder).errors)
    ending = authority("Intermediate", root, ends=3)
    folder.put(issue("llm.test", ending), ending)
    assert examined(folder).checked().chain.expires == ending.certificate.not_valid_after_utc.timestamp()


# The certificate itself.


def test_dates_are_looked_at(folder: Folder) -> None:
    folder.put(issue("llm.test", begins=-9, ends=-1))
    assert "CN=llm.test: it expired on 20" in only(examined(folder).errors)
    folder.put(issue("llm.test", begins=1))
    assert "on only: is the clock of this machine right?" in only(examined(folder).errors)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: rsa.generate_private_key(65537, 1024), "its RSA key of 1024 bits is too short"),  # noqa: S505
        (lambda: ec_key(ec.SECP224R1()), "its key is on the curve secp224r1, which clients do not take"),
        (lambda: ec_key(ec.SECP256K1()), "its key is on the curve secp256k1, which clients do not take"),
        (lambda: dsa.generate_private_key(1024), "its key is neither RSA nor EC"),  # noqa: S505
    ],
)
def test_weak_key_is_an_error(
    folder: Folder, root: Issued, make: Callable[[], ec.EllipticCurvePrivateKey], says: str
) -> None:
    folder.put(issue("llm.test", root, key=make()), root)
    assert says in only(examined(folder).errors)


def test_ed25519_is_taken(folder: Folder, root: Issued) -> None:
    folder.put(issue("llm.test", root, key=ed25519.Ed25519PrivateKey.generate()), root)
    assert examined(folder).errors == []


def test_sha1_signature_is_an_error(folder: Folder, rsa_authority: Issued) -> None:
    folder.put(labelled_sha1(issue("llm.test", rsa_authority)), rsa_authority)
    assert f"{folder.certificate}: CN=llm.test: its signature uses SHA1, which is broken" in examined(folder).errors[0]


def test_sha1_signature_of_an_intermediate_is_an_error(folder: Folder, rsa_authority: Issued) -> None:
    weak = labelled_sha1(issue("Weak", rsa_authority, authority=True))
    folder.put(issue("llm.test", weak), weak, rsa_authority)
    assert f"{folder.chain}: CN=Weak: its signature uses SHA1" in examined(folder).errors[0]


def test_certificate_that_is_not_for_servers_is_an_error(folder: Folder, root: Issued) -> None:
    folder.put(issue("llm.test", root, purposes=[CLIENT]), root)
    assert "it is not for servers (extended key usage without serverAuth)" in only(examined(folder).errors)
    folder.put(issue("llm.test", root, may_sign=False), root)
    assert "its key may not sign" in only(examined(folder).errors)


@pytest.mark.parametrize("purposes", [None, [CLIENT, SERVER], [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]])
def test_certificate_for_servers_and_others_is_taken(
    folder: Folder, root: Issued, purposes: list[x509.ObjectIdentifier] | None
) -> None:
    folder.put(issue("llm.test", root, purposes=purposes), root)
    assert examined(folder).errors == []


def test_certificate_without_names_is_a_warning(folder: Folder, root: Issued) -> None:
    folder.put(issue("llm.test", root, names=[]), root)
    own = {"certificate": folder.certificate, "private_key": folder.key, "chain": folder.chain}
    report = examined(folder, host=None, **own)
    assert report.errors == []
    assert "has no names (subject alternative names)" in only(report.warnings)


def test_certificate_of_an_authority_is_a_warning(folder: Folder) -> None:
    own = issue("llm.test", authority=None)
    folder.put(own)
    assert examined(folder).warnings == []
    key = ec_key()
    builder = x509.CertificateBuilder().subject_name(own.certificate.subject).issuer_name(own.certificate.subject)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(own.certificate.not_valid_before_utc)
    builder = builder.not_valid_after(own.certificate.not_valid_after_utc)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("llm.test")]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    folder.put(Issued(builder.sign(key, SHA256()), key))
    report = examined(folder)
    assert report.errors == []
    assert "is an authority's own certificate" in only(report.warnings)


@pytest.mark.parametrize(
    ("host", "names", "fits"),
    [
        ("llm.test", ["LLM.test"], True),
        ("llm.test", ["other.test"], False),
        ("llm.test", ["*.test"], True),
        ("a.llm.test", ["*.test"], False),
        ("llm.test", ["*.llm.test"], False),
        ("*.llm.test", ["*.llm.test"], True),
        ("*.llm.test", ["llm.test"], False),
        ("192.168.1.5", ["192.168.1.5"], True),
        ("192.168.1.5", ["192.168.1.6"], False),
        ("192.168.1.5", ["*.168.1.5"], False),
        ("0:0:0:0:0:0:0:1", ["::1"], True),
        ("localhost", ["localhost"], True),
        ("localhost", [], False),
    ],
)
def test_host_must_be_among_the_names(tmp_path: Path, root: Issued, host: str, names: list[str], fits: bool) -> None:
    folder = Folder(tmp_path, host)
    folder.put(issue("name", root, names=names), root)
    own = {"certificate": folder.certificate, "private_key": folder.key, "chain": folder.chain}
    errors = examined(folder, **own).errors
    if fits:
        assert errors == []
    else:
        assert f"is not for tls.host, which is {host}: it is for {', '.join(names) or 'no name'}." in only(errors)


def test_part_that_makes_no_sense_is_an_error(folder: Folder, root: Issued) -> None:
    leaf = issue("llm.test", root)
    der = leaf.certificate.public_bytes(Encoding.DER)
    broken = der.replace(b"\x82\x08llm.test", b"\x82\x08\xff\xffm.test")  # a name that is not ASCII
    assert broken != der
    folder.put(Issued(x509.load_der_x509_certificate(broken), leaf.key), root)
    assert "a part of the certificates can't be understood" in only(examined(folder).errors)


# Authorities of clients.


def test_authorities_of_clients_are_checked(folder: Folder, leaf: Issued, intermediate: Issued, root: Issued) -> None:
    folder.put(leaf, intermediate)

    def with_clients(*authorities: Issued) -> Report:
        write(folder.client_ca, b"".join(one.pem for one in authorities))
        return examined(folder, client_ca=folder.client_ca)

    over = authority("Over", ends=-0.5)
    assert (with_clients(root).errors, with_clients(root).warnings) == ([], [])
    assert with_clients(root, intermediate).clients == (root.certificate, intermediate.certificate)
    assert "CN=Over: it expired" in only(with_clients(root, over).warnings)
    assert with_clients(root, over).errors == []
    assert "none of its certificates is valid now" in only(with_clients(over).errors)
    assert "CN=llm.test is no authority's" in only(with_clients(root, leaf).errors)
    weak = issue("Weak", authority=True, key=rsa.generate_private_key(65537, 1024))  # noqa: S505
    assert "CN=Weak: its RSA key of 1024 bits" in only(with_clients(weak).errors)
    assert f"{folder.client_ca}: no certificate in PEM" in only(with_clients().errors)
    folder.client_ca.unlink()
    message = only(examined(folder, client_ca=folder.client_ca).errors)
    assert message == f"{folder.client_ca} (tls.client_ca): can't read: No such file or directory."


def test_every_mistake_is_told_at_once(folder: Folder, root: Issued) -> None:
    folder.put(issue("other.test", root, begins=-9, ends=-1, purposes=[CLIENT]), root, authority("Stranger"))
    errors = examined(folder, client_ca=folder.client_ca).errors
    words = ["expired", "not for servers", "does not belong", "not for tls.host", "client_ca"]
    assert len(errors) == len(words)
    assert all(word in error for word, error in zip(words, errors, strict=True))
