# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The variables of the role ``vllm_gateway``: what they become, and what is refused with the variable named."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import pathlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import gateway_input, gateway_keys, gateway_tls

NOW = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.timezone.utc)
SUM = hashlib.sha256(b"x").hexdigest()
OTHER = hashlib.sha256(b"y").hexdigest()
SECRET = "vms_team-a_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dF"


def variables(folder, **changes):
    """What a role passes on, with a key in the inventory and the internal authority."""
    return {
        "instances": [
            {
                "name": "chat",
                "addresses": ["10.77.1.11"],
                "port": 7443,
                "backends": [{"address": "127.0.0.1", "port": 17443}],
                "server_names": ["chat.example.com"],
                "endpoints": ["GET /v1/models", "POST /v1/completions"],
            }
        ],
        "metrics": {"addresses": ["10.77.0.11"], "port": 7444},
        "client_networks": ["10.77.1.128/25"],
        "monitor_networks": ["10.77.0.9/32"],
        "known_instances": ["chat", "code"],
        "clients": [{"name": "team-a", "instances": ["chat"], "keys": [{"id": "a", "sha256": SUM, "expires": "2027-01-31"}]}],
        "ca_directory": str(folder / "ca"),
        **changes,
    }


def client(**changes):
    entry = {"name": "team-a", "instances": ["chat"], "keys": [{"id": "a", "sha256": SUM, "expires": "2027-01-31"}], **changes}
    return {"clients": [{key: value for key, value in entry.items() if value is not None}]}


def key(**changes):
    entry = {"id": "a", "sha256": SUM, "expires": "2027-01-31", **changes}
    return client(keys=[{name: value for name, value in entry.items() if value is not None}])


def read(folder, write=True, **changes):
    return gateway_input.read(variables(folder, **changes), "npu01", NOW, write)


def refused(folder, **changes):
    with pytest.raises(gateway_input.GatewayError) as error:
        read(folder, **changes)
    return str(error.value)


def certificate(folder, names=("chat.example.com",), private=None, days=(-1, 30), digest=None, name="site"):
    """A self-signed certificate in files; (certificate, private key) as paths."""
    private = private or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(NOW + datetime.timedelta(days=days[0]))
        .not_valid_after(NOW + datetime.timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(value) for value in names]), critical=False)
        .sign(private, digest or hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    paths[1].chmod(0o600)
    return {"certificate": str(paths[0]), "private_key": str(paths[1])}


def test_the_node_gets_sums_and_no_secret(tmp_path):
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "secret").chmod(0o600)
    _settings, files, _report = read(tmp_path, **key(sha256=None, file=str(tmp_path / "secret")))
    assert files["keys.map"].decode() == f"{hashlib.sha256(SECRET.encode()).hexdigest()} team-a:a:1801440000:600:32\n"
    assert not any(SECRET.encode() in content for content in files.values())


def test_a_client_without_keys_gets_one_once(tmp_path):
    changes = {**client(keys=None), "key_directory": str(tmp_path / "keys")}
    first, second = (read(tmp_path, **changes)[1]["keys.map"] for _run in range(2))
    assert first == second
    path = tmp_path / "keys" / "team-a.json"
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    secret = json.loads(path.read_text())["keys"][0]["secret"]
    assert first.decode().split()[0] == hashlib.sha256(secret.encode()).hexdigest()


def test_check_mode_writes_nothing_on_the_controller(tmp_path):
    read(tmp_path, write=False, **client(keys=None), key_directory=str(tmp_path / "keys"))
    assert not list(tmp_path.iterdir())


def test_the_authority_issues_for_every_name_and_renews_in_the_last_third(tmp_path):
    _settings, files, report = read(tmp_path)
    assert report["certificates"][0]["names"] == ["chat.example.com", "10.77.0.11", "10.77.1.11"]
    raw = variables(tmp_path)
    again = gateway_input.read(raw, "npu01", NOW + datetime.timedelta(days=50), True)[1]
    renewed = gateway_input.read(raw, "npu01", NOW + datetime.timedelta(days=65), True)[1]
    name = "certificates/npu01.pem"
    assert files[name] == again[name] != renewed[name]


