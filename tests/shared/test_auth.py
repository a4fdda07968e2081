"""The token door: every forged token that anybody has thought of, and the few that are good."""

import base64
import hashlib
import hmac
import json
import random
import string
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwk, jwt

from only_post_svc.settings import Settings
from shared.auth import (
    CLOCK_SKEW_SECONDS,
    MAX_LIFETIME_SECONDS,
    MAX_TOKEN_BYTES,
    TOKEN_TYPE,
    BadToken,
    Claims,
    TokenDoor,
)
from shared.keys import P256_ORDER, Given, Key, key_id, load_keys, signing_key
from shared.settings import Secret, SettingsError
from tests.tokens import AUDIENCE, ISSUER, SECRET, claims, header, segment, sign, token

NOW = 1_795_336_200
OTHER_SECRET = "another secret of the tests as long as it has to be"


def shared_keys(*secrets: str) -> dict[str, Key]:
    return load_keys(Settings.from_env({"SECRET_KEY": ",".join(secrets)}))


def door_of(keys: dict[str, Key], clock: Callable[[], float] = time.time) -> TokenDoor:
    return TokenDoor(keys, ISSUER, AUDIENCE, clock)


DOOR = door_of(shared_keys(SECRET))
STOPPED = door_of(shared_keys(SECRET), clock=lambda: NOW)  # its clock stands still


def is_refused(token: str, door: TokenDoor = DOOR) -> bool:
    """Anything but a caller or BadToken fails the test that asks."""
    try:
        door.check(token)
    except BadToken:
        return True
    return False


def test_a_good_token_says_who_calls_and_what_they_may_do() -> None:
    caller = DOOR.check(token(sub="user 1", scope="data tasks"))
    assert isinstance(caller, Claims)
    assert caller.sub == "user 1"
    assert caller.scopes == ["data", "tasks"]
    assert caller.iss == ISSUER
    assert not caller.is_machine


def test_a_token_whose_subject_is_its_client_is_a_machines_and_needs_no_session() -> None:
    caller = DOOR.check(token(sub="nightly", client_id="nightly", sid=None))
    assert caller.is_machine
    assert is_refused(token(sub="ann", client_id="nightly", sid=None))


def test_issuer_and_audience_are_the_settings() -> None:
    door = TokenDoor(shared_keys(SECRET), "https://auth.example.com", "pictures")
    assert not is_refused(token(iss="https://auth.example.com", aud="pictures"), door)
    assert is_refused(token(iss="https://auth.example.com"), door)
    assert is_refused(token(aud="pictures"), door)


def test_a_token_made_by_the_library_itself_is_good() -> None:
    made = jwt.encode(claims(), SECRET, "HS256", headers={"typ": TOKEN_TYPE, "kid": key_id(SECRET.encode())})
    assert not is_refused(made)


def test_a_token_without_any_scope_is_good_for_nothing() -> None:
    assert DOOR.check(token(scope="")).scopes == []


def test_why_a_token_is_bad_holds_nothing_of_it() -> None:
    made = token()
    with pytest.raises(BadToken) as caught:
        DOOR.check(made[:-4] + "AAAA")
    assert made[:20] not in repr(caught.value)
    assert caught.value.__suppress_context__  # what the library says of it has the token


ALGORITHMS: list[Any] = ["none", "None", "NoNe", "NONE", "", "hs256", "HS256 ", "HS384", "RS256", "ES256", "PS256"]
ODD: list[Any] = [0, 1, True, [], ["HS256"], ["none"], {}, {"alg": "HS256"}, 1.5]


@pytest.mark.parametrize("alg", [*ALGORITHMS, *ODD], ids=repr)
@pytest.mark.parametrize("signature", ["hmac", "empty", "junk"])
def test_another_algorithm_in_the_header_is_refused(alg: Any, signature: str) -> None:
    made = sign({**header(), "alg": alg}, claims())
    signed = made.rpartition(".")[0]
    assert is_refused({"hmac": made, "empty": f"{signed}.", "junk": f"{signed}.AAAA"}[signature])


