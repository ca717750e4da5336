"""Settings of the worker and of every command: from `TIDEGATE_*` variables, then a TOML file, then defaults.

Responsible for reading, checking and explaining them. What they do is up to those who read them.
"""

from __future__ import annotations

import os
import ssl
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from tidegate import paths
from tidegate.errors import TidegateError

ENV_PREFIX = "TIDEGATE_"
CONFIG_VARIABLE = "TIDEGATE_CONFIG"
DEFAULT_CONFIG_FILE = "tidegate.toml"
_MIB = 1024 * 1024


class Settings(BaseSettings):
    """Everything that can be set. Read it with `load_settings`, which turns mistakes into a `TidegateError`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,  # compose files pass variables on as empty strings
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # the input may be a password
    )

    bootstrap_servers: str = Field(
        default="127.0.0.1:9092", min_length=1, description="Kafka brokers to ask first, host:port, separated by commas"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="How to speak to the brokers"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="PLAIN", description="SASL mechanism, used with a SASL_ protocol"
    )
    sasl_username: str | None = Field(default=None, description="SASL user")
    sasl_password: SecretStr | None = Field(default=None, description="SASL password")
    ssl_cafile: Path | None = Field(default=None, description="PEM file of trusted authorities (default: the system's)")
    ssl_certfile: Path | None = Field(default=None, description="PEM file of the client's certificate, for mutual TLS")
    ssl_keyfile: Path | None = Field(default=None, description="PEM file of the client's key, for mutual TLS")
    ssl_key_password: SecretStr | None = Field(default=None, description="Password of that key")
    ssl_check_hostname: bool = Field(
        default=True, description="Whether a broker's certificate must carry the name it was reached by"
    )

    topic_prefix: str = Field(
        default="tidegate", pattern=r"^[A-Za-z0-9._-]{1,200}$", description="What the names of all topics begin with"
    )
    group_id: str = Field(
        default="tidegate",
        min_length=1,
        max_length=200,
        description="Consumer group, and the beginning of transactional ids: one per gate",
    )
    instance_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
        description="Static member id, unique per worker: a restart within the session timeout moves no partition",
    )
    partitions: int = Field(default=12, ge=1, le=10_000, description="Partitions of every topic")
    replication_factor: int = Field(default=1, ge=1, le=32, description="Replicas of every topic: 3 in production")

    session_timeout_seconds: float = Field(
        default=6.0, ge=1.0, le=300.0, description="A worker silent for this long loses its partitions"
    )
    heartbeat_interval_seconds: float = Field(
        default=2.0, ge=0.1, le=100.0, description="Time between a worker's heartbeats: a third of the session timeout"
    )
    rebalance_timeout_seconds: float = Field(
        default=30.0, ge=1.0, le=600.0, description="How long a rebalance waits for a worker to finish its cycle"
    )
    transaction_timeout_seconds: float = Field(
        default=15.0, ge=1.0, le=900.0, description="A transaction open for longer is aborted by the broker"
    )
    request_timeout_seconds: float = Field(
        default=20.0, ge=1.0, le=300.0, description="How long to wait for a broker's answer"
    )

    unknown_task_grace_seconds: float = Field(
        default=30.0, ge=0.0, le=86_400.0, description="How long a result waits for the dispatch of its task"
    )
    ended_task_retention_seconds: float = Field(
        default=86_400.0, ge=0.0, le=2_592_000.0, description="How long ended tasks are remembered, to know repeats"
    )
    ended_tasks_per_session: int = Field(
        default=256, ge=1, le=100_000, description="How many ended tasks of one session are remembered at most"
    )
    scope_grace_seconds: float = Field(
        default=30.0, ge=0.0, le=86_400.0, description="How long a parent's result waits for its children, by default"
    )
    hold_ttl_seconds: float = Field(
        default=600.0, gt=0.0, le=604_800.0, description="How long a held part waits before it is withheld, by default"
    )
    session_ttl_seconds: float = Field(
        default=86_400.0, ge=60.0, le=2_592_000.0, description="A session without open tasks is forgotten after this"
    )
    shadow: bool = Field(default=False, description="Deliver every result, marked with what the gate would have done")
    shadow_task_types: list[str] = Field(
        default_factory=list, description="Do so for these task types only, as a JSON list"
    )
    output_compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        default="none", description="Compression of what others read, dead letters apart: their clients must know it"
    )
    queue_budget_bytes: int = Field(
        default=16 * _MIB, ge=_MIB, le=1024 * _MIB, description="Fetched bytes that may wait, per partition"
    )
    cycle_max_records: int = Field(
        default=65_536, ge=1, le=1_000_000, description="Records that one transaction takes at most"
    )

    state_dir: Path = Field(default_factory=paths.state_dir, description="Files of this worker and of the local broker")
    metrics_host: str = Field(default="127.0.0.1", min_length=1, description="Address of /metrics, /healthz, /readyz")
    metrics_port: int = Field(default=9464, ge=0, le=65_535, description="Their port; 0 takes a free one")
    query_secret: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="Signs the gateways' questions to workers, the same on all of both; unset: workers answer none",
    )
    query_host: str = Field(
        default="127.0.0.1", min_length=1, description="Address of the worker's read endpoint, where gateways reach it"
    )
    query_port: int = Field(default=0, ge=0, le=65_535, description="Its port; 0 takes a free one")
    query_cafile: Path | None = Field(
        default=None,
        description="PEM file of the only authority whose certificates workers and gateways accept of each other;"
        " unset: plain HTTP between them",
    )
    query_certfile: Path | None = Field(default=None, description="PEM file of this process's certificate for it")
    query_keyfile: Path | None = Field(default=None, description="PEM file of the key of that certificate")
    gateway_host: str = Field(default="127.0.0.1", min_length=1, description="Address the gateway listens on")
    gateway_port: int = Field(default=8080, ge=0, le=65_535, description="Its port; 0 takes a free one")
    gateway_source: str = Field(
        default="gateway", min_length=1, max_length=200, description="`source` of the events that the gateway writes"
    )
    gateway_jwt_secret: SecretStr | None = Field(
        default=None, min_length=32, description="Secret that HS256 tokens are signed with, at least 32 bytes"
    )
    gateway_jwt_public_key_file: Path | None = Field(
        default=None, description="PEM file of the public key that RS256 or ES256 tokens are verified with"
    )
    gateway_jwks_url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Address of a JWKS with such keys, fetched again as keys rotate",
    )
    gateway_jwt_audience: str = Field(default="tidegate", min_length=1, description="Audience that tokens must have")
    gateway_jwt_issuer: str | None = Field(default=None, description="Issuer that tokens must have, if it is set")
    gateway_jwt_claim: str = Field(default="tidegate", min_length=1, description="Claim that holds a token's grant")
    gateway_require_tenant: bool = Field(default=False, description="Refuse tokens whose grant names no tenant")
    gateway_ticket_secret: SecretStr | None = Field(
        default=None, min_length=32, description="Signs stream tickets, the same on all gateways; unset: no tickets"
    )
    gateway_cors_origins: list[str] = Field(
        default_factory=list, description="Origins whose pages may use the gateway, as a JSON list; none by default"
    )
    gateway_requests_per_second: float = Field(
        default=50.0, gt=0.0, le=100_000.0, description="Requests per second that one token may send"
    )
    gateway_streams_per_token: int = Field(
        default=16, ge=1, le=100_000, description="Event streams that one token may have open on one gateway"
    )
    gateway_heartbeat_seconds: float = Field(
        default=15.0, ge=1.0, le=300.0, description="Time between two heartbeats of an event stream"
    )
    gateway_drain_seconds: float = Field(
        default=5.0, ge=0.0, le=300.0, description="How long a gateway that stops waits for its streams to leave"
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level to log")
    log_format: Literal["console", "json"] = Field(default="console", description="Log lines for people or machines")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over variables, variables over the file."""
        del dotenv_settings, file_secret_settings
        file = config_file()
        toml = () if file is None else (TomlConfigSettingsSource(settings_cls, toml_file=file),)
        return (init_settings, env_settings, *toml)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heartbeat_interval_seconds * 2 > self.session_timeout_seconds:
            raise ValueError(
                "heartbeat_interval_seconds must be at most half of session_timeout_seconds:"
                " one lost heartbeat would cost a worker its partitions"
            )
        if self.security_protocol.startswith("SASL_") and (self.sasl_username is None or self.sasl_password is None):
            raise ValueError(f"security_protocol {self.security_protocol} needs sasl_username and sasl_password")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile go together")
        if len({self.query_cafile is None, self.query_certfile is None, self.query_keyfile is None}) > 1:
            raise ValueError("query_cafile, query_certfile and query_keyfile go together")
        return self

    def kafka_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for any aiokafka client: how to reach the brokers and how to prove who one is.

        Raises `TidegateError` if a certificate or key cannot be read.
        """
        arguments: dict[str, Any] = {
            "bootstrap_servers": [server.strip() for server in self.bootstrap_servers.split(",")],
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.startswith("SASL_"):
            arguments["sasl_mechanism"] = self.sasl_mechanism
            arguments["sasl_plain_username"] = self.sasl_username
            arguments["sasl_plain_password"] = self.sasl_password.get_secret_value() if self.sasl_password else None
        if self.security_protocol.endswith("SSL"):
            arguments["ssl_context"] = self.ssl_context()
        return arguments

    def ssl_context(self) -> ssl.SSLContext:
        """The TLS context the `ssl_*` settings describe. Raises `TidegateError` if a file in them cannot be read."""
        password = self.ssl_key_password.get_secret_value() if self.ssl_key_password else None
        try:
            context = ssl.create_default_context(cafile=self.ssl_cafile)
            if self.ssl_certfile is not None:
                context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile, password)
        except OSError as error:  # ssl.SSLError is one
            files = ", ".join(str(file) for file in (self.ssl_cafile, self.ssl_certfile, self.ssl_keyfile) if file)
            raise TidegateError(
                f"Cannot read the TLS files ({files}): {error}", "Check ssl_cafile, ssl_certfile and ssl_keyfile."
            ) from error
        context.check_hostname = self.ssl_check_hostname
        return context

    def query_tls(self, *, server: bool) -> ssl.SSLContext | None:
        """Mutual TLS between gateways and workers, for either side; None without the `query_*file` settings.

        Both sides show a certificate of the authority. Names are not compared: a worker announces the address it has,
        and what counts is that its certificate is of this authority. Raises `TidegateError` if a file cannot be read.
        """
        if self.query_cafile is None or self.query_certfile is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(self.query_cafile)
            context.load_cert_chain(self.query_certfile, self.query_keyfile)
        except OSError as error:
            files = f"{self.query_cafile}, {self.query_certfile}, {self.query_keyfile}"
            raise TidegateError(
                f"Cannot read the TLS files of the read endpoint ({files}): {error}",
                "Check query_cafile, query_certfile and query_keyfile.",
            ) from error
        return context

    def origins(self) -> dict[str, str]:
        """Where each setting's value came from: a variable's name, a file's path, `argument` or `default`."""
        file = config_file()
        in_file = _read_toml(file) if file is not None else {}
        variables = {name.upper(): name for name, value in os.environ.items() if value}

        def origin(name: str) -> str:
            variable = variables.get(f"{ENV_PREFIX}{name}".upper())
            if name in self._arguments:
                return "argument"
            if variable is not None:
                return variable
            return str(file) if name in in_file else "default"

        return {name: origin(name) for name in type(self).model_fields}

    _arguments: frozenset[str] = frozenset()


