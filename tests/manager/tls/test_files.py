from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from manager.errors import ConfigError
from manager.settings_server import TlsSettings
from manager.tls.files import Files, find, open_to_others, passphrase, versions


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("host", "there", "certificate", "key", "chain"),
    [
        ("h", ["h-crt.pem", "h-key.pem"], "h-crt.pem", "h-key.pem", None),
        ("h", ["h-crt.pem", "h-key.pem", "h-chain.pem"], "h-crt.pem", "h-key.pem", "h-chain.pem"),
        ("h", ["h-crt.pem", "h-key.pem", "h-chain-only.pem"], "h-crt.pem", "h-key.pem", "h-chain-only.pem"),
        ("*.h.org", ["_.h.org-crt.pem", "_.h.org-key.pem"], "_.h.org-crt.pem", "_.h.org-key.pem", None),
        ("h", ["h/fullchain.pem", "h/privkey.pem", "h/chain.pem"], "h/fullchain.pem", "h/privkey.pem", None),
        ("h", ["h/cert.pem", "h/privkey.pem", "h/chain.pem"], "h/cert.pem", "h/privkey.pem", "h/chain.pem"),
        ("*.h.org", ["h.org/fullchain.pem", "h.org/privkey.pem"], "h.org/fullchain.pem", "h.org/privkey.pem", None),
        ("h", ["fullchain.pem", "privkey.pem"], "fullchain.pem", "privkey.pem", None),
        ("h", ["cert.pem", "privkey.pem"], "cert.pem", "privkey.pem", None),
        # Half of one client's files does not hide the other's.
        ("h", ["h-crt.pem", "h/fullchain.pem", "h/privkey.pem"], "h/fullchain.pem", "h/privkey.pem", None),
        ("::1", ["::1-crt.pem", "::1-key.pem"], "::1-crt.pem", "::1-key.pem", None),
    ],
)
def test_files_of_a_host_are_found_as_acme_clients_leave_them(
    tmp_path: Path, host: str, there: list[str], certificate: str, key: str, chain: str | None
) -> None:
    touch(tmp_path, *there)
    found = find(TlsSettings(folder=tmp_path, host=host))
    assert found == Files(tmp_path / certificate, tmp_path / key, None if chain is None else tmp_path / chain)


def test_files_that_are_set_go_before_those_of_the_host(tmp_path: Path) -> None:
    touch(tmp_path, "h-crt.pem", "h-key.pem")
    paths = {name: tmp_path / name for name in ("certificate", "private_key", "chain", "client_ca", "passphrase_file")}
    found = find(TlsSettings.model_validate({"folder": tmp_path, "host": "h", **paths}))
    assert list(found) == list(paths.values())


def test_missing_files_of_a_host_are_listed_with_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "h-crt.pem")
    with pytest.raises(ConfigError) as refused:
        find(TlsSettings(folder=tmp_path, host="h"))
    for name in (
        "h-crt.pem (there)",
        "h-key.pem\n",
        "h/fullchain.pem\n",
        "h/privkey.pem\n",
        "llamaherd tls self-signed h",
    ):
        assert name in refused.value.message


@pytest.mark.parametrize(
    "there",
    [
        ["h-crt.pem", "h-key.pem", "h-chain.pem"],
        ["fullchain.pem", "privkey.pem", "cert.pem", "chain.pem"],
        ["h/fullchain.pem", "h/privkey.pem"],
    ],
)
def test_only_certificate_of_the_folder_is_taken_where_none_is_named(tmp_path: Path, there: list[str]) -> None:
    touch(
        tmp_path,
        *there,
        "llamaherd-ca.pem",
        "llamaherd-ca-key.pem",
        "bob-client.pem",
        "bob-client-key.pem",
        "README.md",
    )
    found = find(TlsSettings(folder=tmp_path, enabled=True))
    assert (found.certificate, found.private_key) == (tmp_path / there[0], tmp_path / there[1])


def test_several_certificates_are_listed_where_none_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a-crt.pem", "a-key.pem", "b/fullchain.pem", "b/privkey.pem")
    with pytest.raises(ConfigError, match=r"several certificates are in .*: a, b\. Set tls\.host"):
        find(TlsSettings(folder=tmp_path, enabled=True))


@pytest.mark.parametrize("there", [[], ["h-key.pem"], ["h-crt.pem"], ["h/privkey.pem"]])
def test_no_certificate_where_none_is_named_says_what_was_looked_for(tmp_path: Path, there: list[str]) -> None:
    touch(tmp_path, *there)
    with pytest.raises(ConfigError, match=r"no certificate is in .*<host>-crt\.pem.*privkey\.pem"):
        find(TlsSettings(folder=tmp_path / "gone" if not there else tmp_path, enabled=True))


@pytest.mark.parametrize("settings", [{"host": "h"}, {"enabled": True}])
def test_closed_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]) -> None:
    def closed(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", closed)  # root may enter every folder
    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(ConfigError, match=r"Permission denied"):
        find(TlsSettings.model_validate({"folder": tmp_path, **settings}))


@pytest.mark.parametrize("text", [b"secret", b"secret\n", b"secret\r\n"])
def test_line_end_is_no_part_of_the_passphrase(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "pass").write_bytes(text)
    assert passphrase(TlsSettings(enabled=True, passphrase_file=tmp_path / "pass")) == b"secret"


def test_passphrase_goes_before_its_file(tmp_path: Path) -> None:
    settings = TlsSettings(enabled=True, passphrase=SecretStr("set"), passphrase_file=tmp_path / "gone")
    assert passphrase(settings) == b"set"


def test_missing_passphrase_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone \(passphrase\): can't read: No such file"):
        passphrase(TlsSettings(enabled=True, passphrase_file=tmp_path / "gone"))


def test_empty_passphrase_is_none(tmp_path: Path) -> None:
    assert passphrase(TlsSettings(enabled=True, passphrase=SecretStr(""))) is None


@pytest.mark.parametrize(("mode", "is_open"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_file_is_open_where_everyone_may_use_it(tmp_path: Path, mode: int, is_open: bool) -> None:
    path = tmp_path / "key.pem"
    path.touch()
    path.chmod(mode)
    assert open_to_others(path) is is_open


def test_version_changes_when_a_link_points_elsewhere(tmp_path: Path) -> None:
    touch(tmp_path, "privkey1.pem", "privkey2.pem")
    (tmp_path / "privkey.pem").symlink_to("privkey1.pem")
    files = Files(tmp_path / "privkey.pem", tmp_path / "gone.pem")
    before = versions(files)
    (tmp_path / "privkey.pem").unlink()
    (tmp_path / "privkey.pem").symlink_to("privkey2.pem")
    assert versions(files) != before
    assert versions(files)[1] is None
