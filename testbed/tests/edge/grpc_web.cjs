// A page's calls of gRPC-Web, by the client library that browsers run, over as much of XMLHttpRequest as it uses.
//
//   node grpc_web.cjs ORIGIN FORMAT CALL...
//
// ORIGIN is `http://a.example:8080`, reached on 127.0.0.1; FORMAT is `text` or `binary`. Each CALL is made once the one before is over, and
// prints one line of JSON: `assign:SKILL:CALL` (one answer), `watch:SKILL:CALL` (a stream, to which an assignment made after its first
// message brings a second).
'use strict';
const http = require('http');
const https = require('https');

class XMLHttpRequest {
  constructor() {
    this.readyState = 0;
    this.status = 0;
    this.statusText = '';
    this.responseText = '';
    this.response = '';
    this.responseType = '';
    this.fields = {};
    this.answer = null;
  }
  open(method, url) {
    this.method = method;
    this.url = new URL(url);
    this.change(1);
  }
  setRequestHeader(name, value) { this.fields[name] = value; }
  getResponseHeader(name) { return this.answer ? this.answer.headers[name.toLowerCase()] ?? null : null; }
  getAllResponseHeaders() {
    return this.answer ? Object.entries(this.answer.headers).map(([name, value]) => `${name}: ${value}\r\n`).join('') : '';
  }
  send(body) {
    const lookup = (_, options, done) => options.all ? done(null, [{address: '127.0.0.1', family: 4}]) : done(null, '127.0.0.1', 4);
    const {request} = this.url.protocol === 'https:' ? https : http;
    this.request = request(this.url, {method: this.method, headers: this.fields, lookup}, answer => {
      this.answer = answer;
      this.status = answer.statusCode;
      this.statusText = answer.statusMessage;
      this.change(2);
      const pieces = [];
      answer.on('data', piece => {
        pieces.push(piece);
        if (this.responseType === '') this.responseText += piece.toString('latin1');
        this.change(3);
      });
      answer.on('end', () => {
        const whole = Buffer.concat(pieces);
        this.response = this.responseType === 'arraybuffer' ? new Uint8Array(whole).buffer : this.responseText;
        this.change(4);
      });
      answer.on('error', () => this.fail());
    });
    this.request.on('error', () => this.fail());
    this.request.end(body ?? undefined);
  }
  abort() { this.aborted = true; this.request?.destroy(); }
  fail() {
    if (this.aborted || this.readyState === 4) return;
    this.status = 0;
    this.change(4);
  }
  change(state) {
    this.readyState = state;
    this.onreadystatechange?.();
  }
}
globalThis.XMLHttpRequest = XMLHttpRequest;

const grpc = require('grpc-web');
const [origin, format, ...calls] = process.argv.slice(2);
const client = new grpc.GrpcWebClientBase({format});

// The messages have strings of a few bytes only, in fields 1 and 2.
const text = (field, value) => [field << 3 | 2, value.length, ...Buffer.from(value)];
const assignRequest = ({skill, call}) => Uint8Array.from([...text(1, skill), ...text(2, call)]);
const strings = bytes => {
  const found = {};
  for (let at = 0; at < bytes.length;) {
    const field = bytes[at] >> 3;
    const end = at + 2 + bytes[at + 1];
    if ((bytes[at] & 7) !== 2) { at += 2; continue; }
    found[field] = Buffer.from(bytes.slice(at + 2, end)).toString();
    at = end;
  }
  return found;
};
const service = '/contact.agents.v1.AgentAssignment/';
const assign = new grpc.MethodDescriptor(service + 'Assign', grpc.MethodType.UNARY, Object, Object, assignRequest, strings);
const watch = new grpc.MethodDescriptor(
  service + 'Watch', grpc.MethodType.SERVER_STREAMING, Object, Object, () => new Uint8Array(), bytes => ({bytes: bytes.length}));

const failed = ({code, message}) => ({code, message});
const assigned = request => new Promise(done =>
  client.rpcCall(origin + assign.name, request, {}, assign, (error, answer) => done(error ? failed(error) : {agent: answer[1] ?? ''})));
const watched = request => new Promise(done => {
  let messages = 0;
  const stream = client.serverStreaming(origin + watch.name, {}, {}, watch);
  stream.on('data', async () => {
    messages += 1;
    if (messages === 1) await assigned(request);
    if (messages === 2) {
      stream.cancel();
      done({messages});
    }
  });
  stream.on('error', error => done({messages, ...failed(error)}));
  stream.on('end', () => done({messages}));
});

(async () => {
  for (const one of calls) {
    const [kind, skill, call] = one.split(':');
    console.log(JSON.stringify(await (kind === 'watch' ? watched : assigned)({skill, call})));
  }
})();
