from pathlib import Path

import pytest

from homeserver.config import load
from homeserver.errors import ConfigError


def test_load_without_anything_is_the_trial_shape() -> None:
    config = load.load({})
    assert config.server_name == "localhost"
    assert config.is_trial
    assert config.registration_is_open


def test_load_with_a_real_name_closes_registration() -> None:
    assert not load.load({"HOMESERVER_SERVER_NAME": "example.org"}).registration_is_open


def test_load_on_a_public_address_closes_registration() -> None:
    assert not load.load({"HOMESERVER_HOST": "0.0.0.0"}).registration_is_open


def test_load_lays_the_environment_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "homeserver.toml"
    file.write_text('server_name = "file.example"\nport = 1000\n[log]\nlevel = "error"\n')
    config = load.load({"HOMESERVER_CONFIG": str(file), "HOMESERVER_PORT": "2000", "HOMESERVER_LOG_JSON": "true"})
    assert (config.server_name, config.port, config.log.level, config.log.json) == ("file.example", 2000, "error", True)


def test_load_reports_all_faults_each_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "homeserver.toml"
    file.write_text('port = "many"\nshoe_size = 43\nregistration = 1\n[log]\nlevel = "loud"\n')
    with pytest.raises(ConfigError) as caught:
        load.load({"HOMESERVER_CONFIG": str(file), "HOMESERVER_LIMITS_RATE_LIMITS": "maybe", "HOMESERVER_NO_SUCH": "1"})
    assert {key for key, _ in caught.value.faults} == {
        "HOMESERVER_NO_SUCH",
        "port",
        "shoe_size",
        "registration",
        "log.level",
        "limits.rate_limits",
    }


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("HOMESERVER_SERVER_NAME", "not a name", "server_name"),
        ("HOMESERVER_DATABASE_URL", "mysql://x", "database_url"),
        ("HOMESERVER_REDIS_URL", "http://x", "redis_url"),
        ("HOMESERVER_DEFAULT_ROOM_VERSION", "99", "default_room_version"),
        ("HOMESERVER_PORT", "0", "port"),
        ("HOMESERVER_EXTRA_LISTENERS", '[{"host": "::1", "port": 1, "certificate": "a.pem"}]', "extra_listeners"),
        ("HOMESERVER_FEDERATION_ADDRESSES", '{"not a name": "10.0.0.5:8448"}', "federation.addresses"),
        ("HOMESERVER_FEDERATION_ADDRESSES", '{"example.org": "10.0.0.5"}', "federation.addresses"),
        ("HOMESERVER_FEDERATION_ADDRESSES", '{"example.org": "10.0.0.5:99999"}', "federation.addresses"),
        ("HOMESERVER_FEDERATION_ALLOWED_RANGES", '["10.0.0.5/8"]', "federation.allowed_ranges"),
        ("HOMESERVER_FEDERATION_PROXY", "socks5://127.0.0.1", "federation.proxy"),
        ("HOMESERVER_FEDERATION_PROXY", "http://proxy.internal:99999", "federation.proxy"),
        ("HOMESERVER_FEDERATION_PROXY", "http://proxy.internal:0", "federation.proxy"),
        ("HOMESERVER_FEDERATION_PROXY", "https://[1:.]:3128", "federation.proxy"),
        ("HOMESERVER_FEDERATION_NO_PROXY", '["*.internal", "10.0.0.1/8"]', "federation.no_proxy"),
        ("HOMESERVER_FEDERATION_NOTARIES", '["not a name"]', "federation.notaries"),
        ("HOMESERVER_FEDERATION_OLD_KEYS", '[{"key_id": "a"}]', "federation.old_keys"),
        ("HOMESERVER_WELL_KNOWN_SERVER", "https://example.org", "well_known.server"),
        ("HOMESERVER_WELL_KNOWN_CONTACTS", '[{"role": "m.role.admin"}]', "well_known.contacts"),
    ],
)
def test_load_refuses_values_out_of_range(variable: str, value: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load.load({variable: value})
    assert [fault[0] for fault in caught.value.faults] == [key]


def test_load_says_when_the_file_is_missing_or_not_toml(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("= =")
    for name in ("absent.toml", "bad.toml"):
        with pytest.raises(ConfigError) as caught:
            load.load({"HOMESERVER_CONFIG": str(tmp_path / name)})
        assert caught.value.faults[0][0] == "HOMESERVER_CONFIG"


def test_load_takes_tables_and_lists_from_the_environment() -> None:
    config = load.load(
        {
            "HOMESERVER_FEDERATION_ADDRESSES": '{"a.example": "127.0.0.2:8448", "b.example:1": "[::1]:2"}',
            "HOMESERVER_FEDERATION_ALLOW": '["*.example"]',
            "HOMESERVER_FEDERATION_PROXY": "http://me:secret@proxy.internal:3128",
        }
    )
    assert config.federation.addresses == {"a.example": "127.0.0.2:8448", "b.example:1": "[::1]:2"}
    assert config.federation.allow == ("*.example",)
    assert config.federation.proxy == "http://me:secret@proxy.internal:3128"
