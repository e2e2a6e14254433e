# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A site's PKI in small: an authority, and for every node a certificate for its internal address and for loopback, as server and as client.

    pki.py FOLDER NODE=ADDRESS...     writes authority.pem, and NODE.pem and NODE.key of each
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def certificate(name, key, issuer, issuer_key, addresses):
    """A certificate of a week; of an authority where it has no addresses."""
    begin = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject).issuer_name(issuer or subject).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(begin).not_valid_after(begin + datetime.timedelta(days=7))
        .add_extension(x509.BasicConstraints(ca=not addresses, path_length=None), critical=True)
    )
    if addresses:
        names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(usage, critical=False)
    return builder.sign(issuer_key or key, hashes.SHA256())


def main(folder, *nodes):
    """Write the files."""
    os.makedirs(folder, mode=0o700)

    def write(name, content):
        with open(os.path.join(folder, name), "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
            stream.write(content)

    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = certificate("site", authority_key, None, None, ())
    write("authority.pem", authority.public_bytes(serialization.Encoding.PEM))
    for node, _sign, address in (word.partition("=") for word in nodes):
        key = ec.generate_private_key(ec.SECP256R1())
        issued = certificate(node, key, authority.subject, authority_key, (address, "127.0.0.1"))
        write(f"{node}.pem", issued.public_bytes(serialization.Encoding.PEM))
        write(f"{node}.key", key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


if __name__ == "__main__":
    main(*sys.argv[1:])
