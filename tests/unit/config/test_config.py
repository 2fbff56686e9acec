from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.config.config import Config, load_config
from atoll.errors import ConfigError
from atoll.schema import Limits

FILE = """\
[deployment]
name = "shop"
app = "shop.py"
data = "./data"

[regions.tokyo]
url = "http://127.0.0.1:8401/"
location = [35.68, 139]
store = "sqlite"

[regions.frankfurt]
url = "http://127.0.0.1:8402"

[emulate]
rtt_ms = { "tokyo-frankfurt" = 230 }
"""


def load(folder: Path, text: str) -> Config:
    path = folder / "atoll.toml"
    path.write_text(text)
    return load_config(path)


def test_file_is_read_whole(tmp_path: Path) -> None:
    config = load(tmp_path, FILE)
    assert (config.name, config.app, config.data) == ("shop", tmp_path / "shop.py", tmp_path / "data")
    assert config.region_names == ("frankfurt", "tokyo")
    tokyo = config.region("tokyo")
    assert (tokyo.url, tokyo.address(), tokyo.location) == (
        "http://127.0.0.1:8401",
        ("127.0.0.1", 8401),
        (35.68, 139.0),
    )
    assert config.region_data("tokyo") == tmp_path / "data" / "tokyo"


def test_a_mark_of_the_encoding_is_no_part_of_the_file(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeff" + FILE).name == "shop"


def test_defaults_are_those_of_the_documentation(tmp_path: Path) -> None:
    config = load(
        tmp_path, '[deployment]\nname = "s"\napp = "s.py"\n[regions.a]\nurl = "https://a.example"\n'
    )
    given = config.deployment
    assert (given.max_clock_offset_ms, given.audit_days, given.audit_max) == (500, 30, 1_000_000)
    assert (given.idempotency_hours, config.limits, given.key) == (24, Limits(), None)
    assert (config.region("a").store, config.region("a").number) == ("sqlite", None)
    assert config.region("a").address() == ("a.example", 443)


def test_reading_makes_nothing(tmp_path: Path) -> None:
    load(tmp_path, FILE)
    assert [path.name for path in tmp_path.iterdir()] == ["atoll.toml"]


def test_limits_can_be_set(tmp_path: Path) -> None:
    config = load(
        tmp_path, FILE.replace("[emulate]", "[deployment.limits]\ndocument_bytes = 2048\n[emulate]")
    )
    assert config.limits == Limits(document_bytes=2048)


def test_sizes_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    largest = FILE.replace("[emulate]", "[deployment.limits]\ndocument_bytes = 67108864\n[emulate]")
    assert load(tmp_path, largest).limits.document_bytes == 64 << 20
    more = "".join(f'[regions.r{n}]\nurl = "http://127.0.0.1:{8500 + n}"\n' for n in range(10))
    with pytest.raises(ConfigError, match=r"atoll.toml:\d+: deployment.limits.document_bytes: .* 12 regions"):
        load(tmp_path, largest.replace("[emulate]", more + "[emulate]"))
    long_keys = FILE.replace("[emulate]", "[deployment.limits]\nkey_bytes = 4096\n[emulate]")
    assert load(tmp_path, long_keys).limits.key_bytes == 4096
    with pytest.raises(ConfigError, match="key_bytes: is 4096, and an index of PostgreSQL holds"):
        load(tmp_path, long_keys.replace('"sqlite"', '"postgresql://shop@db/shop"'))


def test_hosts_and_origins_can_be_allowed(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        FILE.replace(
            "[deployment]",
            '[deployment]\nallowed_hosts = ["atoll.example", "*"]\n'
            'allowed_origins = ["https://shop.example", "http://localhost:3000", "http://[::1]:80", "*"]',
        ),
    )
    assert config.deployment.allowed_hosts == ["atoll.example", "*"]
    assert len(config.deployment.allowed_origins) == 4


def test_secret_is_not_shown(tmp_path: Path) -> None:
    config = load(tmp_path, FILE.replace("[deployment]", '[deployment]\nkey = "0123456789abcdef"'))
    assert config.deployment.key == "0123456789abcdef"
    assert "0123456789" not in repr(config)


def test_round_trip_is_the_same_both_ways(tmp_path: Path) -> None:
    config = load(tmp_path, FILE)
    assert config.emulated
    assert config.rtt_ms("tokyo", "frankfurt") == config.rtt_ms("frankfurt", "tokyo") == 230
    assert config.rtt_ms("tokyo", "tokyo") == 0


def test_clocks_can_be_set_off(tmp_path: Path) -> None:
    config = load(tmp_path, FILE + 'clock_offset_ms = { "tokyo" = -300 }\n')
    assert (config.clock_offset_ms("tokyo"), config.clock_offset_ms("frankfurt")) == (-300, 0)


def test_only_an_emulate_section_makes_a_test_topology(tmp_path: Path) -> None:
    text = FILE.partition("[emulate]")[0]
    assert not load(tmp_path, text).emulated
    assert load(tmp_path, text + "[emulate]\n").emulated


def named(*names: str) -> str:
    regions = "".join(f'[regions.{name}]\nurl = "http://h:{port}"\n' for port, name in enumerate(names, 1))
    return f'[deployment]\nname = "s"\napp = "s.py"\n{regions}[emulate.rtt_ms]\n'


def test_hyphens_in_region_names_are_understood(tmp_path: Path) -> None:
    config = load(tmp_path, named("us-east", "us-west", "eu") + "us-east-us-west = 60\neu-us-east = 90\n")
    assert config.rtt_ms("us-west", "us-east") == 60
    assert config.rtt_ms("us-east", "eu") == 90


def test_ambiguous_pair_can_be_written_with_a_slash(tmp_path: Path) -> None:
    regions = named("a", "a-b", "b-c", "c")
    with pytest.raises(ConfigError, match='write "a/b-c" or "a-b/c"'):
        load(tmp_path, regions + "a-b-c = 3\n")
    assert load(tmp_path, regions + '"a-b/c" = 3\n').rtt_ms("c", "a-b") == 3


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ('name = "shop"', 'nmae = "shop"', 2, "did you mean name"),
        ('name = "shop"', 'name = "The Shop"', 2, "small letters"),
        ('name = "shop"', "name = shop", 2, "not valid TOML"),
        ('name = "shop"', "name = 3", 2, "must be a valid string"),
        ('data = "./data"', 'key = "short"', 4, "at least 16"),
        ('data = "./data"', "audit_days = -1", 4, "greater than or equal to 1"),
        ('data = "./data"', 'allowed_hosts = ["shop.example:80"]', 4, "without port"),
        ('data = "./data"', 'allowed_hosts = ["https://shop.example"]', 4, "without port"),
        ('data = "./data"', 'allowed_origins = ["shop.example"]', 4, 'such as "https://shop.example"'),
        ('data = "./data"', 'allowed_origins = ["https://shop.example/"]', 4, "without path"),
        ('app = "shop.py"', "", 1, 'app: is missing; add app = "shop.py"'),
        ("[deployment]", "[deploymnt]", 1, "did you mean deployment"),
        ("[regions.tokyo]", "[regions.Tokyo]", 6, "cannot be a region's name"),
        ("[regions.tokyo]", "[regions.frankfurt]", 11, "not valid TOML"),
        ("8401/", "8402", 7, "frankfurt's address too"),
        ("127.0.0.1:8401/", "localhost:8402", 7, "frankfurt's address too"),
        ("8401/", "8401/shop", 7, "drop the rest"),
        ("http://127.0.0.1:8401/", "127.0.0.1:8401", 7, "no URL of a region"),
        ("8401/", "99999", 7, "port from 1 to 65535"),
        ("8401/", "8401/?", 7, "drop the rest"),
        ("127.0.0.1:8401/", "ann:pw@127.0.0.1:8401", 7, "drop the rest"),
        ("127.0.0.1:8401/", "*:8401", 7, "no URL of a region"),
        ("127.0.0.1:8401/", "a\\tb:8401", 7, "no URL of a region"),
        ("127.0.0.1:8401/", "[fe80::1%25eth0]:8401", 7, "no URL of a region"),
        ("127.0.0.1:8401/", "bücher.example", 7, "write it as xn--bcher-kva.example"),
        ("http://127.0.0.1:8401/", "http://", 7, "no URL of a region"),
        ("[35.68, 139]", "[35.68]", 8, "at least 2"),
        ("[35.68, 139]", "[139, 35.68]", 8, "latitude, longitude"),
        ('"sqlite"', '"postgresql://shop@db"', 9, "names no database"),
        ('"sqlite"', '"postgresql://shop@db:port/shop"', 9, "percent-encoded"),
        ('"sqlite"', '"postgresql://db/shop?schema=pg_x"', 9, "not a schema for Atoll"),
        ('"sqlite"', '"mysql"', 9, 'use "sqlite", or a URL'),
        ('store = "sqlite"', "number = 3", 11, "has no number, while tokyo has one"),
        ('store = "sqlite"', "number = 32", 9, "less than or equal to 31"),
        ("tokyo-frankfurt", "tokyo-frankfort", 15, "did you mean tokyo-frankfurt"),
        ("tokyo-frankfurt", "tokyo-tokyo", 15, "no round trip to itself"),
        ('{ "tokyo', '{ "frankfurt-tokyo" = 1, "tokyo', 15, "given twice"),
        ("230", "-1", 15, "greater than or equal to 0"),
        (
            'rtt_ms = { "tokyo-frankfurt" = 230 }',
            'clock_offset_ms = { "tokio" = 1 }',
            15,
            "did you mean tokyo",
        ),
        ('rtt_ms = { "tokyo-frankfurt" = 230 }', "clock_offset_ms.tokyo = 0.5", 15, "valid integer"),
    ],
)
def test_error_names_file_line_and_fix(tmp_path: Path, old: str, new: str, line: int, reason: str) -> None:
    assert old in FILE
    with pytest.raises(ConfigError, match=reason) as caught:
        load(tmp_path, FILE.replace(old, new, 1))
    assert caught.value.message.startswith(f"{tmp_path / 'atoll.toml'}:{line}: ")
    assert caught.value.details["line"] == line