def test_an_address_is_one_however_it_is_spelled(tmp_path):
    changes = place(addresses=["FD00:77:1:0::11"], backends=[{"address": "0:0::1", "port": 17443}])
    (settings, files, report), again = (read(tmp_path, metrics={"addresses": ["FD00:77::11"], "port": 7444}, **changes) for _run in range(2))
    assert settings["instances"][0]["addresses"] == ["fd00:77:1::11"] and settings["metrics"]["addresses"] == ["fd00:77::11"]
    assert settings["instances"][0]["backends"][0]["address"] == "::1"
    assert files == again[1] and report["certificates"][0]["names"] == ["chat.example.com", "fd00:77:1::11", "fd00:77::11"]


@pytest.mark.parametrize(
    ("spoil", "trouble"),
    [
        (lambda folder: (folder / "ca.key").chmod(0o640), "has mode 0640"),
        (lambda folder: (folder / "ca.pem").write_text("x"), "has a ca.pem that is no certificate"),
        (lambda folder: (folder / "ca.key").write_text("x"), "has a ca.key that the passphrase does not open"),
        (lambda folder: (folder / "ca.pem").write_bytes((folder / "npu01.pem").read_bytes()), "has a ca.pem that does not belong to its ca.key"),
    ],
)
def test_an_authority_that_is_none_is_refused(tmp_path, spoil, trouble):
    read(tmp_path)
    spoil(tmp_path / "ca")
    said = refused(tmp_path)
    assert "vllm_gateway_ca_directory" in said and trouble in said


def test_a_node_does_not_replace_the_authority(tmp_path):
    with pytest.raises(gateway_input.GatewayError, match="rename that node"):
        gateway_input.read(variables(tmp_path), "ca", NOW, True)


def test_a_new_name_gets_a_new_certificate(tmp_path):
    before = read(tmp_path)[1]["certificates/npu01.pem"]
    assert read(tmp_path, management_names=["npu01.example.com"])[1]["certificates/npu01.pem"] != before


def test_a_certificate_of_the_site_is_taken_as_it_is(tmp_path):
    pair = certificate(tmp_path)
    _settings, files, report = read(tmp_path, certificates=[pair], ca_directory=None)
    assert files["certificates/00.pem"].count(b"BEGIN") == 2
    assert report["certificates"][0]["days_left"] == 30


@pytest.mark.parametrize(
    ("options", "trouble"),
    [
        ({"days": (-30, -1)}, "expired at 2026-11-22"),
        ({"days": (1, 30)}, "is valid only from 2026-11-24"),
        ({"names": ["other.example.com"]}, "chat.example.com"),
        ({"private": "secp521r1"}, "uses the curve secp521r1"),
        ({"private": "secp256k1"}, "uses the curve secp256k1"),
        ({"private": "rsa"}, "has no elliptic-curve key"),
    ],
)
def test_a_certificate_that_clients_should_not_trust_is_refused(tmp_path, options, trouble):
    kinds = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "secp521r1": lambda: ec.generate_private_key(ec.SECP521R1()),
        "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    }
    if "private" in options:
        options = {**options, "private": kinds[options["private"]]()}
    said = refused(tmp_path, certificates=[certificate(tmp_path, **options)], ca_directory=None)
    assert "vllm_gateway_certificates" in said and trouble in said


def test_a_chain_of_which_one_has_expired_is_refused(tmp_path):
    private = ec.generate_private_key(ec.SECP256R1())
    leaf, issuer = certificate(tmp_path, private=private), certificate(tmp_path, private=private, days=(-30, -1), name="issuer")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(b"".join(pathlib.Path(pair["certificate"]).read_bytes() for pair in (leaf, issuer)))
    said = refused(tmp_path, certificates=[{**leaf, "certificate": str(chain)}], ca_directory=None)
    assert "vllm_gateway_certificates[0].certificate" in said and "has a chain of which CN=test expired at 2026-11-22" in said


