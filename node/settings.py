"""The configuration: one typed model per section, read from one YAML file, each value overridable by environment.

``SPINE_NODE_RECEIVE__PORT=11113`` sets ``receive.port``. Unknown keys are errors: a misspelt threshold must not be
silently ignored. ``config/default.yaml`` is the commented default and works as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

AETitle = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[ -\[\]-~]+$")
]
"""PS3.5 6.2 AE: at most 16 characters of the default repertoire, no backslash, not only spaces."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


Kind = Literal["reformat", "capture", "segmentation", "bodies", "expected", "report", "details", "film_segmentation"]
ON_REQUEST: tuple[Kind, ...] = ("expected", "film_segmentation")
"""Kinds that a destination gets only where it names them."""
"""Kinds of result (node.results)."""
Role = Literal["receive", "evaluate", "deliver"]
"""What a process of the node does (node.role)."""
Pause = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LONGEST_SOCKET_PATH = 107
"""Bytes that Linux has for the path of a Unix socket (unix(7): 108 with the closing zero)."""


class ConfigurationError(Exception):
    """The configuration cannot be used; the message says which value and why."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyPair(_Section):
    """Our certificate (PEM, intermediate ones behind it) and its key. Secrets are named by file, never written here."""

    certificate: Path
    key: Path
    key_password_file: Path | None = None
    """Holds the password of an encrypted key; none: the key is not encrypted."""


class ListenerTls(KeyPair):
    """TLS 1.2 or newer on a listener (PS3.15 B.12); the peer shows a certificate, too, unless that is switched off."""

    client_authorities: Path | None = None
    """PEM of the authorities whose certificates are let in."""
    require_client_certificate: bool = True
    crl_file: Path | None = None
    """PEM of the authorities' revocation lists: what is on them is not let in; once out of date, nobody is."""

    @model_validator(mode="after")
    def _somebody_vouches_for_clients(self) -> ListenerTls:
        if self.require_client_certificate and self.client_authorities is None:
            raise ValueError("client_authorities is missing: the authorities whose certificates are let in")
        if self.crl_file is not None and self.client_authorities is None:
            raise ValueError("crl_file says nothing without client_authorities: no certificate is looked at")
        return self


class DestinationTls(_Section):
    """TLS 1.2 or newer towards a destination; its certificate is always checked."""

    authorities: Path
    """PEM of the authorities that vouch for the destination."""
    own: KeyPair | None = None
    """What we show where the destination asks for a certificate."""
    server_name: str | None = None
    """Name in the destination's certificate, where that is not the host's."""
    crl_file: Path | None = None
    """PEM of the authorities' revocation lists; to a destination whose certificate is on them nothing is sent."""


class Entrance(_Section):
    """One listening address and who is let in there. Loopback unless a site says otherwise."""

    host: str = "127.0.0.1"
    port: int = Field(11112, ge=0, le=65535)
    ae_title: AETitle = "SPINENODE"
    require_called_ae_title: bool = True
    calling_ae_titles: tuple[AETitle, ...] = ()
    """Who may send; empty: everybody."""
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """From where (10.1.2.0/24, 10.1.2.7); empty: from everywhere."""
    tls: ListenerTls | None = None


class Receive(Entrance):
    """The Storage SCP: its first entrance, further ones, and the limits that hold for all of them together."""

    listeners: tuple[Entrance, ...] = ()
    """Further entrances, for instance one with TLS beside a plain one."""
    max_associations: int = Field(50, ge=1, le=500)
    """Of all entrances together; the next one is rejected as passing (local limit exceeded)."""
    max_associations_per_host: int | None = Field(None, ge=1, le=500)
    """Of these, how many one address may have, so that a sender gone wild leaves room for others; none: all of them."""
    network_timeout_s: float = Field(60.0, gt=0)
    """A peer that is silent for this long, or takes longer for one PDU, is disconnected."""
    max_pdu_bytes: int = Field(131072, ge=4096, le=1048576)
    free_space_reserve_mb: int = Field(2048, ge=0)
    """Below this much free space a C-STORE is answered 0xA700 (out of resources)."""
    max_instance_mb: int = Field(2048, ge=1)

    @property
    def entrances(self) -> tuple[Entrance, ...]:
        """All entrances, the first one first."""
        return (self, *self.listeners)

    @model_validator(mode="after")
    def _addresses_are_distinct(self) -> Receive:
        addresses = [(entrance.host, entrance.port) for entrance in self.entrances if entrance.port]
        if len(set(addresses)) != len(addresses):
            raise ValueError("two listeners have the same host and port")
        return self


