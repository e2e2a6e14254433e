# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the gateway of a node runs with: HAProxy's configuration, its lists and its unit, as text. Pure functions.

Written for HAProxy 2.6 (Debian 12) and newer. No secret is in what these functions return: client keys are SHA-256 sums of secrets with
at least 128 bits of entropy, for which a fast hash without a salt is right; the keys of the engines are made on the node.
"""

from __future__ import annotations

import ipaddress
import re

DIRECTORY = "/etc/vllm-hardening/gateway"
RUNTIME = "/run/vllm-gateway"
USER = "vllm-gateway"
UNIT = "vllm-gateway.service"
PROGRAM = "/usr/sbin/haproxy"
EXPIRY_SERVICE, EXPIRY_TIMER = "vllm-gateway-expiry.service", "vllm-gateway-expiry.timer"
EXPIRY_PROGRAM = "/usr/local/lib/vllm-gateway/expiry.py"
EXPIRY_METRICS = "/run/vllm-gateway-expiry/expiry.prom"
HEADER = "# Managed by vllm_mindspore.hardening; changes are overwritten."

LIMITS = {
    "body_bytes": 8 * 1024 * 1024,
    "connections": 2000,
    "connections_per_address": 1000,
    "header_seconds": 10,
    "body_seconds": 30,
    "stream_seconds": 600,
    "failures_per_minute": 20,
}
# Mozilla's "modern" profile. Without the list of curves OpenSSL offers secp521r1 and X448, which that profile rejects.
_CIPHERS = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
_CURVES = "X25519:P-256:P-384"
# Headers that tell the engine who asks, or that HAProxy decides: a client's own words about them are dropped.
_DROPPED_HEADERS = ("authorization", "forwarded", "via", "x-real-ip", "cookie", "proxy", "proxy-authorization", "x-request-id")
# HAProxy reads lengths as numbers of 32 bits; one of so many digits at most is what it seems.
LENGTH_DIGITS = 9
HEADER_BYTES = 8192


def configuration(settings):
    """The text of haproxy.cfg.

    ``settings``: ``instances`` and ``metrics`` as in the plan, ``administrators`` (names of client certificates), ``management_endpoints``
    (method and path, for administrators), ``limits`` (as LIMITS), ``bounds`` (largest number by key of a JSON request) and ``threads``.
    """
    limits = {**LIMITS, **settings.get("limits", {})}
    lines = [HEADER, *_global(settings, limits), *_defaults(limits), *_tables()]
    for instance in settings["instances"]:
        lines += _api(instance, limits, settings.get("bounds", {}))
        lines += _backend(instance, limits)
    lines += _management(settings, limits)
    return "\n".join(lines) + "\n"


def _global(settings, limits):
    lines = [
        "global",
        "    log stdout format short daemon",
        f"    maxconn {_connections(settings, limits)}",
        f"    nbthread {settings.get('threads', 4)}",
        f"    stats socket {RUNTIME}/admin.sock mode 600 level admin",
        "    stats timeout 30s",
        # Streams of the configuration before a reload run to their end; those in which nothing moves end by themselves.
        "    hard-stop-after 24h",
        "    ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets",
        f"    ssl-default-bind-ciphersuites {_CIPHERS}",
        f"    ssl-default-bind-curves {_CURVES}",
        "    tune.http.maxhdr 64",
        "    tune.ssl.cachesize 0",
    ]
    if settings.get("bounds"):
        # A request whose content is judged has to fit into a buffer as a whole.
        lines.append(f"    tune.bufsize {buffer_size(limits['body_bytes'])}")
    return lines


def _connections(settings, limits):
    """Connections of clients at once, those to the management frontend among them."""
    return limits["connections"] * (len(settings["instances"]) + 1)


def descriptors(settings):
    """Files that the gateway may have open: two a connection, from the client and to the engine, and what HAProxy needs beside."""
    return max(65536, 2 * _connections(settings, {**LIMITS, **settings.get("limits", {})}) + 4096)


def buffer_size(body_bytes):
    """Bytes of a buffer that holds a body of that size with its headers."""
    return body_bytes + 32768


def _defaults(limits):
    fields = [
        "client=%[var(txn.client)]",
        "key=%[var(txn.key_id)]",
        "source=%ci",
        "frontend=%f",
        "method=%HM",
        "path=%{+Q}[var(txn.path)]",
        "status=%ST",
        "refused=%[var(txn.refused)]",
        "bytes_in=%U",
        "bytes_out=%B",
        "first_byte_ms=%Tr",
        "total_ms=%Ta",
        "end=%tsc",
        "request=%ID",
    ]
    lines = [
        "defaults",
        "    mode http",
        "    log global",
        f"    log-format \"{' '.join(fields)}\"".replace("%{+Q}", "%{+Q,+E}"),
        "    option dontlognull",
        "    option abortonclose",
        "    option disable-h2-upgrade",
        "    option redispatch 1",
        "    retries 2",
        "    timeout connect 5s",
        f"    timeout http-request {limits['header_seconds']}s",
        "    timeout http-keep-alive 60s",
        "    timeout queue 30s",
        # For what a client has to send, its TLS handshake among it: a client that waits for its answer is not held to it.
        f"    timeout client {limits['header_seconds'] + limits['body_seconds']}s",
        f"    timeout server {limits['stream_seconds']}s",
        "    timeout client-fin 10s",
        "    unique-id-format %[uuid]",
    ]
    for status, message in (
        (400, "The request is malformed."),
        (408, "The request took too long to arrive."),
        (500, "The gateway failed."),
        (502, "The engine gave no valid answer."),
        (503, "The engine is not available."),
        (504, "The engine did not answer in time."),
    ):
        lines.append(f"    http-error status {status} content-type application/json string '{_error(status, message)}'")
    return lines


def _tables():
    """Counters: requests and open requests by client, connections and failed authentications by source address."""
    return [
        "backend gateway_clients",
        "    stick-table type string len 64 size 10k expire 10m store http_req_rate(1m),conn_cur",
        "backend gateway_keys",
        "    stick-table type string len 80 size 20k expire 20d store http_req_cnt",
        "backend gateway_failures",
        "    stick-table type ipv6 size 100k expire 10m store conn_cur,gpc0,gpc0_rate(1m)",
    ]


def _error(status, message):
    """An error as the OpenAI API shapes it; the messages hold no quotes."""
    return '{"error":{"message":"%s","type":"gateway_error","code":%d}}' % (message, status)


def _refuse(reason, status, message, condition, headers=()):
    """Two rules: name the reason for the log, and answer."""
    extra = "".join(f" hdr {name} {value}" for name, value in headers)
    answer = f"content-type application/json string '{_error(status, message)}'{extra}"
    return [
        f"    http-request set-var(txn.refused) str({reason}) if {condition}",
        f"    http-request return status {status} {answer} if {condition}",
    ]


def _bind(address, port, options=""):
    # HTTP/1.1 only: the engines speak nothing else, and what is not translated cannot be smuggled.
    return f"    bind {_address({'address': address, 'port': port})} ssl crt {DIRECTORY}/certificates/ alpn http/1.1{options}"


def hosts(names, addresses, port):
    """Every spelling of Host that means this listener, with the port and without."""
    literal = [f"[{address}]" if ":" in address else address for address in addresses]
    return [spelling for name in [*names, *literal] for spelling in (name, f"{name}:{port}")]


def _common(frontend, names, addresses, port, networks, limits, options=""):
    lines = [f"frontend {frontend}"]
    lines += [_bind(address, port, options) for address in addresses]
    lines += [
        f"    tcp-request connection reject unless {{ src -f {DIRECTORY}/{networks}.lst }}",
        # One address does not take the connections of all others, whatever it sends over its own or does not.
        "    tcp-request connection track-sc0 src table gateway_failures",
        f"    tcp-request connection reject if {{ sc_conn_cur(0) gt {limits['connections_per_address']} }}",
        # The log takes the path without the query, cut, and only of what is answered here or allowed.
        "    http-request set-var(txn.path) path,bytes(0,96)",
        '    http-request set-var-fmt(txn.endpoint) "%[method] %[path]"',
        "    http-after-response set-header Strict-Transport-Security max-age=63072000",
        "    http-after-response set-header X-Content-Type-Options nosniff",
        "    http-after-response set-header Cache-Control no-store",
        "    http-after-response set-header X-Request-Id %[unique-id]",
        "    http-after-response del-header Server",
        "    http-after-response del-header access-control- -m beg",
        f"    acl long_headers req.hdrs,length gt {HEADER_BYTES}",
        # Control characters and bytes beyond ASCII come out of the converter as escapes; HAProxy 2.6 lets a zero byte pass.
        # It gives nothing where its output does not fit into a buffer, so that what it did not read is odd too.
        "    acl odd_headers var(req.headers) -m sub \\\\u00",
        "    acl plain_headers var(req.headers) -m found",
        "    acl origin_form url_beg /",
        "    acl known_version req.ver -m str 1.0 1.1",
    ]
    lines += _refuse("headers", 431, f"The headers are longer than {HEADER_BYTES} bytes.", "long_headers")
    lines.append("    http-request set-var(req.headers) req.hdrs,json(ascii)")
    lines += _refuse("syntax", 400, "The request is malformed.", "odd_headers or !plain_headers or !origin_form or !known_version")
    lines += [
        "    acl one_host req.fhdr_cnt(host) eq 1",
        f"    acl known_host req.fhdr(host),lower -m str {' '.join(hosts(names, addresses, port))}",
    ]
    lines += _refuse("host", 421, "This host is not served here.", "!one_host or !known_host")
    lines += [
        "    acl chunked req.hdr(transfer-encoding) -m found",
        "    acl upgrade req.hdr(upgrade) -m found",
        "    acl many_lengths req.fhdr_cnt(content-length) gt 1",
        f"    acl endless req.hdr(content-length),length gt {LENGTH_DIGITS}",
        '    acl decorated url -m sub ? "#"',
    ]
    lines += _refuse("upgrade", 400, "Protocol upgrades are not served here.", "upgrade")
    lines += _refuse("length", 411, "Send the body with one Content-Length.", "chunked or many_lengths")
    lines += _refuse("size", 413, "The body is longer than anything that is served here.", "endless")
    return lines


def _api(instance, limits, bounds):
    """The frontend of one instance: who asks, for what, how much, how often; then the engine."""
    name = instance["name"]
    lines = _common(f"{name}", instance["server_names"], instance["addresses"], instance["port"], "clients", limits)
    lines.insert(1, f"    maxconn {limits['connections']}")
    endpoints = " ".join(f'"{endpoint}"' for endpoint in instance["endpoints"])
    lines.append(f"    acl served var(txn.endpoint) -m str {endpoints}")
    lines += _refuse("endpoint", 404, "This endpoint is not served here.", "!served or decorated")
    lines += [
        "    acl post method POST",
        "    acl has_length req.hdr(content-length) -m found",
        f"    acl too_long req.hdr_val(content-length) gt {limits['body_bytes']}",
        "    acl has_body req.hdr_val(content-length) gt 0",
    ]
    lines += _refuse("length", 411, "Send the body with one Content-Length.", "post !has_length")
    lines += _refuse("size", 413, f"The body is larger than {limits['body_bytes']} bytes.", "too_long")
    lines += _refuse("body", 400, "This method takes no body.", "!post has_body")
    lines += _authentication(name, limits)
    lines += _usage()
    lines.append(f"    http-request wait-for-body time {limits['body_seconds']}s if post")
    lines += _bounds(bounds)
    lines += _forward(name)
    return lines


def _authentication(name, limits):
    """A key is looked up by the SHA-256 of the secret, so the time that takes tells nothing about a secret.

    Many failures from one address are answered sooner and shorter; a valid key is never refused for the failures of others.
    """
    lines = [
        f"    http-request set-var(txn.key) http_auth_bearer,sha2(256),hex,lower,map_str({DIRECTORY}/keys.map)",
        "    http-request set-var(txn.client) var(txn.key),word(1,:)",
        "    http-request set-var(txn.key_id) var(txn.key),word(2,:)",
        "    http-request set-var(txn.expires) var(txn.key),word(3,:),add(0)",
        "    http-request set-var(txn.rate) var(txn.key),word(4,:),add(0)",
        "    http-request set-var(txn.concurrency) var(txn.key),word(5,:),add(0)",
        "    acl one_credential req.fhdr_cnt(authorization) eq 1",
        "    acl known_key var(txn.key) -m found",
        "    acl expired date,sub(txn.expires) ge 0",
        "    acl failing sc_gpc0_rate(0) gt %d" % limits["failures_per_minute"],
        "    http-request sc-inc-gpc0(0) if !one_credential or !known_key or expired",
    ]
    bearer = [("WWW-Authenticate", "Bearer")]
    lines += _refuse("failures", 429, "Too many failed attempts.", "failing !one_credential or failing !known_key or failing expired", [("Retry-After", "60")])
    lines += _refuse("credential", 401, "Send one API key as Authorization: Bearer.", "!one_credential", bearer)
    lines += _refuse("key", 401, "The API key is not known.", "!known_key", bearer)
    lines += _refuse("expired", 401, "The API key has expired.", "expired", bearer)
    lines += [
        f'    http-request set-var-fmt(txn.scope) "%[var(txn.client)] {name} %[var(txn.endpoint)]"',
        f"    acl in_scope var(txn.scope) -m str -f {DIRECTORY}/scopes.lst",
    ]
    lines += _refuse("scope", 403, "The API key is not valid for this endpoint.", "!in_scope")
    return lines


def _usage():
    lines = [
        '    http-request set-var-fmt(txn.key_name) "%[var(txn.client)]:%[var(txn.key_id)]"',
        "    http-request track-sc1 var(txn.client) table gateway_clients",
        "    http-request track-sc2 var(txn.key_name) table gateway_keys",
        "    acl too_often sc_http_req_rate(1),sub(txn.rate) gt 0",
        "    acl too_many sc_conn_cur(1),sub(txn.concurrency) gt 0",
    ]
    lines += _refuse("rate", 429, "The key has used up its requests for this minute.", "too_often", [("Retry-After", "10")])
    lines += _refuse("concurrency", 429, "The key has too many requests open.", "too_many", [("Retry-After", "1")])
    return lines


def _forward(name):
    """What reaches the engine: the allowed path, a Host and a key of our own, nothing that a client says about itself."""
    lines = [f"    http-request del-header {header}" for header in _DROPPED_HEADERS]
    lines += [
        "    http-request del-header x-forwarded- -m beg",
        "    http-request set-uri %[path]",
        "    http-request set-header Host engine",
        f'    http-request set-header Authorization "Bearer %[str({name}),map_str({DIRECTORY}/backends.map)]"',
        "    http-request set-header X-Request-Id %[unique-id]",
        f"    default_backend {name}",
    ]
    return lines


def _backend(instance, limits):
    name = instance["name"]
    lines = [
        f"backend {name}",
        "    balance leastconn",
        "    option httpchk",
        "    http-check send meth GET uri /health ver HTTP/1.1 hdr Host engine",
        "    http-check expect status 200",
        "    timeout check 10s",
        f"    default-server check inter 2s fall 5 rise 1 maxconn {limits['connections']}",
        *_own_key_refused(),
    ]
    for number, backend in enumerate(instance["backends"]):
        lines.append(f"    server {name}-{number} {_address(backend)}")
    return lines


def _own_key_refused():
    """An engine that refuses the gateway's key has not been restarted with it yet; that is nothing about the key of the client."""
    answer = f"content-type application/json string '{_error(503, 'The engine is not available.')}'"
    return [
        "    http-response set-var(txn.refused) str(engine) if { status 401 }",
        f"    http-response return status 503 {answer} if {{ status 401 }}",
    ]


