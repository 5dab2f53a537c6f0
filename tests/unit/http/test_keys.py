import stat
import threading

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from rowcast.errors import ConfigurationError, Unauthorized
from rowcast.http.keys import OWN_ISSUER, SigningKey, VerificationKey

USE = {"audience": "a", "typ": "t+jwt"}


def pem_of(private_key, encryption=None):
    return private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def test_sign_and_verify(clock):
    key = SigningKey.generate()
    claims = {"aud": "a", "exp": clock() + 1, "x": "y", "iss": "forged"}
    token = key.sign(claims, typ="t+jwt")
    assert key.verify(token, **USE, now=clock()) == {**claims, "iss": OWN_ISSUER}
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "kid": key.kid, "typ": "t+jwt"}


def test_verify_refuses(clock):
    key = SigningKey.generate()
    now = clock()
    claims = {"aud": "a", "exp": now + 1}
    for token, use in (
        (key.sign(claims, typ="t+jwt"), {**USE, "audience": "b"}),
        (key.sign(claims, typ="t+jwt"), {**USE, "typ": "u+jwt"}),
        (key.sign({**claims, "exp": now}, typ="t+jwt"), USE),
        (key.sign({"aud": "a"}, typ="t+jwt"), USE),
        (SigningKey.generate().sign(claims, typ="t+jwt"), USE),
        ("x", USE),
        ("é", USE),
    ):
        with pytest.raises(Unauthorized):
            key.verify(token, **use, now=now)


def test_verify_refuses_another_issuer_of_the_same_key(clock, forge):
    private_key = ed25519.Ed25519PrivateKey.generate()
    key = SigningKey(private_key)
    header = {"alg": "EdDSA", "typ": "t+jwt", "kid": key.kid}
    claims = {"aud": "a", "exp": clock() + 1, "iss": OWN_ISSUER}
    assert key.verify(forge(header, claims, key=private_key), **USE, now=clock())
    for bad_header, bad_claims in ((header, {**claims, "iss": "other"}), ({**header, "kid": "other"}, claims)):
        with pytest.raises(Unauthorized):
            key.verify(forge(bad_header, bad_claims, key=private_key), **USE, now=clock())


def test_jwks_is_public_and_checks_what_the_key_signs(clock):
    key = SigningKey.generate()
    (entry,) = key.jwks()["keys"]
    assert entry.keys() == {"kty", "crv", "x", "kid", "use", "alg"}
    token = key.sign({"aud": "a", "exp": 4_000_000_000}, typ="t+jwt")
    assert jwt.decode(token, jwt.PyJWK(entry), audience="a", algorithms=["EdDSA"])
    assert VerificationKey.from_jwk(entry).kid == key.kid


def test_kid_is_the_thumbprint_of_rfc_8037():
    # RFC 8037, appendix A.1 and A.3
    seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    key = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed)))
    assert key.jwks()["keys"][0]["x"] == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    assert key.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_save_and_load(tmp_path):
    path = tmp_path / "key.pem"
    key = SigningKey.generate()
    assert key.save(path) is key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SigningKey.from_file(path).kid == key.kid
    assert SigningKey.from_file(str(path)).kid == key.kid
    assert list(tmp_path.iterdir()) == [path]


def test_save_keeps_the_key_that_is_there(tmp_path):
    path = tmp_path / "key.pem"
    first = SigningKey.generate().save(path)
    before = path.read_bytes()
    assert SigningKey.generate().save(path).kid == first.kid
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_many_processes_end_with_one_key(tmp_path):
    path, kids = tmp_path / "key.pem", []
    barrier = threading.Barrier(8)

    def start():
        key = SigningKey.generate()
        barrier.wait()
        kids.append(key.save(path).kid)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kids) == 8
    assert set(kids) == {SigningKey.from_file(path).kid}


def test_save_says_why_it_cannot(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be written: No such file"):
        SigningKey.generate().save(tmp_path / "missing" / "key.pem")


def test_from_file_says_why_it_cannot(tmp_path):
    path = tmp_path / "key.pem"
    with pytest.raises(ConfigurationError, match=r"cannot be read: No such file.*openssl genpkey"):
        SigningKey.from_file(path)
    with pytest.raises(ConfigurationError, match="Is a directory"):
        SigningKey.from_file(tmp_path)
    ed25519_key = ed25519.Ed25519PrivateKey.generate()
    for content, cause in (
        (b"", "not a private key in PEM form"),
        (b"\x00\xff" * 100, "not a private key in PEM form"),
        (ed25519_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "not a private key"),
        (pem_of(ed25519_key, BestAvailableEncryption(b"secret")), "encrypted"),
        (pem_of(rsa.generate_private_key(public_exponent=65537, key_size=2048)), "not an Ed25519 key"),
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=cause):
            SigningKey.from_file(path)


def test_public_keys_that_are_too_weak_or_unknown():
    for private_key in (
        rsa.generate_private_key(public_exponent=65537, key_size=1024),
        ec.generate_private_key(ec.SECP256K1()),
        ed448.Ed448PrivateKey.generate(),
    ):
        pem = private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        with pytest.raises(ConfigurationError, match=r"2,048"):
            VerificationKey.from_pem(pem)


def test_jwk_entries(make_idp):
    rsa_jwk = make_idp().jwk()
    ec_jwk = make_idp(algorithm="ES256").jwk()
    assert VerificationKey.from_jwk(rsa_jwk).algorithms >= {"RS256", "PS256"}
    assert VerificationKey.from_jwk({**rsa_jwk, "alg": "RS256"}).algorithms == {"RS256"}
    assert VerificationKey.from_jwk(ec_jwk).algorithms == {"ES256"}
    assert VerificationKey.from_jwk({**rsa_jwk, "key_ops": ["verify"]})
    for unusable in (
        None,
        "key",
        {},
        {**rsa_jwk, "use": "enc"},
        {**rsa_jwk, "key_ops": ["encrypt"]},
        {**rsa_jwk, "key_ops": "verify"},
        {**rsa_jwk, "kid": 7},
        {**rsa_jwk, "alg": "HS256"},
        {**rsa_jwk, "alg": "RSA-OAEP"},
        {**rsa_jwk, "alg": ["RS256"]},
        {**rsa_jwk, "n": "AQAB"},
        {**rsa_jwk, "n": 7},
        {**rsa_jwk, "n": None},
        {**rsa_jwk, "kty": ["RSA"]},
        jwt.algorithms.RSAAlgorithm.to_jwk(make_idp().private_key, as_dict=True) | {"key_ops": ["verify"]},
        jwt.algorithms.OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate(), as_dict=True),
        {**ec_jwk, "x": "AA"},
        {**ec_jwk, "crv": "secp256k1"},
        {**ec_jwk, "crv": 7},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "a"},
        {"kty": "OKP", "crv": "Ed448", "x": "AA"},
        {"kty": "OKP"},
    ):
        assert VerificationKey.from_jwk(unusable) is None