def test_a_header_whose_algorithm_is_null_or_missing_is_refused() -> None:
    assert is_refused(sign({**header(), "alg": None}, claims()))
    assert is_refused(sign(header(alg=None), claims()))


@pytest.mark.parametrize(("alg", "digest"), [("HS384", hashlib.sha384), ("HS512", hashlib.sha512)])
def test_a_longer_hash_with_our_own_secret_is_refused(alg: str, digest: Any) -> None:
    assert is_refused(sign(header(alg=alg), claims(), digest=digest))
    assert is_refused(sign(header(), claims(), digest=digest))


def test_an_unsigned_token_is_refused() -> None:
    for alg in ("none", "HS256"):
        unsigned = f"{segment(header(alg=alg))}.{segment(claims())}"
        assert is_refused(f"{unsigned}.")
        assert is_refused(unsigned)


EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PRIVATE: dict[str, Private] = {"ES256": EC_KEY, "RS256": RSA_KEY}


def public_jwk(key: Private, alg: str, kid: str) -> dict[str, Any]:
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {**jwk.construct(pem.decode(), alg).to_dict(), "kid": kid, "use": "sig"}


def private_pem(key: Private) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def public_settings(*entries: dict[str, Any]) -> Settings:
    keys = json.dumps({"keys": list(entries)}).encode()
    return Settings(jwks=Secret(keys), secret_key=(Secret(SECRET.encode()),))


PUBLIC = {alg: public_jwk(key, alg, alg) for alg, key in PRIVATE.items()}
PUBLIC_DOOR = door_of(load_keys(public_settings(*PUBLIC.values())))
SIGNING = {alg: signing_key(Given("SIGNING_KEY", Secret(private_pem(key).encode()))) for alg, key in PRIVATE.items()}


def signed_by(alg: str, kid: str | None = None, **changes: Any) -> str:
    headers = {"typ": TOKEN_TYPE, "kid": kid or alg}
    return jwt.encode(claims(**changes), SIGNING[alg].jose_key, alg, headers=headers)


@pytest.mark.parametrize("alg", PRIVATE)
def test_a_token_of_the_private_key_is_good_where_the_public_one_is_known(alg: str) -> None:
    assert PUBLIC_DOOR.check(signed_by(alg, sub="user 1")).sub == "user 1"


def test_a_kid_is_bound_to_its_key_and_algorithm() -> None:
    assert is_refused(signed_by("ES256", kid="RS256"), PUBLIC_DOOR)
    assert is_refused(signed_by("RS256", kid="ES256"), PUBLIC_DOOR)


def test_another_private_key_is_refused() -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    made = jwt.encode(claims(), private_pem(stranger), "ES256", headers={"typ": TOKEN_TYPE, "kid": "ES256"})
    assert is_refused(made, PUBLIC_DOOR)


def test_where_only_public_keys_are_known_the_shared_secret_is_worth_nothing() -> None:
    for kid in ("ES256", "RS256", key_id(SECRET.encode())):
        assert is_refused(sign(header(kid=kid), claims()), PUBLIC_DOOR)


def public_forms(alg: str) -> Iterator[tuple[str, bytes]]:
    """Our public key, in every form that somebody might take for an HMAC secret."""
    public = PRIVATE[alg].public_key()
    encoding, form = serialization.Encoding, serialization.PublicFormat
    pem = public.public_bytes(encoding.PEM, form.SubjectPublicKeyInfo)
    yield "PEM", pem
    yield "PEM stripped", pem.strip()
    yield "PEM of Windows", pem.replace(b"\n", b"\r\n")
    yield "DER", public.public_bytes(encoding.DER, form.SubjectPublicKeyInfo)
    yield "OpenSSH", public.public_bytes(encoding.OpenSSH, form.OpenSSH)
    yield "JWK", json.dumps(PUBLIC[alg]).encode()
    yield "JWK sorted", json.dumps(PUBLIC[alg], sort_keys=True, separators=(",", ":")).encode()
    yield "JWKS", json.dumps({"keys": list(PUBLIC.values())}).encode()
    yield "empty", b""
    if isinstance(public, rsa.RSAPublicKey):
        yield "PKCS 1", public.public_bytes(encoding.PEM, form.PKCS1)
        yield "PKCS 1 DER", public.public_bytes(encoding.DER, form.PKCS1)
        yield "n", PUBLIC[alg]["n"].encode()
    else:
        yield "point", public.public_bytes(encoding.X962, form.UncompressedPoint)
        yield "x", PUBLIC[alg]["x"].encode()