def test_two_regions_cannot_have_one_number(tmp_path: Path) -> None:
    text = FILE.replace(":8401/", ':8401/"\nnumber = 1\n#').replace(':8402"', ':8402"\nnumber = 1')
    with pytest.raises(ConfigError, match="identifiers would collide"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    "text", ["", '[deployment]\nname = "s"\napp = "s.py"\n', '[deployment]\nname="s"\napp="a"\n[regions]']
)
def test_missing_sections_are_asked_for(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"add a section"):
        load(tmp_path, text)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"atoll\.toml: cannot be read: No such file"):
        load_config(tmp_path / "atoll.toml")


def test_file_must_be_text(tmp_path: Path) -> None:
    (tmp_path / "atoll.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "atoll.toml")


def test_unknown_region_names_what_was_meant(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean tokyo"):
        load(tmp_path, FILE).region("tokio")


@given(st.integers(0, len(FILE)), st.text(max_size=8))
def test_any_text_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, inserted: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(FILE[:at] + inserted + FILE[at:], "utf-8", errors="replace")
    try:
        config = load_config(path)
    except ConfigError as error:
        assert str(path) in error.message  # noqa: PT017 - being read is as good an outcome
    else:
        assert len(config.regions) == 2


def test_a_stores_password_is_never_shown(tmp_path: Path) -> None:
    config = load(tmp_path, FILE.replace('"sqlite"', '"postgresql://shop:hunter2@db/shop"', 1))
    assert config.region_store("tokyo") == "postgresql://shop@db/shop"
    assert "hunter2" not in repr(config)
    for store in (
        "postgresql://shop:hunter2@db:x/shop",
        "postgresql://shop:hunter2@db",
        "mysql://a:hunter2@b/c",
    ):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, FILE.replace('"sqlite"', f'"{store}"', 1))
        assert "hunter2" not in f"{caught.value} {caught.value.details}"


def test_two_regions_cannot_have_one_schema(tmp_path: Path) -> None:
    shared = 'store = "postgresql://db/shop?schema=one"'
    text = FILE.replace('store = "sqlite"', shared, 1).replace(':8402"', f':8402"\n{shared}', 1)
    with pytest.raises(ConfigError, match="schema one too"):
        load(tmp_path, text)
    load(tmp_path, text.replace("?schema=one", ""))


TWO_NODES = FILE.replace("8401/", "8400/", 1).replace(
    'store = "sqlite"',
    'store = "postgresql://db/shop"\nnodes = ["http://10.0.0.1:8401", "http://10.0.0.2:8401/"]',
    1,
)


def test_each_node_of_a_region_has_its_url(tmp_path: Path) -> None:
    tokyo = load(tmp_path, TWO_NODES).region("tokyo")
    assert tokyo.urls == ("http://127.0.0.1:8400", "http://10.0.0.1:8401", "http://10.0.0.2:8401")
    assert [tokyo.address(node) for node in (1, 2)] == [("10.0.0.1", 8401), ("10.0.0.2", 8401)]
    with pytest.raises(ConfigError, match="has 2 nodes, and node 3 is not one of them"):
        tokyo.address(3)


def test_without_a_balancer_the_first_node_is_the_regions_url(tmp_path: Path) -> None:
    text = re.sub(r'url = "[^"]*8400/"\n', "", TWO_NODES)
    assert load(tmp_path, text).region("tokyo").url == "http://10.0.0.1:8401"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('store = "postgresql://db/shop"', 'store = "sqlite"', "URL of PostgreSQL"),
        ("10.0.0.2", "10.0.0.1", "names one url twice"),
        ("http://10.0.0.2:8401/", "http://localhost:8402", "frankfurt's address too"),
        ("http://10.0.0.2:8401/", "10.0.0.2", "no URL of a region"),
    ],
)
def test_nodes_that_make_no_sense_are_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert old in TWO_NODES
    with pytest.raises(ConfigError, match=reason):
        load(tmp_path, TWO_NODES.replace(old, new, 1))