def test_a_certificate_with_the_key_of_another_is_refused(tmp_path):
    pair, other = certificate(tmp_path), certificate(tmp_path, name="other")
    said = refused(tmp_path, certificates=[{**pair, "private_key": other["private_key"]}], ca_directory=None)
    assert "vllm_gateway_certificates[0].certificate" in said and "does not belong to the private key" in said


def test_a_private_key_that_others_may_read_is_refused(tmp_path):
    pair = certificate(tmp_path)
    os.chmod(pair["private_key"], 0o644)
    said = refused(tmp_path, certificates=[pair], ca_directory=None)
    assert "vllm_gateway_certificates[0].private_key" in said and "has mode 0644" in said


def test_a_secret_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "secret"
    path.write_text(SECRET)
    path.chmod(0o640)
    said = refused(tmp_path, **key(sha256=None, file=str(path)))
    assert "vllm_gateway_clients[team-a].keys[0].file" in said and "has mode 0640" in said


@pytest.mark.parametrize("secret", ["short", "a" * 40, "with blanks in it and still long enough to be taken"])
def test_a_secret_that_can_be_guessed_is_refused(tmp_path, secret):
    path = tmp_path / "secret"
    path.write_text(secret)
    path.chmod(0o600)
    said = refused(tmp_path, **key(sha256=None, file=str(path)))
    assert "keys[0].file" in said and secret not in said


@pytest.mark.parametrize(
    ("changes", "path", "trouble"),
    [
        ({"clients": []}, "vllm_gateway_clients", "is missing or empty"),
        (client(instances=None), "vllm_gateway_clients[team-a].instances", "may call nothing"),
        (client(instances=[]), "vllm_gateway_clients[team-a].instances", "may call nothing"),
        (client(instances=["chta"]), "vllm_gateway_clients[team-a].instances[0]", "is no instance"),
        (client(instances=5, endpoints=["GET /v1/models"]), "vllm_gateway_clients[team-a].instances", "may call nothing"),
        (client(instances=[{}], endpoints=["GET /v1/models"]), "vllm_gateway_clients[team-a].instances[0]", "is no instance"),
        (client(endpoints=[]), "vllm_gateway_clients[team-a].endpoints", "is no list of endpoints"),
        (client(endpoints=["POST /v1/embeddings"]), "vllm_gateway_clients[team-a].endpoints[0]", "is served by none"),
        (client(name="Team A"), "vllm_gateway_clients[Team A].name", "is no name"),
        (client(rate=0), "vllm_gateway_clients[team-a].rate", "is no number of requests a minute"),
        (client(scope=["chat"]), "vllm_gateway_clients[team-a].scope", "is no key of a client"),
        (client(keys=None), "vllm_gateway_clients[team-a].keys", "is missing"),
        (client(keys=[]), "vllm_gateway_clients[team-a].keys", "is no list of keys"),
        (key(expires=None), "vllm_gateway_clients[team-a].keys[0].expires", "is no date"),
        (key(expires="soon"), "vllm_gateway_clients[team-a].keys[0].expires", "is no date"),
        (key(id="A b"), "vllm_gateway_clients[team-a].keys[0].id", "is no id"),
        (key(sha256="secret"), "vllm_gateway_clients[team-a].keys[0].sha256", "is no SHA-256 sum"),
        (key(sha256=None), "vllm_gateway_clients[team-a].keys[0]", "needs either sha256 or file"),
        (key(sha256=None, file="/nonexistent/key"), "vllm_gateway_clients[team-a].keys[0].file", "cannot be read: No such file"),
        ({"ca_directory": None}, "vllm_gateway_certificates", "is missing"),
        ({"limits": {"body_byte": 1}}, "vllm_gateway_limits.body_byte", "is no limit"),
        ({"limits": {"connections": -1}}, "vllm_gateway_limits.connections", "is no limit"),
        ({"limits": {"body_bytes": 4294967298}}, "vllm_gateway_limits.body_bytes", "is more than the gateway can count. Write at most 999999999"),
        ({"limits": {"connections": 1000000}}, "vllm_gateway_limits.connections", "is more than a process may have, with 1 instances"),
        ({"bounds": {"top_p": 1}}, "vllm_gateway_bounds.top_p", "can be bounded"),
        ({"bounds": {"n": 8}}, "vllm_gateway_limits.body_bytes", "more than the gateway can hold"),
        ({"administrators": ["no blank"]}, "vllm_gateway_administrators[0]", "is no common name"),
        ({"management_endpoints": ["POST /pause"]}, "vllm_gateway_administrators", "is missing"),
        ({"administrators": ["alice"], "management_endpoints": ["pause"]}, "vllm_gateway_management_endpoints[0]", "is no method and exact path"),
        ({"administrators": ["alice"], "administrators_ca": "/nonexistent.pem"}, "vllm_gateway_administrators_ca", "cannot be read"),
    ],
)
def test_what_cannot_work_is_refused_with_the_variable_named(tmp_path, changes, path, trouble):
    lines = [line for line in refused(tmp_path, **changes).splitlines() if path in line]
    assert lines and any(trouble in line for line in lines), lines