FORMS = [(alg, form, secret) for alg in PRIVATE for form, secret in public_forms(alg)]
HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


@pytest.mark.parametrize(("alg", "form", "secret"), FORMS, ids=lambda value: value if isinstance(value, str) else "")
def test_the_public_key_is_no_secret_in_any_form(alg: str, form: str, secret: bytes) -> None:
    for name, digest in HASHES.items():
        for kid in (alg, key_id(secret)):
            signed = f"{segment(header(alg=name, kid=kid))}.{segment(claims())}"
            assert is_refused(f"{signed}.{segment(hmac.digest(secret, signed.encode(), digest))}", PUBLIC_DOOR)


def test_with_an_ecdsa_signature_of_zeros_a_token_is_refused() -> None:
    signed = signed_by("ES256").rpartition(".")[0]
    for signature in (b"\0" * 64, b"\0" * 63 + b"\1", b"", b"\xff" * 64):
        assert is_refused(f"{signed}.{segment(signature)}", PUBLIC_DOOR)


def test_of_two_ecdsa_signatures_that_fit_a_token_the_one_with_the_higher_s_is_refused() -> None:
    for _ in range(20):  # an s that is not cared for is the higher one in half of them
        signed, _, signature = signed_by("ES256").rpartition(".")
        raw = base64.urlsafe_b64decode(signature + "==")
        other_s = P256_ORDER - int.from_bytes(raw[32:], "big")
        assert not is_refused(f"{signed}.{signature}", PUBLIC_DOOR)
        assert is_refused(f"{signed}.{segment(raw[:32] + other_s.to_bytes(32, 'big'))}", PUBLIC_DOOR)


@pytest.mark.parametrize("alg", PRIVATE)
def test_the_same_claims_are_signed_in_one_way_only(alg: str) -> None:
    made = claims()
    assert len({signed_by(alg, **made) for _ in range(20)}) == 1


KIDS: list[Any] = [
    "",
    "unknown",
    "../../../../dev/null",
    "/etc/passwd",
    "' OR 1=1 --",
    "x' UNION SELECT 'secret",
    "https://evil.example/key",
    "file:///dev/null",
    "| cat /etc/passwd",
    "x" * 2000,
    "\0",
    "é",
    key_id(SECRET.encode()).upper(),
    key_id(SECRET.encode()) + " ",
    0,
    1,
    True,
    1.5,
    [],
    [key_id(SECRET.encode())],
    {},
]


@pytest.mark.parametrize("kid", KIDS, ids=lambda kid: ascii(kid)[:30])
def test_another_kid_is_refused(kid: Any) -> None:
    assert is_refused(sign({**header(), "kid": kid}, claims()))


def test_a_missing_or_null_kid_is_refused() -> None:
    assert is_refused(sign(header(kid=None), claims()))
    assert is_refused(sign({**header(), "kid": None}, claims()))


MEMBERS: dict[str, Any] = {
    "jwk": {"kty": "oct", "k": segment(b"mine")},
    "jku": "https://evil.example/keys",
    "x5u": "https://evil.example/cert",
    "x5c": ["MIIB"],
    "x5t": "x",
    "crit": ["exp"],
    "b64": False,
    "zip": "DEF",
    "enc": "A256GCM",
    "cty": "JWT",
    "epk": {},
    "unknown": None,
}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_header_member_that_is_not_ours_is_refused_though_the_signature_is(name: str) -> None:
    assert is_refused(sign({**header(), name: MEMBERS[name]}, claims()))