def _management(settings, limits):
    """Metrics and health for monitors; what changes the state of an engine for administrators with a certificate."""
    metrics, administrators = settings["metrics"], settings.get("administrators", [])
    options = f" ca-file {DIRECTORY}/administrators.pem verify optional" if administrators else ""
    names = settings.get("management_names", [])
    lines = _common("gateway_management", names, metrics["addresses"], metrics["port"], "monitors", limits, options)
    lines += ["    http-request set-var(txn.client) ssl_c_s_dn(cn) if { ssl_c_used }"] if administrators else []
    lines += ["    acl has_body req.hdr_val(content-length) gt 65536"]
    lines += _refuse("size", 413, "The body is larger than 65536 bytes.", "has_body")
    ways, backends = [], []
    for place in _places(settings["instances"]):
        name, path = place["name"], place["path"]
        lines.append(f'    acl read_{name} var(txn.endpoint) -m str "GET {path}/metrics" "GET {path}/health"')
        allowed = f"read_{name}"
        if administrators and settings.get("management_endpoints"):
            changes = " ".join('"{} {}{}"'.format(method, path, target) for method, target in map(str.split, settings["management_endpoints"]))
            lines.append(f"    acl change_{name} var(txn.endpoint) -m str {changes}")
            allowed += f" or change_{name}"
        ways.append((name, allowed))
    lines += _refuse("endpoint", 404, "This endpoint is not served here.", "decorated")
    lines += ['    acl own_health var(txn.endpoint) -m str "GET /health"']
    lines.append("    http-request return status 200 content-type text/plain string ok if own_health")
    if administrators and settings.get("management_endpoints"):
        common_names = " ".join(administrators)
        lines.append("    acl certified ssl_c_used ssl_c_verify 0")
        lines.append(f"    acl administrator ssl_c_s_dn(cn) -m str {common_names}")
        for name, _allowed in ways:
            lines += _refuse("administrator", 403, "This needs the certificate of an administrator.", f"change_{name} !certified")
            lines += _refuse("administrator", 403, "This needs the certificate of an administrator.", f"change_{name} !administrator")
    for name, allowed in ways:
        lines.append(f"    use_backend {name}_management if {allowed}")
    lines.append("    default_backend gateway_nothing")
    for place in _places(settings["instances"]):
        backends += [
            f"backend {place['name']}_management",
            f"    http-request set-path /%[path,field({place['path'].count('/') + 2},/,0)]",
            *[f"    http-request del-header {header}" for header in _DROPPED_HEADERS],
            "    http-request set-header Host engine",
            f'    http-request set-header Authorization "Bearer %[str({place["instance"]}),map_str({DIRECTORY}/backends.map)]"',
            *_own_key_refused(),
            f"    server {place['server']} {_address(place['backend'])} track {place['instance']}/{place['server']}",
        ]
    backends.append("backend gateway_nothing")
    backends += _refuse("endpoint", 404, "This endpoint is not served here.", "TRUE")
    return lines + backends