def config_file() -> Path | None:
    """The TOML file settings are read from: the one named by `TIDEGATE_CONFIG`, else `./tidegate.toml` if there is one.

    Raises `TidegateError` if the named one is missing.
    """
    if named := os.environ.get(CONFIG_VARIABLE):
        if not Path(named).is_file():
            raise TidegateError(f"{CONFIG_VARIABLE} names {named}, which is not a file.", "Correct it, or unset it.")
        return Path(named)
    return Path(DEFAULT_CONFIG_FILE) if Path(DEFAULT_CONFIG_FILE).is_file() else None


def load_settings(**arguments: Any) -> Settings:
    """The effective settings; `arguments` win over variables and file.

    Raises `TidegateError` naming each wrong value, its origin and what is wrong with it; an unknown key in the file is
    an error, too. Unknown variables are not: see `unknown_variables`.
    """
    file = config_file()
    in_file = _read_toml(file) if file is not None else {}
    try:
        settings = Settings(**arguments)
    except ValidationError as error:
        lines = [_explain(problem, arguments, in_file, file) for problem in error.errors(include_url=False)]
        raise TidegateError(
            "Settings are wrong:\n" + "\n".join(f"  {line}" for line in lines),
            "Correct or unset them; `tidegate config` then lists all settings.",
        ) from error
    settings._arguments = frozenset(arguments)
    return settings


def unknown_variables() -> list[str]:
    """Names of `TIDEGATE_*` variables that set nothing.

    Without those Kubernetes sets in every pod for a service named tidegate (`TIDEGATE_PORT_9464_TCP_ADDR`,
    `TIDEGATE_SERVICE_HOST`): for their sake it is a warning at most.
    """
    known = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields} | {CONFIG_VARIABLE}
    return sorted(
        name
        for name in os.environ
        if name.upper().startswith(ENV_PREFIX)
        and name.upper() not in known
        and not name.upper().startswith((f"{ENV_PREFIX}PORT", f"{ENV_PREFIX}SERVICE_"))
    )


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise TidegateError(f"Cannot read the settings in {file}: {error}", "Correct the file.") from error


def _explain(problem: Any, arguments: dict[str, Any], in_file: dict[str, Any], file: Path | None) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "extra_forbidden":
        return f"{name} (in {file if name in in_file else 'arguments'}): there is no such setting"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not name:
        return message
    if name in arguments:
        return f"{name}: {message}"
    variable = f"{ENV_PREFIX}{name.upper()}"
    if any(key.upper() == variable and value for key, value in os.environ.items()):
        return f"{variable}: {message}"
    return f"{name} (in {file}): {message}"
