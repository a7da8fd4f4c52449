"""A certificate authority of a test's own, and a server's certificate by it."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def issue(directory: Path) -> tuple[Path, Path, Path]:
    """The authority's certificate, and certificate and key of a server on the loopback."""
    now = datetime.datetime.now(datetime.UTC)
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name, name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("pf test authority", "127.0.0.1"))

    def certificate(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        bare = x509.CertificateBuilder().subject_name(subject).issuer_name(root_name).public_key(public).serial_number(x509.random_serial_number())
        return bare.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))

    root = certificate(root_name, root_key.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(root_key, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
    server = certificate(name, key.public_key()).add_extension(names, critical=False).sign(root_key, hashes.SHA256())
    paths = tuple(directory / file for file in ("authority.pem", "server.pem", "server.key"))
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for path, content in zip(paths, (root.public_bytes(pem), server.public_bytes(pem), private), strict=True):
        path.write_bytes(content)
    return paths