def test_all_problems_stand_in_one_message(tmp_path):
    said = refused(tmp_path, **client(instances=["x"], rate=0), limits={"connections": 0})
    assert said.startswith("vllm_gateway has 3 problems; nothing was changed.")


def test_three_valid_keys_are_one_too_many(tmp_path):
    sums = [hashlib.sha256(bytes([number])).hexdigest() for number in range(3)]
    keys = [{"id": f"k{number}", "sha256": value, "expires": "2027-01-31"} for number, value in enumerate(sums)]
    assert "more than two keys valid at once" in refused(tmp_path, **client(keys=keys))
    keys[0]["expires"] = "2026-01-31"
    assert len(read(tmp_path, **client(keys=keys))[1]["keys.map"].splitlines()) == 3


def test_one_key_belongs_to_one_client(tmp_path):
    clients = client()["clients"] + client(name="team-b")["clients"]
    assert "vllm_gateway_clients[team-b].keys[a]" in refused(tmp_path, clients=clients)


def test_what_expires_soon_is_warned_of(tmp_path):
    warnings = read(tmp_path, **key(expires="2026-11-30"))[2]["warnings"]
    assert warnings == ["the key a of client team-a expires within 14 days"]
    assert read(tmp_path, **key(expires="2026-11-01"))[2]["warnings"] == ["no key of client team-a is valid any more"]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-01-31", "2027-02-01T00:00:00+00:00"),
        ("2027-01-31T12:00:00Z", "2027-01-31T12:00:00+00:00"),
        ("2027-01-31T12:00:00+02:00", "2027-01-31T10:00:00+00:00"),
    ],
)
def test_a_day_ends_at_its_end(text, moment):
    assert gateway_keys.expiry(text) == datetime.datetime.fromisoformat(moment).timestamp()


def test_a_key_that_never_ends_is_no_error():
    assert gateway_keys.expiry("9999-12-31") == gateway_keys.expiry("9999-12-30") + 86400


def test_a_rotation_has_two_valid_keys_and_then_the_new_one(tmp_path):
    store = gateway_keys.KeyStore(str(tmp_path / "keys"))
    (old,), _made = store.keys("team-a", NOW)
    new = store.add("team-a", NOW)
    assert [entry["id"] for entry in store.keys("team-a", NOW)[0]] == [old["id"], new] == ["20261123", "20261123-120000"]
    with pytest.raises(gateway_tls.Unusable, match="two valid keys"):
        store.add("team-a", NOW)
    store.retire("team-a", old["id"])
    assert [entry["id"] for entry in store.keys("team-a", NOW)[0]] == [new]
    with pytest.raises(gateway_tls.Unusable, match="no other key"):
        store.retire("team-a", new)
    assert store.add("team-a", NOW + datetime.timedelta(seconds=1)) not in (old["id"], new)


def test_a_store_that_others_may_read_is_refused(tmp_path):
    (tmp_path / "keys").mkdir(mode=0o755)
    said = refused(tmp_path, **client(keys=None), key_directory=str(tmp_path / "keys"))
    assert "vllm_gateway_key_directory" in said and "has mode 0755" in said