def _places(instances):
    """What monitors and administrators name in a path: an instance, or each engine of one that has several, counted from 0.

    A counter read from whichever engine is free means nothing, and a change of state is meant for one engine.
    """
    for instance in instances:
        for number, backend in enumerate(instance["backends"]):
            several = len(instance["backends"]) > 1
            yield {
                "instance": instance["name"],
                "name": f"{instance['name']}_{number}" if several else instance["name"],
                "path": f"/{instance['name']}/{number}" if several else f"/{instance['name']}",
                "server": f"{instance['name']}-{number}",
                "backend": backend,
            }


def _address(place):
    return f"[{place['address']}]:{place['port']}" if ":" in place["address"] else f"{place['address']}:{place['port']}"


def _bounds(bounds):
    """Refuse a JSON body in which a bounded key has a larger number, however the key is spelled and wherever it stands.

    The last of two equal keys counts for Python's parser, a letter may be written as an escape, and a body may be UTF-16: so every
    occurrence is judged, escapes are part of the pattern, and a body that Python would not read as UTF-8 (json.detect_encoding looks at
    the first four bytes) is refused.
    """
    if not bounds:
        return []
    lines = ["    acl binary_body req.body,bytes(0,4),hex -m reg -i '^(?:..){0,3}00|^fffe|^feff'"]
    lines += _refuse("body", 400, "The body is not UTF-8 text.", "binary_body")
    for key, bound in sorted(bounds.items()):
        lines.append(f"    acl exceeds_{key} req.body -m reg '{exceeding(key, bound)}'")
        lines += _refuse("bound", 400, f"{key} is larger than {bound}.", f"exceeds_{key}")
    return lines


