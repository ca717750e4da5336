import ssl
from pathlib import Path

import pytest

from tidegate.errors import TidegateError
from tidegate.settings import load_settings, unknown_variables


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.upper().startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def _wrong(**arguments: object) -> TidegateError:
    with pytest.raises(TidegateError) as caught:
        load_settings(**arguments)
    return caught.value


def test_arguments_win_over_variables_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("tidegate.toml").write_text('partitions = 3\ngroup_id = "file"\ntopic_prefix = "file"\n')
    monkeypatch.setenv("TIDEGATE_PARTITIONS", "4")
    monkeypatch.setenv("TIDEGATE_GROUP_ID", "variable")
    settings = load_settings(partitions=5)
    assert (settings.partitions, settings.group_id, settings.topic_prefix) == (5, "variable", "file")
    origins = settings.origins()
    assert origins["partitions"] == "argument"
    assert origins["group_id"] == "TIDEGATE_GROUP_ID"
    assert origins["topic_prefix"] == "tidegate.toml"
    assert origins["replication_factor"] == "default"


def test_a_named_file_is_read_and_a_missing_one_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    monkeypatch.setenv("TIDEGATE_CONFIG", str(file))
    assert str(file) in _wrong().message
    file.write_text("partitions = 7")
    assert load_settings().partitions == 7


def test_an_unknown_key_in_the_file_is_an_error_that_names_it() -> None:
    Path("tidegate.toml").write_text("partition = 3")
    assert "partition (in tidegate.toml): there is no such setting" in _wrong().message


def test_a_file_that_is_not_toml_is_an_error_that_names_it() -> None:
    Path("tidegate.toml").write_text("partitions: 3")
    assert "tidegate.toml" in _wrong().message


def test_each_wrong_value_is_named_by_where_it_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("tidegate.toml").write_text("cycle_max_records = 0")
    monkeypatch.setenv("TIDEGATE_METRICS_PORT", "70000")
    message = _wrong(partitions="many").message
    assert "TIDEGATE_METRICS_PORT: Input should be less than or equal to 65535" in message
    assert "cycle_max_records (in tidegate.toml): Input should be greater than or equal to 1" in message
    assert "partitions: Input should be a valid integer" in message


def test_unknown_variables_are_told_but_not_those_kubernetes_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_PARTITION", "3")
    monkeypatch.setenv("TIDEGATE_PARTITIONS", "3")
    monkeypatch.setenv("TIDEGATE_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("TIDEGATE_PORT_9464_TCP_PORT", "9464")
    assert unknown_variables() == ["TIDEGATE_PARTITION"]


def test_an_empty_variable_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_INSTANCE_ID", "")
    settings = load_settings()
    assert settings.instance_id is None
    assert settings.origins()["instance_id"] == "default"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"heartbeat_interval_seconds": 4}, "heartbeat_interval_seconds must be at most half"),
        ({"security_protocol": "SASL_SSL", "sasl_username": "u"}, "needs sasl_username and sasl_password"),
        ({"ssl_certfile": "client.pem"}, "ssl_certfile and ssl_keyfile go together"),
    ],
)
def test_settings_that_contradict_each_other_are_an_error(arguments: dict[str, object], told: str) -> None:
    assert told in _wrong(**arguments).message


def test_no_password_is_ever_shown() -> None:
    settings = load_settings(sasl_password="s3cret", ssl_key_password="s3cret")
    assert "s3cret" not in repr(settings) + settings.model_dump_json()
    assert "s3cret" not in str(_wrong(sasl_password="s3cret", partitions=0))
    assert "s3cret" not in str(_wrong(security_protocol="SASL_SSL", sasl_password="s3cret"))


def test_plaintext_clients_get_the_servers_and_nothing_else() -> None:
    assert load_settings(bootstrap_servers="a:1, b:2").kafka_kwargs() == {
        "bootstrap_servers": ["a:1", "b:2"],
        "security_protocol": "PLAINTEXT",
    }


def test_sasl_over_tls_is_passed_on() -> None:
    arguments = load_settings(
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username="gate",
        sasl_password="s3cret",
        ssl_check_hostname=False,
    ).kafka_kwargs()
    context = arguments.pop("ssl_context")
    assert arguments == {
        "bootstrap_servers": ["127.0.0.1:9092"],
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "gate",
        "sasl_plain_password": "s3cret",
    }
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname is False


def test_an_unreadable_certificate_is_an_error_that_names_the_file() -> None:
    settings = load_settings(security_protocol="SSL", ssl_cafile="no-such-ca.pem")
    with pytest.raises(TidegateError, match=r"no-such-ca\.pem"):
        settings.kafka_kwargs()
