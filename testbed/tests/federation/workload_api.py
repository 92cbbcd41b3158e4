"""A workload that knows nothing of Lorica, on the messages of SPIFFE's own client for Python, as a mesh federates.

    python workload_api.py token AUDIENCE | federated AUDIENCE TOKEN

`token` prints a token for an audience. `federated` prints, as one line of JSON, the trust domains of all bundles, and whose a token is.
"""

import json
import os
import sys

import grpc
from spiffe._proto import workload_pb2, workload_pb2_grpc

METADATA = [("workload.spiffe.io", "true")]

with grpc.insecure_channel(os.environ["SPIFFE_ENDPOINT_SOCKET"].replace("unix://", "unix:")) as channel:
    stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
    if sys.argv[1] == "token":
        answer = stub.FetchJWTSVID(workload_pb2.JWTSVIDRequest(audience=[sys.argv[2]]), metadata=METADATA)
        print(answer.svids[0].svid)
    else:
        svids = next(stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=METADATA))
        roots = next(stub.FetchX509Bundles(workload_pb2.X509BundlesRequest(), metadata=METADATA))
        keys = next(stub.FetchJWTBundles(workload_pb2.JWTBundlesRequest(), metadata=METADATA))
        try:
            request = workload_pb2.ValidateJWTSVIDRequest(audience=sys.argv[2], svid=sys.argv[3])
            validated = stub.ValidateJWTSVID(request, metadata=METADATA).spiffe_id
        except grpc.RpcError as error:
            validated = error.details()
        told = {
            "federated": sorted(svids.federated_bundles),
            "roots": sorted(roots.bundles),
            "keys": sorted(keys.bundles),
            "same": all(roots.bundles[name] == bundle for name, bundle in svids.federated_bundles.items()),
            "validated": validated,
        }
        print(json.dumps(told))
