"""TLS contexts after BCP 195 (RFC 9325; PS3.15 B.12): 1.2 or newer, forward secrecy, authenticated encryption.

There is no fallback to anything older, and none to plain: an address speaks TLS or it does not (non-downgrading).
Certificates and keys are read from the files that the configuration names whenever a context is made.
"""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

from node.settings import ConfigurationError, DestinationTls, KeyPair, ListenerTls

TLS_1_2_CIPHERS = "ECDHE+AESGCM"
"""RFC 9325 section 4.2. The suites of TLS 1.3 are OpenSSL's, of which each one fits."""


def listener_context(tls: ListenerTls) -> ssl.SSLContext:
    """What a listener shakes hands with.

    Raises
    ------
    ConfigurationError
        A file is missing, is no certificate or key, or does not fit the others; a key that others can read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    _show(context, tls)
    if tls.client_authorities is not None:
        _trust(context, tls.client_authorities)
        context.verify_mode = ssl.CERT_REQUIRED if tls.require_client_certificate else ssl.CERT_OPTIONAL
    if tls.crl_file is not None:
        _heed_revocations(context, tls.crl_file)
    return context


def destination_context(tls: DestinationTls) -> ssl.SSLContext:
    """What a sender shakes hands with. The destination's certificate and name are always checked.

    Raises
    ------
    ConfigurationError
        As for `listener_context`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _restrict(context)
    _trust(context, tls.authorities)
    if tls.crl_file is not None:
        _heed_revocations(context, tls.crl_file)
    if tls.own is not None:
        _show(context, tls.own)
    return context


def files_of(tls: ListenerTls) -> list[Path]:
    """Files that a listener's context is made of."""
    named = (tls.certificate, tls.key, tls.key_password_file, tls.client_authorities, tls.crl_file)
    return [path.expanduser() for path in named if path is not None]


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS_1_2_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION


def _show(context: ssl.SSLContext, pair: KeyPair) -> None:
    certificate, key = pair.certificate.expanduser(), pair.key.expanduser()
    password = _password(pair.key_password_file) if pair.key_password_file is not None else None
    _refuse_if_others_read(key)
    _readable(certificate)
    try:
        # without a password OpenSSL would ask for one on the terminal: an empty one makes it fail instead
        context.load_cert_chain(certificate, key, password or "")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "the key is encrypted with another password, or none is given"
        raise ConfigurationError(f"{certificate} and {key} cannot be used as certificate and key: {reason}") from error


def _trust(context: ssl.SSLContext, authorities: Path) -> None:
    path = authorities.expanduser()
    _readable(path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigurationError(f"{path} holds no certificate of an authority (PEM): {error.reason}") from error


def _heed_revocations(context: ssl.SSLContext, revocations: Path) -> None:
    """Have the peer's own certificate looked up in the list of its issuer (RFC 5280 6.3).

    It fails closed: without a list of that issuer, or with one that is out of date, no certificate is good.
    """
    path = revocations.expanduser()
    _readable(path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigurationError(f"{path} holds no revocation list (PEM): {error.reason}") from error
    if not context.cert_store_stats()["crl"]:
        raise ConfigurationError(f"{path} holds no revocation list (PEM)")
    context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


def _password(path: Path) -> str:
    path = path.expanduser()
    _refuse_if_others_read(path)
    return path.read_text(encoding="utf-8").rstrip("\r\n")


def _refuse_if_others_read(path: Path) -> None:
    _readable(path)
    if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ConfigurationError(f"{path} is a secret that every user of this machine can read: chmod o-rwx {path}")


def _readable(path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