def test_an_unencoded_payload_is_refused() -> None:
    protected = segment({**header(), "b64": False, "crit": ["b64"]})
    signed = f"{protected}.{json.dumps(claims())}"
    assert is_refused(f"{signed}.{segment(hmac.digest(SECRET.encode(), signed.encode(), hashlib.sha256))}")


@pytest.mark.parametrize(
    "typ", ["JWT", "jwt", "AT+JWT", "application/at+jwt", "rt+jwt", "reset", "", None, 1, ["at+jwt"]]
)
def test_another_type_of_token_is_refused(typ: Any) -> None:
    assert is_refused(sign({**header(), "typ": typ}, claims()))
    assert is_refused(sign(header(typ=None), claims()))


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[]", b"null", b"1", b'"x"', b"{", b"\xff\xfe", b"{'alg':'HS256'}", b"NaN"]
)
def test_a_header_that_is_no_such_object_is_refused(raw: bytes) -> None:
    assert is_refused(sign(raw, claims()))


@pytest.mark.parametrize("path", ["opens", "connects", "queries"])
def test_a_kid_makes_it_open_nothing(path: str) -> None:
    seen: list[str] = []
    watching = True

    def hook(event: str, _: Any) -> None:
        if watching and event in (
            "open",
            "socket.connect",
            "socket.getaddrinfo",
            "sqlite3.connect",
            "subprocess.Popen",
        ):
            seen.append(event)

    sys.addaudithook(hook)
    names = {"opens": "/dev/null", "connects": "https://127.0.0.1:1/", "queries": "' OR 1=1"}
    assert is_refused(sign({**header(), "kid": names[path], "jku": names[path]}, claims()))
    assert is_refused(sign(header(kid=names[path]), claims()))
    watching = False
    assert seen == []


REQUIRED = ["iss", "aud", "sub", "client_id", "iat", "nbf", "exp", "jti", "sid", "scope", "ver"]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_claim_is_refused(name: str) -> None:
    good = claims()
    del good[name]
    assert is_refused(sign(header(), good))


NOT_TEXT: list[Any] = [None, 0, 1, True, 1.5, [], ["x"], {}, {"x": 1}, "\ud800", "a\0b"]


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "client_id", "jti", "sid", "scope"])
@pytest.mark.parametrize("value", NOT_TEXT, ids=repr)
def test_a_claim_that_should_be_text_and_is_not_is_refused(name: str, value: Any) -> None:
    assert is_refused(sign(header(), {**claims(), name: value}))


OTHERS = ["", "token_svc", f"{ISSUER}/", ISSUER.upper(), "https://evil.example", "only_post,other", "x"]


@pytest.mark.parametrize("name", ["iss", "aud"])
@pytest.mark.parametrize("value", OTHERS)
def test_a_token_by_or_for_somebody_else_is_refused(name: str, value: str) -> None:
    assert is_refused(token(**{name: value}))


@pytest.mark.parametrize("aud", [[AUDIENCE], [AUDIENCE, "other"], ["other"]])
def test_a_list_of_audiences_is_refused(aud: list[str]) -> None:
    assert is_refused(token(aud=aud))


def test_an_empty_subject_is_refused() -> None:
    assert is_refused(token(sub=""))
    assert is_refused(token(client_id=""))


SOON = "1795338000"
TIMES: list[str] = [
    "null",
    "true",
    "false",
    '""',
    f'"{SOON}"',
    f"{SOON}.0",
    f"{SOON}.5",
    f"[{SOON}]",
    "{}",
    "[]",
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    "1.795338e9",
    "9" * 5000,
    "-" + "9" * 4000,
    "9" * 4000,
    str(10**30),
    str(-(10**30)),
    '"2099-01-01T00:00:00Z"',
]


