from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.manager.conftest import Run
from tests.manager.tls.pki import Folder, authority, issue


@pytest.fixture
def run(run: Run) -> Run:
    """`llamaherd tls`."""
    return lambda *arguments: run("tls", *arguments)


def configure(**tls: Any) -> tuple[str, str]:
    """The option that names a YAML file with these settings."""
    Path("config.yml").write_text(json.dumps({"tls": tls}))
    return "--config", "config.yml"


def checked(run: Run, **tls: Any) -> tuple[int, dict[str, Any]]:
    code, out, _ = run("check", "--json", *configure(**tls))
    report: dict[str, Any] = json.loads(out)
    return code, report


def test_self_signed_certificate_passes_the_check(run: Run) -> None:
    code, out, _ = run("self-signed", "LLM.lan", "*.llm.lan", "192.168.1.5")
    assert code == 0
    for said in (
        f"Made the local authority {Path('ssl/llamaherd-ca.pem').absolute()}",
        "llm.lan-key.pem",
        'tls.host: "llm.lan"',
        "curl --cacert",
        "SSL_CERT_FILE=",
        "NODE_EXTRA_CA_CERTS=",
        "update-ca-certificates",
    ):
        assert said in out
    code, out, err = run("check", *configure(host="llm.lan"))
    assert (code, err) == (0, "")
    assert "names:           llm.lan, *.llm.lan, 192.168.1.5\n" in out
    assert out.endswith("HTTPS can be spoken.\n")
    assert "warning" not in out


def test_second_certificate_uses_the_same_authority_and_none_is_replaced_unless_forced(run: Run) -> None:
    run("self-signed", "a.lan", "--folder", "elsewhere")
    code, out, _ = run("self-signed", "b.lan", "--folder", "elsewhere", "--days", "30")
    assert code == 0
    assert "Used the local authority" in out
    code, _, err = run("self-signed", "a.lan", *configure(folder="elsewhere"))
    assert code == 2
    assert "a.lan-crt.pem" in err
    assert "With --force they are replaced." in err
    assert run("self-signed", "a.lan", "--force", *configure(folder="elsewhere"))[0] == 0


def test_client_certificate_is_made_and_its_setting_named(run: Run) -> None:
    code, out, _ = run("client", "bob")
    assert code == 0
    assert f"tls.client_ca: {Path('ssl/llamaherd-ca.pem').absolute()}" in out
    assert Path("ssl/bob-client.pem").exists()
    assert "--key" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["self-signed", "a b"], "is no host"),
        (["self-signed", "https://llm.lan"], "is no host"),
        (["self-signed"], "Missing argument"),
        (["self-signed", "llm.lan", "--days", "826"], "825"),
        (["client", "../bob"], "underscores make"),
    ],
)
def test_mistake_in_options_is_exit_2_and_nothing_is_made(run: Run, arguments: list[str], says: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert says in " ".join(err.split())
    assert not Path("ssl").exists()


def test_check_tells_every_error_and_is_exit_1(run: Run, tmp_path: Path) -> None:
    root = authority("Root")
    folder = Folder(tmp_path / "ssl")
    folder.put(issue("other.test", root, ends=-0.5), root)
    code, report = checked(run, host="llm.test")
    assert code == 1
    assert [("expired" in error, "is not for tls.host" in error) for error in report["errors"]] == [
        (True, False),
        (False, True),
    ]
    assert report["files"]["private_key"] == str(folder.key)
    code, out, _ = run("check", *configure(host="llm.test"))
    assert code == 1
    assert out.count("\nerror: ") == 2
    assert "can be spoken" not in out


def test_check_as_json_has_files_names_dates_and_warnings(run: Run, tmp_path: Path) -> None:
    root = authority("Root")
    folder = Folder(tmp_path / "ssl")
    leaf = issue("llm.test", authority("Intermediate", root), ends=10)
    folder.put(leaf)
    folder.client_ca.write_bytes(root.pem)
    code, report = checked(run, host="llm.test", client_ca=str(folder.client_ca))
    assert code == 0
    assert report["errors"] == []
    assert ["is missing" in report["warnings"][0], "expires on" in report["warnings"][1]] == [True, True]
    assert (report["names"], report["files"]["chain"]) == (["llm.test"], None)
    ends = f"{leaf.certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    assert report["expires"] == report["chain"][0]["not_after"] == ends
    assert (report["chain"][0]["subject"], report["chain"][0]["issuer"]) == ("CN=llm.test", "CN=Intermediate")
    assert report["client_authorities"][0]["subject"] == "CN=Root"


def test_check_without_files_says_what_was_looked_for(run: Run) -> None:
    code, report = checked(run, enabled=True)
    assert code == 1
    assert "no certificate is in" in report["errors"][0]
    assert report["files"]["certificate"] is None
    assert run("check", *configure(enabled=True))[0] == 1


def test_check_never_shows_the_passphrase(run: Run, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "ssl")
    leaf = issue("llm.test")
    folder.put(leaf)
    folder.key.write_bytes(leaf.locked_key(b"opens"))
    for passphrase, expected in (("sesame", 1), ("opens", 0)):
        code, out, err = run("check", *configure(host="llm.test", passphrase=passphrase))
        assert code == expected
        assert passphrase not in out + err


def test_check_where_https_is_off_says_how_to_have_it(run: Run) -> None:
    code, out, err = run("check")
    assert (code, out) == (1, "")
    assert "HTTPS is off: set tls.host" in err