def exceeding(key, bound):
    """A Perl-compatible expression that finds a JSON member ``key`` whose value is neither null, an object, an array nor a number
    from 0 to ``bound``."""
    letters = "".join(_letter(character) for character in key)
    number = rf"0*(?:{at_most(bound)})(?:\.0+)?"
    return rf'"{letters}"\s*:\s*+(?!(?:null|{number})\s*[,}}]|[{{\[])'


def _letter(character):
    code = f"{ord(character):04x}"
    digits = "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in code)
    return rf"(?:{re.escape(character)}|\\u{digits})"


def at_most(bound):
    """An expression for the decimal numbers 0 to ``bound`` without leading zeros."""
    text = str(bound)
    choices = [text]
    for index, digit in enumerate(text):
        low = 1 if index == 0 and len(text) > 1 else 0
        if int(digit) > low:
            rest = len(text) - index - 1
            choices.append(f"{text[:index]}[{low}-{int(digit) - 1}]" + (f"[0-9]{{{rest}}}" if rest else ""))
        elif int(digit) == low and index and digit != "0":
            continue
    if len(text) > 1:
        shorter = len(text) - 2
        choices.append("[1-9][0-9]{0,%d}" % shorter if shorter else "[1-9]")
        choices.append("0")
    return "|".join(choices)