@pytest.mark.parametrize("content", ["x", "{}", '{"keys": [{"id": "a", "secret": "s", "expires": "soon"}]}'])
def test_a_store_that_somebody_edited_is_refused(tmp_path, content):
    changes = {**client(keys=None), "key_directory": str(tmp_path / "keys")}
    read(tmp_path, **changes)
    (tmp_path / "keys" / "team-a.json").write_text(content)
    said = refused(tmp_path, **changes)
    assert "vllm_gateway_key_directory" in said and "has a file team-a.json that is not" in said


def place(**changes):
    """One instance with changed settings; None takes one away."""
    entry = {**variables(pathlib.Path())["instances"][0], **changes}
    return {"instances": [{name: value for name, value in entry.items() if value is not None}]}


@pytest.mark.parametrize(
    ("changes", "variable", "trouble"),
    [
        ({"instances": []}, "vllm_gateway_instances", "is missing or empty"),
        ({"instances": ["chat"]}, "vllm_gateway_instances[0]", "is no mapping"),
        (place(name="chat\n    bind *:80"), "vllm_gateway_instances[0].name", "is no name"),
        (place(name="gateway"), "vllm_gateway_instances[0].name", "is no name"),
        ({"instances": place()["instances"] * 2}, "vllm_gateway_instances[1].name", "stands there twice"),
        (place(addresses=["0.0.0.0"]), "vllm_gateway_instances[0].addresses[0]", "is a wildcard"),
        (place(addresses=[]), "vllm_gateway_instances[0].addresses", "is no list of addresses"),
        (place(port=443), "vllm_gateway_instances[0].port", "needs a privilege"),
        (place(port=70000), "vllm_gateway_instances[0].port", "is no port"),
        (place(addresses=["10.77.0.11"], port=7444), "vllm_gateway_metrics.port", "is the port of vllm_gateway_instances[0] on 10.77.0.11 too"),
        (place(addresses=["127.0.0.1"], port=17443), "vllm_gateway_instances[0].backends[0].port", "is the port of vllm_gateway_instances[0]"),
        (place(backends=[]), "vllm_gateway_instances[0].backends", "is no list of engines"),
        (place(backends=[{"address": "engine.example.com", "port": 17443}]), "vllm_gateway_instances[0].backends[0].address", "is not a numeric address"),
        (place(server_names=None), "vllm_gateway_instances[0].server_names", "is no list"),
        (place(server_names=["chat example"]), "vllm_gateway_instances[0].server_names[0]", "is no DNS name"),
        (place(endpoints=['GET /v1/models" or TRUE']), "vllm_gateway_instances[0].endpoints[0]", "is served by no engine"),
        (place(endpoints=["POST /invocations"]), "vllm_gateway_instances[0].endpoints[0]", "is a second way to every inference endpoint"),
        (place(weight=3), "vllm_gateway_instances[0].weight", "is no setting of an instance"),
        ({"metrics": {}}, "vllm_gateway_metrics", "is missing"),
        ({"management_names": ["x y"]}, "vllm_gateway_management_names[0]", "is no DNS name"),
        ({"client_networks": []}, "vllm_gateway_client_networks", "is missing or empty"),
        ({"client_networks": ["10.77.1.129/25"]}, "vllm_gateway_client_networks[0]", "has host bits set"),
        ({"monitor_networks": ["0.0.0.0/0"]}, "vllm_gateway_monitor_networks[0]", "is the whole Internet"),
        ({"threads": 0}, "vllm_gateway_threads", "is no number of threads"),
        ({"program": "/usr/sbin/haproxy -d"}, "vllm_gateway_program", "is no plain path"),
    ],
)
def test_places_that_cannot_be_or_collide_are_refused(tmp_path, changes, variable, trouble):
    lines = [line for line in refused(tmp_path, **changes).splitlines() if f" {variable}" in line]
    assert lines and any(trouble in line for line in lines), refused(tmp_path, **changes)
