"""A client of HTTP/3, on aioquic.

    python http3.py ADDRESS PORT CA COMMAND...

Each COMMAND is a JSON object, carried out in order on one connection; each prints one line of JSON:

    {"get": "/path", "host": "a.example"}                       one request; "method", "headers", "body" (so many bytes), "trailers"
    {"many": 50, "path": "/x", "body": 1000}                    as many at once
    {"reset": "/path"}                                          gives the request up once something of its answer is there
    {"raw": [[name, value], ...]}                               a head as it is, pseudo-fields and all
    {"until": "file", "path": "/x"}                             one request after another until there is a file of that name
    {"goaway": true}                                            waits for GOAWAY
"""
import asyncio
import json
import os
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, FrameType, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamReset


class Http3(H3Connection):
    """Tells of GOAWAY, which the library passes over."""
    goaway = None

    def _check_control_frame_type(self, frame_type):
        if frame_type == FrameType.GOAWAY:
            self.goaway.set()
        return super()._check_control_frame_type(frame_type)


class Exchange:
    def __init__(self):
        self.status, self.headers, self.trailers = None, {}, {}
        self.interim, self.body, self.reset = [], 0, None
        self.begun, self.done = asyncio.Event(), asyncio.Event()

    def told(self):
        said = {"status": self.status, "headers": self.headers, "trailers": self.trailers, "body": self.body, "interim": self.interim}
        return said if self.reset is None else {**said, "reset": self.reset}


class Client(QuicConnectionProtocol):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.http = Http3(self._quic)
        self.http.goaway = self.goaway = asyncio.Event()
        self.exchanges, self.ended = {}, None
        self.texts = {}

    def begin(self, fields, body=0, trailers=None):
        stream = self._quic.get_next_available_stream_id()
        exchange = self.exchanges[stream] = Exchange()
        self.texts[stream] = b""
        self.http.send_headers(stream, fields, end_stream=not body and not trailers)
        if body:
            self.http.send_data(stream, b"x" * body, end_stream=not trailers)
        if trailers:
            self.http.send_headers(stream, trailers, end_stream=True)
        self.transmit()
        return stream, exchange

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.ended = {"code": event.error_code, "why": event.reason_phrase}
            for exchange in self.exchanges.values():
                exchange.done.set()
        if isinstance(event, (StreamReset, StopSendingReceived)) and event.stream_id in self.exchanges:
            exchange = self.exchanges[event.stream_id]
            if isinstance(event, StreamReset):
                exchange.reset = event.error_code
                exchange.done.set()
        for event in self.http.handle_event(event):
            exchange = self.exchanges.get(event.stream_id)
            if exchange is None:
                continue
            if isinstance(event, HeadersReceived):
                exchange.begun.set()
                fields = [(name.decode(), value.decode()) for name, value in event.headers]
                named = dict(fields)
                if ":status" not in named:
                    exchange.trailers = named
                elif named[":status"].startswith("1"):
                    exchange.interim.append(int(named[":status"]))
                else:
                    exchange.status = int(named.pop(":status"))
                    exchange.headers = named
            if isinstance(event, DataReceived):
                exchange.body += len(event.data)
                if len(self.texts[event.stream_id]) < 100000:
                    self.texts[event.stream_id] += event.data
            if event.stream_ended:
                exchange.done.set()


def fields(command, path):
    head = [(":method", command.get("method", "GET")), (":scheme", "https"), (":authority", command.get("host", "a.example")), (":path", path)]
    return [(name.encode(), value.encode()) for name, value in head + [tuple(field) for field in command.get("headers", [])]]


async def carry_out(client, command):
    trailers = [(name.encode(), value.encode()) for name, value in command.get("trailers", [])]
    if "get" in command:
        stream, exchange = client.begin(fields(command, command["get"]), command.get("body", 0), trailers)
        await exchange.done.wait()
        text = client.texts[stream].decode(errors="replace")
        return {**exchange.told(), "text": text if len(text) < 100000 else ""}
    if "many" in command:
        begun = [client.begin(fields(command, command["path"]), command.get("body", 0))[1] for _ in range(command["many"])]
        await asyncio.gather(*(exchange.done.wait() for exchange in begun))
        return {"statuses": sorted({str(exchange.status) for exchange in begun}), "bodies": sum(exchange.body for exchange in begun)}
    if "reset" in command:
        stream, exchange = client.begin(fields(command, command["reset"]))
        # Before, the backend may not have heard of it, and would not hear of its end either.
        await exchange.begun.wait()
        client._quic.stop_stream(stream, 0x10c)
        client.transmit()
        await exchange.done.wait()
        return exchange.told()
    if "raw" in command:
        head = [(name.encode(), value.encode("latin1")) for name, value in command["raw"]]
        _, exchange = client.begin(head)
        await exchange.done.wait()
        return exchange.told()
    if "until" in command:
        statuses, count = set(), 0
        while not os.path.exists(command["until"]):
            _, exchange = client.begin(fields(command, command["path"]))
            await exchange.done.wait()
            statuses.add(str(exchange.status))
            count += 1
            if count == 1:
                print(json.dumps({"begun": True}), flush=True)
        return {"statuses": sorted(statuses), "several": count > 1}
    if "goaway" in command:
        await client.goaway.wait()
        return {"goaway": True}
    raise ValueError(command)


async def main(address, port, authority, *commands):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name="a.example", cafile=authority, verify_mode=ssl.CERT_REQUIRED)
    for command in commands:
        configuration.server_name = json.loads(command).get("server_name", configuration.server_name)
    async with connect(address, int(port), configuration=configuration, create_protocol=Client, wait_connected=True) as client:
        for command in map(json.loads, commands):
            told = await carry_out(client, command)
            if client.ended:
                told["ended"] = client.ended
            print(json.dumps(told), flush=True)


asyncio.run(main(*sys.argv[1:]))
