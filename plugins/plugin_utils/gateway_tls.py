# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Certificates on the controller: judging those that a site brings, and an authority of one's own for those that it does not.

``cryptography`` is what ansible-core itself needs for Vault, so that nothing is added to a controller.
"""

from __future__ import annotations

import datetime
import fcntl
import ipaddress
import os
import stat
import tempfile
from contextlib import contextmanager

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:  # not where sanity tests import every plugin; ansible-core itself does not work without it
    x509 = None

# Mozilla's "modern" profile takes these curves, and certificates that live no longer than 90 days.
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384"}
LEAF_DAYS = 90
AUTHORITY_DAYS = 3650
# The clock of a client may be behind.
_BACKDATED = datetime.timedelta(hours=1)


class Unusable(ValueError):
    """A certificate or key that cannot be used; the text says what it is instead and ends before a full stop."""


def private_mode(path):
    """Raise Unusable where a file or directory with a secret is open to others than its owner."""
    found = os.stat(path)
    if found.st_mode & 0o077:
        raise Unusable(f"has mode {stat.S_IMODE(found.st_mode):04o}, so that others than its owner may read it")
    if found.st_uid not in (0, os.geteuid()):
        raise Unusable("belongs to another user")


@contextmanager
def exclusive(directory, write):
    """Alone in a directory of secrets, which ``write`` makes where it is missing: several hosts of a play ask at the same time."""
    if not write and not os.path.isdir(directory):
        yield
        return
    if write:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    private_mode(directory)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_secret(path):
    """The bytes of a file that nobody but its owner can read; raises Unusable or OSError."""
    private_mode(path)
    with open(path, "rb") as stream:
        return stream.read()


def judge(chain, key, names, now):
    """Check a certificate chain (PEM, leaf first) and its private key (PEM, not encrypted) for a server.

    ``names`` are the DNS names and addresses that it has to be valid for, ``now`` is an aware datetime. Returns a dict for the report
    (subject, names, not_after, days_left); raises Unusable with the first reason against it.
    """
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError:
        raise Unusable("holds no certificate in PEM form") from None
    leaf = certificates[0]
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Unusable("has a private key that is not in PEM form without a passphrase") from None
    if leaf.not_valid_before_utc > now:
        raise Unusable(f"is valid only from {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on")
    if leaf.not_valid_after_utc <= now:
        raise Unusable(f"expired at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    public = leaf.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise Unusable("has no elliptic-curve key, which the modern TLS profile asks for")
    if public.curve.name not in CURVES:
        raise Unusable(f"uses the curve {public.curve.name}, which the modern TLS profile does not take")
    if _spki(private.public_key()) != _spki(public):
        raise Unusable("does not belong to the private key")
    if leaf.signature_hash_algorithm is not None and leaf.signature_hash_algorithm.digest_size < 32:
        raise Unusable(f"is signed with {leaf.signature_hash_algorithm.name}")
    for issued, issuer in zip(certificates, certificates[1:]):
        try:
            issued.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError):
            raise Unusable("has a chain that is not in order: each certificate is issued by the next") from None
        if issuer.not_valid_after_utc <= now:
            raise Unusable(f"has a chain of which {issuer.subject.rfc4514_string()} expired at {issuer.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    dns, addresses = _alternative_names(leaf)
    missing = [name for name in names if not covered(name, dns, addresses)]
    if missing:
        raise Unusable(f"is not valid for {', '.join(missing)}")
    return _report(leaf, dns, addresses, now)


def names_of(chain):
    """(DNS names, addresses) that the first certificate of a PEM chain is valid for; raises Unusable."""
    try:
        return _alternative_names(x509.load_pem_x509_certificates(chain)[0])
    except ValueError:
        raise Unusable("holds no certificate in PEM form") from None


def _report(leaf, dns, addresses, now):
    return {
        "names": sorted(dns) + sorted(addresses),
        "not_after": leaf.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "days_left": (leaf.not_valid_after_utc - now).days,
        "serial": f"{leaf.serial_number:X}",
    }


def _spki(public):
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _alternative_names(leaf):
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set(), set()
    dns = {name.lower() for name in found.get_values_for_type(x509.DNSName)}
    return dns, {str(address) for address in found.get_values_for_type(x509.IPAddress)}


def covered(name, dns, addresses):
    """Whether a DNS name or address is among those of a certificate; a wildcard stands for one label."""
    try:
        return str(ipaddress.ip_address(name)) in addresses
    except ValueError:
        return name in dns or f"*.{name.partition('.')[2]}" in dns


class Authority:
    """An internal authority in a directory of the controller: ``ca.pem``, ``ca.key`` and what it issued.

    The directory is private. ``passphrase`` (bytes or None) encrypts ca.key. With ``write`` false nothing is written and what is
    missing is made in memory only, for check mode.
    """

    def __init__(self, directory, passphrase=None, write=True):
        self.directory, self.passphrase, self.write = directory, passphrase, write

    def issue(self, name, names, now, usage="server", common_name=None, renew=False):
        """(PEM chain, PEM key, whether it is new) of a certificate for ``names``, DNS names and addresses; renewed in its last third.

        ``name`` names the file; ``usage`` is server, or client for the certificate of an administrator with that ``common_name``;
        ``renew`` issues a new one in any case.
        """
        if name == "ca" or "/" in name:
            raise Unusable(f"keeps other files by the name of {name}; rename that node")
        with exclusive(self.directory, self.write):
            certificate, key = self._authority(now)
            path = os.path.join(self.directory, f"{name}.pem")
            held = None if renew else self._held(path, names, now, certificate)
            if held:
                return (*held, False)
            leaf_key = ec.generate_private_key(ec.SECP256R1())
            leaf = _leaf(certificate, key, leaf_key, common_name or name, names, now, usage)
            chain = _pem(leaf)
            secret = _key_pem(leaf_key)
            if self.write:
                _write(path, chain + secret)
            return chain, secret, True

    def certificate(self, now):
        """The authority's own certificate, PEM."""
        with exclusive(self.directory, self.write):
            return _pem(self._authority(now)[0])

    def _authority(self, now):
        certificate_path, key_path = (os.path.join(self.directory, name) for name in ("ca.pem", "ca.key"))
        if os.path.exists(key_path):
            secret = read_secret(key_path)
            try:
                with open(certificate_path, "rb") as stream:
                    certificate = x509.load_pem_x509_certificate(stream.read())
            except ValueError:
                raise Unusable("has a ca.pem that is no certificate") from None
            try:
                key = serialization.load_pem_private_key(secret, password=self.passphrase)
            except (ValueError, TypeError):
                raise Unusable("has a ca.key that the passphrase does not open") from None
            if _spki(certificate.public_key()) != _spki(key.public_key()):
                raise Unusable("has a ca.pem that does not belong to its ca.key")
            if certificate.not_valid_after_utc <= now + datetime.timedelta(days=LEAF_DAYS):
                raise Unusable(f"has an authority that expires at {certificate.not_valid_after_utc:%Y-%m-%d}; move it away to get a new one")
            return certificate, key
        key = ec.generate_private_key(ec.SECP384R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vllm_mindspore.hardening gateway authority")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + datetime.timedelta(days=AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA384())
        )
        if self.write:
            _write(key_path, _key_pem(key, self.passphrase))
            _write(certificate_path, _pem(certificate))
        return certificate, key

    def _held(self, path, names, now, authority):
        """What was issued before, where it still does."""
        try:
            content = read_secret(path)
        except FileNotFoundError:
            return None
        try:
            leaf = x509.load_pem_x509_certificate(content)
            leaf.verify_directly_issued_by(authority)
            key = serialization.load_pem_private_key(content, password=None)
        except (ValueError, TypeError, InvalidSignature):
            return None
        lifetime = leaf.not_valid_after_utc - leaf.not_valid_before_utc
        dns, addresses = _alternative_names(leaf)
        current = leaf.not_valid_after_utc - now > lifetime / 3
        if current and set(names) == dns | addresses:
            return _pem(leaf), _key_pem(key)
        return None


def _key_usage(authority):
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _leaf(authority, authority_key, key, name, names, now, usage):
    alternative = []
    for value in names:
        try:
            alternative.append(x509.IPAddress(ipaddress.ip_address(value)))
        except ValueError:
            alternative.append(x509.DNSName(value))
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if usage == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now - _BACKDATED + datetime.timedelta(days=LEAF_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
    )
    if alternative:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    return builder.sign(authority_key, hashes.SHA384())


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key, passphrase=None):
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def _write(path, content):
    """A private file, complete or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
