"""Certificates that their authority has taken back: of a sender, and of a destination."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from node.deliver.association import UnreachableError
from node.settings import ConfigurationError
from node.tls import destination_context, listener_context
from tests.conftest import wait_until
from tests.listening import Certificates, listening

AUTHORITY = """
[ca]
default_ca = authority
[authority]
database = {folder}/index.txt
crlnumber = {folder}/crlnumber
default_md = sha256
"""


class Authority:
    """An authority that takes certificates back (by ``openssl ca``); its files are copies of this test's own."""

    def __init__(self, folder: Path, made: Certificates) -> None:
        shutil.copytree(made.folder, folder)
        self.certificates = Certificates(folder)
        self.crl_file = folder / "crl.pem"
        self._folder = folder
        (folder / "index.txt").touch()
        (folder / "crlnumber").write_text("01\n", encoding="ascii")
        (folder / "authority.cnf").write_text(AUTHORITY.format(folder=folder), encoding="ascii")
        self.publish()

    def revoke(self, name: str) -> None:
        """Take a certificate back, and publish."""
        self._openssl("-revoke", str(self._folder / f"{name}.pem"))
        self.publish()

    def publish(self, *lifetime: str) -> None:
        """Write the list of today."""
        self._openssl("-gencrl", *(lifetime or ("-crldays", "2")), "-out", str(self.crl_file))

    def _openssl(self, *what: str) -> None:
        signer = ["-cert", str(self._folder / "ca.pem"), "-keyfile", str(self._folder / "ca.key")]
        command = ["openssl", "ca", "-config", str(self._folder / "authority.cnf"), *signer, *what]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def authority(tmp_path: Path, certificates: Certificates) -> Authority:
    return Authority(tmp_path / "authority", certificates)


def test_a_sender_whose_certificate_is_revoked_is_not_let_in_any_more(tmp_path: Path, authority: Authority) -> None:
    made = authority.certificates
    made.make("spare")
    tls = made.listener(crl_file=authority.crl_file)
    with listening(tmp_path, tls=tls) as ear:
        ear.echo(tls=made.destination())
        ear.echo(tls=made.destination(own="spare"))
        authority.revoke("scanner")
        ear.listener.reload(ear.listener._settings)  # what SIGHUP does
        with pytest.raises(UnreachableError):
            ear.echo(tls=made.destination(), timeout_s=5)
        wait_until(lambda: ear.told("tls_refused") != [], what="the event")
        ear.echo(tls=made.destination(own="spare"))


def test_a_list_that_is_replaced_is_taken_up_by_itself(tmp_path: Path, authority: Authority) -> None:
    made = authority.certificates
    with listening(tmp_path, tls=made.listener(crl_file=authority.crl_file)) as ear:
        ear.echo(tls=made.destination())
        authority.revoke("scanner")
        ear.listener.renew_certificates()
        with pytest.raises(UnreachableError):
            ear.echo(tls=made.destination(), timeout_s=5)


def test_with_a_list_that_is_out_of_date_nobody_is_let_in(tmp_path: Path, authority: Authority) -> None:
    made = authority.certificates
    authority.publish("-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200102000000Z")
    with listening(tmp_path, tls=made.listener(crl_file=authority.crl_file)) as ear:
        with pytest.raises(UnreachableError):
            ear.echo(tls=made.destination(), timeout_s=5)
        wait_until(lambda: ear.told("tls_refused") != [], what="the event")


def test_to_a_destination_whose_certificate_is_revoked_nothing_is_sent(tmp_path: Path, authority: Authority) -> None:
    made = authority.certificates
    checked = made.destination(crl_file=authority.crl_file)
    with listening(tmp_path, tls=made.listener()) as ear:
        ear.echo(tls=checked)
        authority.revoke("node")
        with pytest.raises(UnreachableError, match="revoked"):
            ear.echo(tls=checked)


def test_what_is_no_list_is_named_at_start(tmp_path: Path, certificates: Certificates) -> None:
    for name, content in {"empty.pem": "", "no-list.pem": (certificates.folder / "ca.pem").read_text()}.items():
        path = tmp_path / name
        path.write_text(content, encoding="ascii")
        with pytest.raises(ConfigurationError, match=f"{name} holds no revocation list"):
            listener_context(certificates.listener(crl_file=path))
        with pytest.raises(ConfigurationError, match=f"{name} holds no revocation list"):
            destination_context(certificates.destination(crl_file=path))
    with pytest.raises(ConfigurationError, match=r"cannot read .*none\.pem"):
        listener_context(certificates.listener(crl_file=tmp_path / "none.pem"))
