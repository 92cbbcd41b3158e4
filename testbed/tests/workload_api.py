"""A workload that knows nothing of Lorica, on SPIFFE's own client for Python.

    python workload_api.py COMMAND

`keep` gets an identity, keeps it through a renewal, and gets and validates a token; it prints one line of JSON. `watch` prints each answer of
a stream and the code with which it ends. `bare` calls without SPIFFE's metadata and prints the code.
"""

import json
import os
import sys
import threading

import grpc
from spiffe import JwtSvid, WorkloadApiClient, X509Source
from spiffe._proto import workload_pb2, workload_pb2_grpc

AUDIENCE = "https://ledger.example"


def verified(svid, bundle):
    """Whether the chain leads to a root, and the key is the leaf's."""
    chain = svid.cert_chain
    for certificate, issuer in zip(chain, chain[1:]):
        certificate.verify_directly_issued_by(issuer)
    for root in bundle.x509_authorities:
        chain[-1].verify_directly_issued_by(root)
    return svid.leaf.public_key() == svid.private_key.public_key()


def keep():
    with WorkloadApiClient() as client, X509Source(client) as source:
        renewed = threading.Event()
        first = source.svid
        source.subscribe_for_updates(lambda: source.svid.leaf.serial_number != first.leaf.serial_number and renewed.set())
        if source.svid.leaf.serial_number != first.leaf.serial_number:
            renewed.set()
        bundle = source.get_bundle_for_trust_domain(first.spiffe_id.trust_domain)
        token = client.fetch_jwt_svid(audience={AUDIENCE})
        jwks = client.fetch_jwt_bundles().get_bundle_for_trust_domain(token.spiffe_id.trust_domain)
        told = {
            "id": str(first.spiffe_id),
            "all": [str(svid.spiffe_id) for svid in client.fetch_x509_svids()],
            "verified": verified(first, bundle),
            "roots": client.fetch_x509_bundles().get_bundle_for_trust_domain(first.spiffe_id.trust_domain).x509_authorities == bundle.x509_authorities,
            "token": str(JwtSvid.parse_and_validate(token.token, jwks, {AUDIENCE}).spiffe_id),
            "validated": str(client.validate_jwt_svid(token.token, AUDIENCE).spiffe_id),
            "refused": [],
        }
        flipped = token.token[:-20] + ("A" if token.token[-20] != "A" else "B") + token.token[-19:]
        for wrong in [(token.token, "another"), (flipped, AUDIENCE), ("no token", AUDIENCE)]:
            try:
                client.validate_jwt_svid(*wrong)
                told["refused"].append("believed")
            except Exception as error:
                told["refused"].append(str(error))
        renewed.wait()
        told["renewed"] = {
            "id": str(source.svid.spiffe_id),
            "verified": verified(source.svid, bundle),
            "later": source.svid.leaf.not_valid_after_utc > first.leaf.not_valid_after_utc,
            "another key": source.svid.leaf.public_key() != first.leaf.public_key(),
        }
        print(json.dumps(told))


def stream(metadata):
    with grpc.insecure_channel(os.environ["SPIFFE_ENDPOINT_SOCKET"].replace("unix://", "unix:")) as channel:
        stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
        try:
            for answer in stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=metadata):
                print("has", *[svid.spiffe_id for svid in answer.svids], flush=True)
        except grpc.RpcError as error:
            print("ended", error.code().name, error.details(), flush=True)


if sys.argv[1] == "keep":
    keep()
else:
    stream([("workload.spiffe.io", "true")] if sys.argv[1] == "watch" else [])