class Study(_Section):
    """When a study is complete and which of its series is answered."""

    quiet_s: float = Field(60.0, ge=0)
    all_series: bool = False
    spine_expected_patterns: tuple[str, ...] = ()
    """Regular expressions over body part, study, series and protocol descriptions: here a spine is expected."""
    lateral_chest: bool = False
    """Whether lateral chest radiographs are analysed, too; those of the spine always are."""
    for_processing: bool = False
    """Whether a detector's own image is analysed, with a flag, where the one that is read did not come."""
    screening_age: float = Field(50.0, ge=18)
    """Younger patients are answered, and marked as outside the screening age."""

    @field_validator("spine_expected_patterns")
    @classmethod
    def _patterns_compile(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern, re.IGNORECASE)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        return value


class Screening(_Section):
    """Thresholds of the rule ``height-loss/1`` that a site may choose."""

    flag_loss: float = Field(0.25, ge=0.20, le=0.40)
    """The patient is flagged from this loss of height on (0.20 finds more, 0.25 falsely flags less).

    It moves the flag alone: mild, moderate and severe are the same at every site. In whole percents, as losses are
    printed: none that is printed below it flags.
    """

    @field_validator("flag_loss")
    @classmethod
    def _is_whole_percents(cls, value: float) -> float:
        if abs(100 * value - round(100 * value)) > 1e-9:
            raise ValueError("a loss is told in whole percents: .20, .21, ... .40")
        return value


class Models(_Section):
    """Networks and where they run."""

    folder: Path | None = None
    """None: the models shipped with the program."""
    provider: Literal["auto", "cuda", "cpu"] = "auto"
    threads: int = Field(0, ge=0)
    """Threads of one inference on the CPU; 0: one per core."""
    film_bodies: Literal["film", "film_mdr2unet"] = "film"
    """Whose map of vertebral bodies is measured on radiographs; the latter is the published method's own network."""


class Destination(_Section):
    """One place where results go."""

    name: Name
    host: str
    port: int = Field(ge=1, le=65535)
    ae_title: AETitle
    calling_ae_title: AETitle | None = None
    commitment: Literal["storage_commitment", "find", "none"] = "none"
    """What proves that it has what it accepted: its own word (N-ACTION, N-EVENT-REPORT), a query, or nothing."""
    patient_check: bool = False
    """Ask it before sending whether the study is still that of the same patient."""
    kinds: tuple[Kind, ...] = ()
    """Kinds of object it takes, for instance [capture, report]; empty: all but those on request."""
    timeout_s: float = Field(30.0, gt=0)
    tls: DestinationTls | None = None

    def takes(self, kind: str) -> bool:
        """Whether objects of this kind are sent there.

        A report is never sent without the reformat that its lines lie on: viewers would show it black.
        """
        if not self.kinds:
            return kind not in ON_REQUEST
        return kind in self.kinds or (kind == "reformat" and "report" in self.kinds)


class Deliver(_Section):
    """Retry of what could not be delivered."""

    backoff_s: tuple[Pause, ...] = Field((5, 15, 60, 300, 900, 1800), min_length=1)
    """Pauses before the next try; the last one repeats."""
    give_up_after_s: float = Field(7 * 24 * 3600, gt=0)
    """A passing error (PACS down) is retried for this long, then parked."""
    tries_of_unclear_failures: int = Field(3, ge=1)
    """0xC000, 0x0110 and unknown codes: this many tries, then parked."""
    report_wait_s: float = Field(5.0, ge=0)
    """How long an association is kept open for a storage commitment's report; it may come over one of its own later."""
    report_patience_s: tuple[Pause, ...] = Field((300, 3600, 21600, 86400, 86400), min_length=1)
    """A proof that does not come is asked for again after these pauses; after the last one a query decides."""
    most_resent: int = Field(3, ge=1)
    """An object that a destination accepts and does not keep this often is parked."""
    reject_superseded: bool = False
    """Whether a rejection note (IHE IOCM) takes back the former revision once the new one is there."""


class Retention(_Section):
    """How long images stay. What is undelivered is never deleted."""

    answered_hours: float = Field(72.0, ge=0)
    not_eligible_hours: float = Field(24.0, ge=0)
    quarantine_days: float = Field(30.0, ge=0)
    """Torn and altered files of the spool are kept so long after they were set aside."""
    ledger_days: float = Field(365.0, gt=0)
    """The ledger forgets patient ID and UIDs of what was received so long after a study's last image."""