def wrong_times() -> Iterator[tuple[str, str]]:
    for value in TIMES:
        for name in ("exp", "iat", "nbf", "ver"):
            yield name, value


@pytest.mark.parametrize(("name", "value"), list(wrong_times()), ids=lambda value: value[:20])
def test_a_time_of_any_other_type_or_size_is_refused_though_signed(name: str, value: str) -> None:
    made = json.dumps({**at(NOW), name: "@"}).replace('"@"', value)
    assert is_refused(sign(header(), made.encode()), STOPPED)


def at(now: int, **changes: Any) -> dict[str, Any]:
    return claims(**{"iat": now, "nbf": now, "exp": now + 1800, **changes})


def test_with_the_right_types_the_same_token_is_good() -> None:
    assert not is_refused(sign(header(), json.dumps(at(NOW)).encode()), STOPPED)


TIMELY = [
    ({"exp": NOW + 1}, False),
    ({"exp": NOW}, True),
    ({"exp": NOW - 1}, True),
    ({"exp": 0}, True),
    ({"exp": -1}, True),
    ({"nbf": NOW + CLOCK_SKEW_SECONDS}, False),
    ({"nbf": NOW + CLOCK_SKEW_SECONDS + 1}, True),
    ({"iat": NOW + CLOCK_SKEW_SECONDS}, False),
    ({"iat": NOW + CLOCK_SKEW_SECONDS + 1}, True),
    ({"exp": NOW + MAX_LIFETIME_SECONDS}, False),
    ({"exp": NOW + MAX_LIFETIME_SECONDS + 1}, True),
    ({"iat": NOW - MAX_LIFETIME_SECONDS, "exp": NOW + 1}, True),
    ({"exp": 2**63}, True),
    ({"exp": 10**100}, True),
    ({"iat": 0}, True),
]


@pytest.mark.parametrize(("changes", "refused"), TIMELY, ids=str)
def test_a_token_is_good_from_nbf_until_just_before_exp(changes: dict[str, int], refused: bool) -> None:
    assert is_refused(sign(header(), at(NOW, **changes)), STOPPED) is refused


PAYLOADS = [b"", b"[]", b"null", b'"x"', b"1", b"{", b"\xff", b"[" * 2500, b'{"a":' * 400, b'{"exp":Infinity}']


@pytest.mark.parametrize("raw", PAYLOADS, ids=lambda raw: repr(raw[:12]))
def test_a_payload_that_is_no_such_object_is_refused_though_signed(raw: bytes) -> None:
    assert is_refused(sign(header(), raw))


GOOD = token()