def test_an_address_is_kept_as_requests_name_it(tmp_path: Path) -> None:
    for written, kept in (
        ("HTTP://TOKYO.example:80", "http://tokyo.example:80"),
        ("http://[::1]", "http://[::1]"),
    ):
        text = FILE.replace("http://127.0.0.1:8401/", written)
        assert load(tmp_path, text).region("tokyo").url == kept


WITNESS = '[regions.dublin]\nurl = "http://127.0.0.1:8404"\nwitness = true\n[emulate]'


def test_a_witness_is_no_region_that_holds_documents(tmp_path: Path) -> None:
    config = load(tmp_path, FILE.replace("[emulate]", WITNESS))
    assert config.region_names == ("frankfurt", "tokyo")
    assert config.witness_names == ("dublin",)
    assert config.member("dublin").witness
    assert config.region_data("dublin") == tmp_path / "data" / "dublin"
    with pytest.raises(
        ConfigError, match="dublin is a witness, and holds no documents; name one of frankfurt"
    ):
        config.region("dublin")
    numbered = FILE.replace('8401/"', '8401/"\nnumber = 1').replace('8402"', '8402"\nnumber = 2')
    assert load(tmp_path, numbered.replace("[emulate]", WITNESS)).region("tokyo").number == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            FILE.replace('8402"', '8402"\nwitness = true'),
            r":13: regions.frankfurt.witness: .* fewer witnesses than regions",
        ),
        (
            FILE.replace("[emulate]", WITNESS.replace("witness", "number = 3\nwitness")),
            r"regions.dublin.number: a witness makes no identifiers",
        ),
        (
            FILE.replace(
                "[emulate]",
                WITNESS.replace(
                    "witness",
                    'store = "postgresql://a@db/a"\nnodes = ["http://n1:80", "http://n2:80"]\nwitness',
                ),
            ),
            r"regions.dublin.nodes: a witness has one node",
        ),
    ],
)
def test_a_witness_that_cannot_be_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load(tmp_path, text)