class Work(_Section):
    """The workers."""

    max_attempts: int = Field(3, ge=1)
    """A study whose evaluation, or a delivery whose sending, kills its process this often is parked; never at the first
    death, which may be a neighbour's: after it a study is alone in its process, and so is a delivery."""
    stalled_after_s: float = Field(30.0, ge=2.0)
    """A worker without a heartbeat for this long is dead; its work is taken over."""
    drain_s: float = Field(30.0, ge=0)
    """At SIGTERM what runs may end within this time; the rest is handed back to the next process, uncounted."""
    studies_at_once: int = Field(2, ge=1, le=16)
    """One is analysed while others are read or encoded; each of them holds its images in memory."""
    decoding_processes: int = Field(0, ge=0, le=64)
    """How many decode compressed images where there are many; 0: one per core, at most 8; 1: none but the worker."""


class Metrics(_Section):
    """What a monitoring system reads by HTTP: metrics, health, readiness. Numbers only, but to whoever asks."""

    address: str = "127.0.0.1"
    port: int | None = Field(None, ge=0, le=65535)
    """None: nothing is listened on."""
    ledger_period_s: float = Field(10.0, ge=0)
    """The ledger is asked at most this often, however often somebody scrapes."""


class Settings(BaseSettings):
    """Everything a site can choose."""

    model_config = SettingsConfigDict(
        env_prefix="SPINE_NODE_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    site: Name = "default"
    data_dir: Path = Path("~/.spine-node")
    """Spool, outbox and the private database. Readable by the node's user only."""
    database_dsn: str | None = None
    """None: the node starts its own private PostgreSQL under data_dir."""
    storage_dir: Path | None = None
    """Spool and outbox, where several machines share them under one DSN; None: they are under data_dir."""
    roles: tuple[Role, ...] = Field(("receive", "evaluate", "deliver"), min_length=1)
    """What this machine does; what it does not do, another one with the same DSN and storage must."""
    receive: Receive = Receive()
    study: Study = Study()
    screening: Screening = Screening()
    models: Models = Models()
    destinations: tuple[Destination, ...] = ()
    deliver: Deliver = Deliver()
    retention: Retention = Retention()
    work: Work = Work()
    metrics: Metrics = Metrics()

    @field_validator("data_dir", "storage_dir")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().resolve()

    @model_validator(mode="after")
    def _a_machine_among_several_has_their_ledger(self) -> Settings:
        if self.database_dsn is None and self.storage_dir is not None:
            raise ValueError("storage_dir is for several machines and needs database_dsn: they share one ledger")
        if self.database_dsn is None and len(set(self.roles)) < len(Settings.model_fields["roles"].default):
            raise ValueError("a machine that does not do everything needs database_dsn: others must see its ledger")
        return self

    @model_validator(mode="after")
    def _destinations_are_distinct(self) -> Settings:
        names = [d.name for d in self.destinations]
        if len(set(names)) != len(names):
            raise ValueError("two destinations have the same name")
        return self

    @model_validator(mode="after")
    def _private_socket_fits(self) -> Settings:
        socket = self.data_dir / "postgres" / ".s.PGSQL.5432"
        length = len(os.fsencode(socket))
        if self.database_dsn is None and length > LONGEST_SOCKET_PATH:
            raise ValueError(
                f"data_dir {self.data_dir} is {length - LONGEST_SOCKET_PATH} bytes too long for the private database's "
                f"socket in it ({LONGEST_SOCKET_PATH} bytes at most): choose a shorter one, or set database_dsn"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before file: a container overrides what its image brings."""
        return (env_settings, init_settings)

    @property
    def spool_dir(self) -> Path:
        """Where acknowledged instances lie."""
        return (self.storage_dir or self.data_dir) / "spool"

    @property
    def outbox_dir(self) -> Path:
        """Where built results lie; the same bytes are sent on every retry."""
        return (self.storage_dir or self.data_dir) / "outbox"

    @property
    def configuration_sha256(self) -> str:
        """Digest of the sections that can change an answer; ports and destinations cannot."""
        relevant: dict[str, Any] = {
            "study": self.study.model_dump(mode="json"),
            "screening": self.screening.model_dump(mode="json"),
        }
        relevant["study"].pop("quiet_s")  # when, not what
        canonical = json.dumps(relevant, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def load_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Settings from a YAML file (or SPINE_NODE_CONFIG, or none), environment and overrides.

    Raises
    ------
    ConfigurationError
        The file is missing, is no YAML mapping, or a value is wrong; the message names the key.
    """
    if path is None and (named := os.environ.get("SPINE_NODE_CONFIG")):
        path = Path(named)
    content: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"cannot read the configuration {path}: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise ConfigurationError(f"{path} is not valid YAML: {error}") from error
        if not isinstance(loaded, dict | None):
            raise ConfigurationError(f"{path} must hold sections (a mapping), not a {type(loaded).__name__}")
        content = loaded or {}
    try:
        return Settings(**{**content, **overrides})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in e['loc']) or 'configuration'}: {e['msg']}" for e in error.errors()
        )
        raise ConfigurationError(f"{path or 'environment'}: {problems}") from error