def scopes(clients, instances):
    """Lines ``CLIENT INSTANCE METHOD PATH`` of everything that a client may call on this node."""
    lines = []
    for client in clients:
        for instance in instances:
            if instance["name"] not in client["instances"]:
                continue
            allowed = client.get("endpoints") or instance["endpoints"]
            lines += [f"{client['name']} {instance['name']} {endpoint}" for endpoint in instance["endpoints"] if endpoint in allowed]
    return _lines(lines)


def key_map(clients):
    """Lines ``SHA256 CLIENT:ID:EXPIRY:RATE:CONCURRENCY``, expiry in seconds since 1970, rate in requests a minute."""
    entries = [
        f"{key['sha256']} {client['name']}:{key['id']}:{key['expires']}:{client['rate']}:{client['concurrency']}"
        for client in clients
        for key in client["keys"]
    ]
    return _lines(sorted(entries))


def network_list(networks):
    """One network a line, both families."""
    return _lines(str(ipaddress.ip_network(network)) for network in networks)


def _lines(items):
    return "".join(f"{item}\n" for item in items)


def unit(networks, program=PROGRAM, bounds=False, open_files=65536):
    """The text of the unit; ``networks`` may open connections to it, the kernel drops packets of all others.

    With ``bounds`` the configuration holds regular expressions, which PCRE2 compiles to machine code while it starts.
    """
    others = {ipaddress.ip_network(network) for network in networks}
    allowed = " ".join(["localhost", *sorted(str(network) for network in others if not network.is_loopback)])
    configuration_file = f"{DIRECTORY}/haproxy.cfg"
    lines = [
        HEADER,
        "[Unit]",
        "Description=Gateway in front of the vLLM instances of this node",
        "Documentation=https://docs.haproxy.org/",
        "Wants=network-online.target",
        "After=network-online.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=notify",
        f"User={USER}",
        f"Group={USER}",
        f"ExecStartPre={program} -c -f {configuration_file}",
        f"ExecStart={program} -Ws -f {configuration_file} -S {RUNTIME}/master.sock,mode,600",
        f"ExecReload={program} -c -f {configuration_file}",
        "ExecReload=/bin/kill -USR2 $MAINPID",
        "KillMode=mixed",
        "SuccessExitStatus=143",
        "Restart=always",
        "RestartSec=2",
        "TimeoutStopSec=30",
        f"LimitNOFILE={open_files}",
        f"RuntimeDirectory={RUNTIME.rpartition('/')[2]}",
        "RuntimeDirectoryMode=0700",
        "UMask=0077",
        "",
        *_sandbox(),
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        f"MemoryDenyWriteExecute={'false' if bounds else 'true'}",
        "SystemCallFilter=~@privileged @resources",
        "IPAddressDeny=any",
        f"IPAddressAllow={allowed}",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _sandbox():
    """What both units of the gateway are denied."""
    return [
        "NoNewPrivileges=true",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "ProtectSystem=strict",
        "ProtectHome=true",
        "ProtectProc=invisible",
        "ProcSubset=pid",
        "ProtectClock=true",
        "ProtectHostname=true",
        "ProtectKernelLogs=true",
        "ProtectKernelModules=true",
        "ProtectKernelTunables=true",
        "ProtectControlGroups=true",
        "PrivateTmp=true",
        "PrivateDevices=true",
        "PrivateUsers=true",
        "PrivateMounts=true",
        "PrivateIPC=true",
        "DevicePolicy=closed",
        "RemoveIPC=true",
        "KeyringMode=private",
        "RestrictNamespaces=true",
        "RestrictRealtime=true",
        "RestrictSUIDSGID=true",
        "LockPersonality=true",
        "SystemCallArchitectures=native",
        "SystemCallErrorNumber=EPERM",
        "SystemCallFilter=@system-service",
    ]


def expiry_units(warning_days):
    """{name: text} of the timer that watches certificates and keys, and of its service. ``@PYTHON@`` stands for the node's interpreter.

    The service runs as the gateway's own account, which can read these files anyway, without any network.
    """
    service = [
        HEADER,
        "[Unit]",
        "Description=When certificates and keys of the gateway end",
        "",
        "[Service]",
        "Type=oneshot",
        f"User={USER}",
        f"Group={USER}",
        f"ExecStart=@PYTHON@ -I -S {EXPIRY_PROGRAM} {DIRECTORY} {warning_days} {EXPIRY_METRICS}",
        "SyslogIdentifier=vllm-gateway-expiry",
        f"RuntimeDirectory={EXPIRY_METRICS.split('/')[2]}",
        "RuntimeDirectoryMode=0755",
        "RuntimeDirectoryPreserve=yes",
        "TimeoutStartSec=60",
        "UMask=0077",
        "",
        *_sandbox(),
        "PrivateNetwork=true",
        "RestrictAddressFamilies=AF_UNIX",
        "MemoryDenyWriteExecute=true",
        "SystemCallFilter=~@privileged @resources",
        "IPAddressDeny=any",
        f"InaccessiblePaths=-{RUNTIME}",
    ]
    timer = [
        HEADER,
        "[Unit]",
        "Description=Watch certificates and keys of the gateway",
        "",
        "[Timer]",
        "OnActiveSec=1s",
        "OnUnitActiveSec=1h",
        "AccuracySec=1s",
        "",
        "[Install]",
        "WantedBy=timers.target",
    ]
    return {EXPIRY_SERVICE: "\n".join(service) + "\n", EXPIRY_TIMER: "\n".join(timer) + "\n"}