def with_bit_flipped(text: str, bit: int) -> str:
    raw = bytearray(text.encode())
    raw[bit // 8] ^= 1 << bit % 8
    return raw.decode("latin-1")


def test_every_flipped_bit_of_the_text_is_refused() -> None:
    assert [bit for bit in range(len(GOOD) * 8) if not is_refused(with_bit_flipped(GOOD, bit))] == []


def test_every_flipped_bit_of_what_the_text_stands_for_is_refused() -> None:
    segments = GOOD.split(".")
    for index, text in enumerate(segments):
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        for bit in range(len(raw) * 8):
            flipped = bytearray(raw)
            flipped[bit // 8] ^= 1 << bit % 8
            changed = [*segments[:index], segment(bytes(flipped)), *segments[index + 1 :]]
            assert is_refused(".".join(changed)), (index, bit)


def test_every_character_replaced_left_out_or_added_is_refused() -> None:
    alphabet = string.ascii_letters + string.digits + "-_=.+/ \n"
    picked = random.Random(1)
    for index in range(len(GOOD)):
        other = picked.choice(alphabet.replace(GOOD[index], ""))
        assert is_refused(GOOD[:index] + other + GOOD[index + 1 :]), index
        assert is_refused(GOOD[:index] + GOOD[index + 1 :]), index
        assert is_refused(GOOD[:index] + other + GOOD[index:]), index


def test_every_other_last_character_of_each_segment_is_refused() -> None:
    segments = GOOD.split(".")
    for index in range(3):
        for character in string.ascii_letters + string.digits + "-_":
            changed = [*segments]
            changed[index] = changed[index][:-1] + character
            assert (".".join(changed) == GOOD) is not is_refused(".".join(changed)), (index, character)


AROUND = [
    "{}=",
    "{}==",
    " {}",
    "{} ",
    "{}\n",
    "\n{}",
    "{}\r\n",
    "{}\0",
    "\ufeff{}",
    "{}\u200b",
    "{}.",
    ".{}",
    "{0},{0}",
    "{0}{0}",
]


@pytest.mark.parametrize("form", AROUND, ids=ascii)
def test_anything_around_a_good_token_is_refused(form: str) -> None:
    assert is_refused(form.format(GOOD))


def test_padding_and_the_other_alphabet_of_base64_are_refused() -> None:
    parts = GOOD.split(".")
    for index, part in enumerate(parts):
        for changed in (part + "=" * (-len(part) % 4 or 4), part + "=", part + "\n"):
            assert is_refused(".".join([*parts[:index], changed, *parts[index + 1 :]]))
    until_both = (token() for _ in range(1000))
    odd = next(made for made in until_both if "-" in made or "_" in made)
    assert is_refused(odd.replace("-", "+").replace("_", "/"))
    wide = str.maketrans({"A": "Ａ", "a": "ａ", "0": "０"})
    assert is_refused(GOOD.translate(wide))


SEGMENTS = [
    "",
    ".",
    "..",
    "...",
    "....",
    "a",
    "a.b",
    "a.b.c",
    "a.b.c.d",
    "a.b.c.d.e",
    "a..c",
    ".b.c",
    "a.b.",
    "\ud800.a.b",
    "é.é.é",
]


@pytest.mark.parametrize("made", SEGMENTS, ids=ascii)
def test_what_has_not_three_segments_of_base64_is_refused(made: str) -> None:
    assert is_refused(made)


def test_segments_in_another_order_or_number_are_refused() -> None:
    a, b, c = GOOD.split(".")
    for parts in (
        (b, a, c),
        (c, b, a),
        (a, c, b),
        (a, a, c),
        (a, b),
        (b, c),
        (a, b, c, c),
        (a, a, b, c),
        (a, b, c, a, b),
    ):
        assert is_refused(".".join(parts))


def test_segments_of_two_good_tokens_make_no_third() -> None:
    other = token(sub="somebody else", scope="data tasks introspect")
    a, b, c = GOOD.split(".")
    _, other_b, other_c = other.split(".")
    assert is_refused(f"{a}.{other_b}.{c}")
    assert is_refused(f"{a}.{b}.{other_c}")


def test_a_signature_cut_short_or_made_longer_is_refused() -> None:
    signed, _, signature = GOOD.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "=")
    for changed in (raw[:-1], raw[:16], raw + b"\0", raw * 2, b"\0" * 32, b""):
        assert is_refused(f"{signed}.{segment(changed)}")


HUGE = {
    "8 KB": GOOD + "A" * 8192,
    "100 KB": "A" * 100_000,
    "10 MB": "A" * 10_000_000,
    "10 MB of points": "." * 10_000_000,
    "a deep header": f"{segment(b'[' * 2900)}.{segment({})}.AAAA",
    "a header of deep objects": f"{segment(b'{x:'.replace(b'x', b'%ca%c' % (34, 34)) * 580)}.{segment({})}.AAAA",
    "a deep payload": f"{segment(header())}.{segment(b'[' * 2800)}.AAAA",
    "a header of one long number": f"{segment(b'9' * 2900)}.{segment({})}.AAAA",
}


@pytest.mark.parametrize("made", HUGE.values(), ids=HUGE.keys())
def test_a_huge_or_deep_token_is_refused_in_no_time(made: str) -> None:
    seconds = []
    for _ in range(5):
        started = time.process_time()
        assert is_refused(made)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.02


def test_a_signed_token_above_the_limit_is_refused() -> None:
    sizes = {size: len(token(scope="x" * size)) for size in (100, 10_000)}
    assert sizes[100] <= MAX_TOKEN_BYTES < sizes[10_000]
    assert not is_refused(token(scope="x" * 100))
    assert is_refused(token(scope="x" * 10_000))


def of(secret: str) -> str:
    return sign(header(kid=key_id(secret.encode())), claims(), secret)


def test_all_secrets_of_the_list_verify_whichever_signs() -> None:
    door = door_of(shared_keys(OTHER_SECRET, SECRET))
    assert not is_refused(of(SECRET), door)
    assert not is_refused(of(OTHER_SECRET), door)


def test_the_token_of_a_retired_secret_is_refused() -> None:
    assert is_refused(of(OTHER_SECRET))


def test_one_secret_of_the_list_can_not_speak_for_another() -> None:
    door = door_of(shared_keys(OTHER_SECRET, SECRET))
    assert is_refused(sign(header(kid=key_id(SECRET.encode())), claims(), OTHER_SECRET), door)


@pytest.mark.parametrize(
    "secret", ["true" + " " * 28 + "x", '"' + "x" * 40 + '"', '{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAAAAAA"}']
)
def test_a_secret_that_looks_like_json_is_taken_as_it_is(secret: str) -> None:
    door = door_of({key_id(secret.encode()): Key("HS256", jwk.construct(secret.encode(), "HS256"))})
    assert not is_refused(of(secret), door)


def test_a_key_id_says_nothing_of_its_secret() -> None:
    assert key_id(SECRET.encode()) != key_id(OTHER_SECRET.encode())
    assert key_id(SECRET.encode()) not in (SECRET, hashlib.sha256(SECRET.encode()).hexdigest()[:16])


BAD_SETS: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "no keys": b"{}",
    "keys of another type": b'{"keys": 1}',
    "a key without a kid": json.dumps({"keys": [{**PUBLIC["ES256"], "kid": None}]})
    .replace('"kid": null, ', "")
    .encode(),
    "a shared secret": json.dumps({"keys": [{"kty": "oct", "k": segment(SECRET.encode()), "kid": "x"}]}).encode(),
    "a private key": json.dumps({"keys": [{**PUBLIC["ES256"], "d": "AAAA"}]}).encode(),
    "another curve": json.dumps({"keys": [{**PUBLIC["ES256"], "crv": "P-384"}]}).encode(),
    "a kind that it does not know": b'{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "x"}]}',
    "half a key": b'{"keys": [{"kty": "EC", "kid": "x"}]}',
    "bytes": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("content", BAD_SETS.values(), ids=BAD_SETS.keys())
def test_a_bad_key_set_is_one_line_that_names_the_setting_and_shows_no_key(content: bytes) -> None:
    settings = Settings(jwks_file=Secret(content), secret_key=(Secret(SECRET.encode()),))
    with pytest.raises(SettingsError, match=r"^JWKS_FILE: .+$") as caught:
        load_keys(settings)
    assert PUBLIC["ES256"]["x"] not in str(caught.value)


def test_a_key_shows_nothing_in_its_repr() -> None:
    assert SECRET not in repr(shared_keys(SECRET))


REASONS = {
    "kid is not known": sign(header(kid="x"), claims()),
    "iss is not ISSUER": token(iss="https://auth.example.com"),
    "aud is not AUDIENCE": token(aud="pictures"),
    "client_id is missing or no text": token(client_id=None),
    "exp is missing or no whole number": token(exp="soon"),
    "expired": token(exp=1),
    "signature": sign(header(), claims(), OTHER_SECRET),
    "form": "not a token",
}


@pytest.mark.parametrize(("reason", "made"), REASONS.items(), ids=REASONS)
def test_why_a_token_was_refused_is_said(reason: str, made: str) -> None:
    with pytest.raises(BadToken) as caught:
        DOOR.check(made)
    assert str(caught.value) == reason
