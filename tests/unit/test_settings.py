"""Settings: typed, strict, overridable."""

from dataclasses import replace
from pathlib import Path

import pytest

from inference.grading import GradingRule
from node.answering import ct_settings
from node.settings import ConfigurationError, Destination, load_settings


def test_defaults_are_safe() -> None:
    settings = load_settings()
    assert settings.receive.host == "127.0.0.1"
    assert settings.receive.require_called_ae_title
    assert settings.destinations == ()
    assert settings.study.quiet_s == 60


def test_default_file_says_what_the_program_does_anyway() -> None:
    shipped = Path(__file__).resolve().parents[2] / "config" / "default.yaml"
    assert load_settings(shipped) == load_settings()


def test_the_example_site_can_be_used() -> None:
    example = Path(__file__).resolve().parents[2] / "config" / "hospital.example.yaml"
    assert [destination.name for destination in load_settings(example).destinations] == ["pacs", "reading-room"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("receive: {prot: 11112}", "receive.prot"),
        ("receive: {port: 70000}", "receive.port"),
        ("receive: {ae_title: 'much too long a title'}", "receive.ae_title"),
        (
            "destinations: [{name: a, host: h, port: 1, ae_title: X}, {name: a, host: h, port: 1, ae_title: Y}]",
            "same name",
        ),
        ("screening: {flag_loss: 0.1}", "screening.flag_loss"),
        ("screening: {flag_loss: 0.225}", "screening.flag_loss"),
        ("destinations: [{name: a, host: h, port: 1, ae_title: X, kinds: [reports]}]", "destinations.0.kinds.0"),
        ("destinations: [{name: a, host: h, port: 1, ae_title: X, commitment: maybe}]", "destinations.0.commitment"),
        ("deliver: {report_patience_s: []}", "deliver.report_patience_s"),
        ("deliver: {backoff_s: []}", "deliver.backoff_s"),
        ("deliver: {backoff_s: [5, 0]}", "deliver.backoff_s.1"),
        ("deliver: {backoff_s: [.inf]}", "deliver.backoff_s.0"),
        ("study: {spine_expected_patterns: ['spine', 'LWS (']}", "study.spine_expected_patterns: Value error, 'LWS"),
        ("[1, 2]", "mapping"),
        ("receive: [", "YAML"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=named.replace(".", r"\.")):
        load_settings(path)


def test_a_data_dir_must_leave_room_for_the_private_databases_socket() -> None:
    room = 107 - len("/postgres/.s.PGSQL.5432")
    fits, too_long = (Path("/" + "d" * (length - 1)) for length in (room, room + 1))
    assert load_settings(data_dir=fits).data_dir == fits
    with pytest.raises(ConfigurationError, match="1 bytes too long"):
        load_settings(data_dir=too_long)
    assert load_settings(data_dir=too_long, database_dsn="postgresql://db/spine").data_dir == too_long


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml"):
        load_settings(tmp_path / "none.yaml")


def test_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("receive: {port: 104, ae_title: FILE}", encoding="utf-8")
    monkeypatch.setenv("SPINE_NODE_RECEIVE__PORT", "11999")
    settings = load_settings(path)
    assert (settings.receive.port, settings.receive.ae_title) == (11999, "FILE")


def test_configuration_digest_follows_what_can_change_an_answer() -> None:
    same = load_settings(receive={"port": 4242}, study={"quiet_s": 5}).configuration_sha256
    other = load_settings(screening={"flag_loss": 0.20}).configuration_sha256
    assert same == load_settings().configuration_sha256 != other


def test_a_site_chooses_the_cut_off_of_the_flag_and_of_nothing_else() -> None:
    rule = ct_settings(load_settings(screening={"flag_loss": 0.20})).screening.rule
    assert rule == replace(GradingRule(), flag_loss=0.20)


def test_expected_bodies_are_sent_only_where_they_are_named() -> None:
    everything = Destination(name="a", host="h", port=1, ae_title="A")
    named = Destination(name="b", host="h", port=1, ae_title="B", kinds=("capture", "expected"))
    assert [everything.takes(kind) for kind in ("capture", "bodies", "expected")] == [True, True, False]
    assert [named.takes(kind) for kind in ("capture", "bodies", "expected")] == [True, False, True]


def test_a_report_is_never_sent_without_the_reformat_its_lines_lie_on() -> None:
    reader = Destination(name="a", host="h", port=1, ae_title="A", kinds=("capture", "report"))
    assert [reader.takes(kind) for kind in ("capture", "report", "reformat", "details")] == [True, True, True, False]


def test_a_cut_off_beyond_severe_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINE_NODE_SCREENING__FLAG_LOSS", "0.45")
    with pytest.raises(ConfigurationError, match="flag_loss"):
        load_settings()
