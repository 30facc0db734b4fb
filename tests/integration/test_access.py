"""Who is let in, by network, title and certificate; with DCMTK at the other end where it is installed."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from node.deliver.association import UnreachableError
from node.deliver.sender import echo
from node.deliver.status import Verdict
from node.settings import ConfigurationError, Receive
from node.tls import destination_context, listener_context
from tests import peer
from tests.conftest import wait_until
from tests.dicom import write_series
from tests.listening import Certificates, Ear, listening
from tests.peer import Peer


@pytest.mark.parametrize(
    ("asked", "answer", "reason"),
    [
        ({"called": "OTHER"}, (1, 1, 7), "called AE title is not ours"),
        ({"called": "spinenode"}, (1, 1, 7), "called AE title is not ours"),
        ({"calling": "STRANGER"}, (1, 1, 3), "calling AE title is not on the list"),
        ({"called": "OTHER", "calling": "STRANGER"}, (1, 1, 7), "called AE title is not ours"),
    ],
)
def test_who_is_not_on_the_list_is_told_why_and_the_ledger_knows(
    tmp_path: Path, asked: dict[str, str], answer: tuple[int, int, int], reason: str
) -> None:
    with listening(tmp_path, calling_ae_titles=["SCANNER", "CT 2"]) as ear:
        with Peer(ear.port) as stranger:
            assert stranger.ask(peer.request(**asked)).rejection == answer  # type: ignore[arg-type]
            assert stranger.read().kind == 0, "and is hung up on"
        assert ear.told("association_rejected") == [
            {"called_ae_title": asked.get("called", "SPINENODE"), "reason": reason, "from": "127.0.0.1"}
        ]
        with Peer(ear.port) as known:
            known.associate(calling="CT 2")


@pytest.mark.parametrize(
    ("networks", "let_in"),
    [
        ([], True),
        (["127.0.0.0/8"], True),
        (["10.0.0.0/8", "127.0.0.1"], True),
        (["10.0.0.0/8"], False),
        (["127.0.0.2/32", "::1"], False),
    ],
)
def test_networks(tmp_path: Path, networks: list[str], let_in: bool) -> None:
    with listening(tmp_path, networks=networks) as ear, Peer(ear.port) as caller:
        answer = caller.ask(peer.request())
        if let_in:
            assert answer.kind == peer.ACCEPTED
        else:
            assert answer.rejection == (1, 1, 1)
            assert [e["reason"] for e in ear.told("association_rejected")] == ["address is in none of the networks"]


def test_an_ipv4_sender_on_an_ipv6_socket_is_of_its_ipv4_network(tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with listening(tmp_path, host="::", networks=["127.0.0.0/8"]) as ear, Peer(ear.port) as caller:
        caller.associate()


def test_each_entrance_has_its_own_rules(tmp_path: Path) -> None:
    more = [{"port": 0, "ae_title": "SECOND", "calling_ae_titles": ["CT2"]}]
    with listening(tmp_path, calling_ae_titles=["CT1"], listeners=more) as ear:
        first, second = ear.listener.ports
        for port, called, calling, granted in [
            (first, "SPINENODE", "CT1", True),
            (first, "SPINENODE", "CT2", False),
            (first, "SECOND", "CT1", False),
            (second, "SECOND", "CT2", True),
            (second, "SECOND", "CT1", False),
        ]:
            with Peer(port) as caller:
                answer = caller.ask(peer.request(called=called, calling=calling))
                assert (answer.kind == peer.ACCEPTED) == granted, (port, called, calling)


def test_the_listener_is_bound_to_what_the_configuration_names(tmp_path: Path) -> None:
    with listening(tmp_path) as ear:
        assert ear.listener._open[0].opening.socket.getsockname()[0] == "127.0.0.1"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", ear.port), timeout=5)


def test_an_address_in_use_leaves_nothing_open(tmp_path: Path) -> None:
    with listening(tmp_path) as ear:
        busy = Ear(tmp_path / "second", Receive(port=0, listeners=({"port": ear.port},)))  # type: ignore[arg-type]
        with pytest.raises(OSError, match=r"."):
            busy.listener.start()
        assert busy.listener.ports == []


def test_tls_with_certificates_of_both_sides(tmp_path: Path, certificates: Certificates) -> None:
    with listening(tmp_path, tls=certificates.listener()) as ear:
        replies = ear.send(write_series(tmp_path / "in", 3), tls=certificates.destination())
        assert [reply.verdict for reply in replies] == [Verdict.STORED] * 3


@pytest.mark.parametrize("own", [None, "stranger"])
def test_a_sender_without_a_certificate_of_ours_is_not_let_in(
    tmp_path: Path, certificates: Certificates, own: str | None
) -> None:
    with listening(tmp_path, tls=certificates.listener()) as ear:
        with pytest.raises(UnreachableError):
            ear.echo(tls=certificates.destination(own=own), timeout_s=5)
        wait_until(lambda: ear.told("tls_refused") != [], what="the event")
        ear.echo(tls=certificates.destination())


def test_a_certificate_may_be_made_optional_by_the_site(tmp_path: Path, certificates: Certificates) -> None:
    tls = certificates.listener(require_client_certificate=False, client_authorities=None)
    with listening(tmp_path, tls=tls) as ear:
        ear.echo(tls=certificates.destination(own=None))


def test_a_destination_with_another_certificate_gets_nothing(tmp_path: Path, certificates: Certificates) -> None:
    with listening(tmp_path, tls=certificates.listener()) as ear:
        with pytest.raises(UnreachableError, match=r"self-signed certificate|unable to get local issuer certificate"):
            ear.echo(tls=certificates.destination(authority="other"))
        with pytest.raises(UnreachableError, match="match"):
            ear.echo(tls=certificates.destination(server_name="pacs.example"))
        ear.echo(tls=certificates.destination(server_name="localhost"))


def test_a_plain_destination_is_not_fallen_back_to(tmp_path: Path, certificates: Certificates) -> None:
    with listening(tmp_path) as ear:
        with pytest.raises(UnreachableError, match="no TLS with"):
            ear.echo(tls=certificates.destination(), timeout_s=5)
        assert ear.told("no_dicom")[0]["reason"] == "TLS where none is spoken"


def test_nothing_older_than_tls_1_2_and_nothing_without_forward_secrecy(
    tmp_path: Path, certificates: Certificates
) -> None:
    for context in (listener_context(certificates.listener()), destination_context(certificates.destination())):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert {c["name"] for c in context.get_ciphers()} == {
            "TLS_AES_256_GCM_SHA384",
            "TLS_CHACHA20_POLY1305_SHA256",
            "TLS_AES_128_GCM_SHA256",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-RSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-RSA-AES128-GCM-SHA256",
        }
    with listening(tmp_path, tls=certificates.listener()) as ear:
        for ciphers, version in (("AES128-SHA:@SECLEVEL=0", None), ("ALL:@SECLEVEL=0", ssl.TLSVersion.TLSv1_1)):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_ciphers(ciphers)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            if version is not None:
                with pytest.warns(DeprecationWarning):
                    context.minimum_version = version
                with pytest.warns(DeprecationWarning):
                    context.maximum_version = version
            with (
                socket.create_connection(("127.0.0.1", ear.port), timeout=20) as plain,
                pytest.raises(ssl.SSLError),
            ):
                context.wrap_socket(plain)


def test_tls_1_2_is_enough(tmp_path: Path, certificates: Certificates) -> None:
    with listening(tmp_path, tls=certificates.listener()) as ear:
        context = destination_context(certificates.destination())
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        plain = socket.create_connection(("127.0.0.1", ear.port), timeout=20)
        with Peer(0, connection=context.wrap_socket(plain, server_hostname="127.0.0.1")) as sender:
            sender.associate()
            assert sender.ask(peer.ECHO).status == 0


def test_secrets_are_in_files_that_others_cannot_read(tmp_path: Path, certificates: Certificates) -> None:
    made = Certificates(tmp_path)
    for name in ("ca.pem", "ca.key"):
        (tmp_path / name).write_bytes((certificates.folder / name).read_bytes())
    made.make("locked", password="geheim")
    password = tmp_path / "password"
    password.write_text("geheim\n", encoding="utf-8")
    password.chmod(0o600)
    assert listener_context(made.listener("locked", key_password_file=password))
    for wrong in (None, tmp_path / "ca.pem"):
        if wrong is not None:
            wrong.chmod(0o600)
        with pytest.raises(ConfigurationError, match="cannot be used as certificate and key") as caught:
            listener_context(made.listener("locked", key_password_file=wrong))
        assert "geheim" not in str(caught.value)
    password.chmod(0o604)
    with pytest.raises(ConfigurationError, match="every user of this machine can read"):
        listener_context(made.listener("locked", key_password_file=password))
    (tmp_path / "locked.key").chmod(0o644)
    with pytest.raises(ConfigurationError, match="every user of this machine can read"):
        listener_context(made.listener("locked", key_password_file=password))
    with pytest.raises(ConfigurationError, match=r"cannot read .*none\.key"):
        listener_context(made.listener("none"))
    (tmp_path / "empty.pem").touch()
    with pytest.raises(ConfigurationError, match="holds no certificate of an authority"):
        destination_context(made.destination(own=None, authority="empty"))


def test_rules_and_certificates_are_reloaded_while_an_association_is_open(
    tmp_path: Path, certificates: Certificates
) -> None:
    made = Certificates(tmp_path)
    for name in ("ca.pem", "ca.key", "other.pem", "other.key"):
        (tmp_path / name).write_bytes((certificates.folder / name).read_bytes())
    made.make("node")
    settings = Receive(port=0, tls=made.listener())
    with listening(tmp_path, **settings.model_dump()) as ear:
        settings = ear.listener._settings
        context = destination_context(certificates.destination())
        plain = socket.create_connection(("127.0.0.1", ear.port), timeout=20)
        with Peer(0, connection=context.wrap_socket(plain, server_hostname="127.0.0.1")) as guest:
            guest.associate()
            ear.listener.reload(settings.model_copy(update={"calling_ae_titles": ("CT9",), "ae_title": "RENAMED"}))
            assert guest.ask(peer.ECHO).status == 0, "who is in, stays"
            with pytest.raises(UnreachableError, match="rejected"):
                ear.echo(tls=certificates.destination())
            ear.echo(tls=certificates.destination(), called_ae="RENAMED", calling_ae="CT9")
            made.make("node", "other")  # of another authority from now on
            ear.listener.renew_certificates()
            assert guest.ask(peer.ECHO).status == 0
        with pytest.raises(UnreachableError, match="no TLS with"):
            ear.echo(tls=certificates.destination(), called_ae="RENAMED", calling_ae="CT9")
        ear.echo(tls=certificates.destination(authority="other"), called_ae="RENAMED", calling_ae="CT9")
        (tmp_path / "node.pem").write_text("half of a file", encoding="utf-8")
        ear.listener.renew_certificates()
        ear.echo(tls=certificates.destination(authority="other"), called_ae="RENAMED", calling_ae="CT9")
        with pytest.raises(ConfigurationError, match="need a restart"):
            ear.listener.reload(settings.model_copy(update={"port": ear.port + 1}))


@pytest.mark.debian
@pytest.mark.parametrize("profile", ["--profile-bcp195-nd", "--profile-bcp195", "--profile-bcp195-ex"])
def test_dcmtk_sends_over_tls(
    tmp_path: Path, program: Callable[[str], str], certificates: Certificates, profile: str
) -> None:
    paths = write_series(tmp_path / "in", 2)
    with listening(tmp_path, tls=certificates.listener()) as ear:
        done = dcmtk_with_tls(program("storescu"), ear, certificates, "scanner", profile, *map(str, paths))
        assert done.returncode == 0, done.stderr
        assert len(ear.receptions) == 2


@pytest.mark.debian
def test_dcmtk_with_a_strange_certificate_is_not_let_in(
    tmp_path: Path, program: Callable[[str], str], certificates: Certificates
) -> None:
    with listening(tmp_path, tls=certificates.listener()) as ear:
        assert dcmtk_with_tls(program("echoscu"), ear, certificates, "stranger").returncode != 0
        wait_until(lambda: ear.told("tls_refused") != [], what="the event")
        assert dcmtk_with_tls(program("echoscu"), ear, certificates, "scanner").returncode == 0


@pytest.mark.debian
def test_dcmtk_hears_why_it_is_rejected(tmp_path: Path, program: Callable[[str], str]) -> None:
    with listening(tmp_path, calling_ae_titles=["SCANNER"]) as ear:
        for called, calling, heard in [
            ("OTHER", "SCANNER", "Called AE Title Not Recognized"),
            ("SPINENODE", "STRANGER", "Calling AE Title Not Recognized"),
        ]:
            command = [program("echoscu"), "-aec", called, "-aet", calling, "127.0.0.1", str(ear.port)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode != 0
            assert heard in done.stderr


@pytest.mark.debian
def test_we_send_to_dcmtk_over_tls(tmp_path: Path, program: Callable[[str], str], certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = certificates.folder
    tls = ["+tls", str(folder / "node.key"), str(folder / "node.pem"), "+cf", str(folder / "ca.pem")]
    server = subprocess.Popen([program("storescp"), "-od", str(tmp_path), *tls, str(port)])
    try:

        def answers() -> bool:
            try:
                echo("127.0.0.1", port, called_ae="X", calling_ae="Y", tls=certificates.destination(), timeout_s=5)
            except UnreachableError:
                return False
            return True

        wait_until(answers, 30, "storescp answers over TLS")
        with pytest.raises(UnreachableError):
            tls_of_strangers = certificates.destination(own="stranger")
            echo("127.0.0.1", port, called_ae="X", calling_ae="Y", tls=tls_of_strangers, timeout_s=5)
    finally:
        server.terminate()
        server.wait(20)


def dcmtk_with_tls(
    tool: str, ear: Ear, certificates: Certificates, own: str, *more: str
) -> subprocess.CompletedProcess[str]:
    """Run a DCMTK tool against a listener with TLS; ``more``: an option, then files."""
    folder = certificates.folder
    options = ["+tls", str(folder / f"{own}.key"), str(folder / f"{own}.pem"), "+cf", str(folder / "ca.pem")]
    options += ["-aec", "SPINENODE", *(part for part in more if part.startswith("--"))]
    files = [part for part in more if not part.startswith("--")]
    command = [tool, *options, "127.0.0.1", str(ear.port), *files]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
