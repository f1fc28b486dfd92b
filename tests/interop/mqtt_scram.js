// mqtt.js with SCRAM-SHA-256 (RFC 7677) by MQTT 5's AUTH: logs in, is refused with a wrong password, and
// proves itself again on a live connection. Argument: the port.
const assert = require('node:assert');
const crypto = require('node:crypto');
const mqtt = require('mqtt');

const port = Number(process.argv[2]);
const METHOD = 'SCRAM-SHA-256';
const hmac = (key, text) => crypto.createHmac('sha256', key).update(text).digest();
const sha256 = (bytes) => crypto.createHash('sha256').update(bytes).digest();

class Scram {
  constructor(user, password) {
    this.password = password;
    this.nonce = crypto.randomBytes(18).toString('base64');
    this.bare = `n=${user},r=${this.nonce}`;
  }

  first() { return Buffer.from(`n,,${this.bare}`); }

  final(challenge) {
    const said = challenge.toString();
    const [, nonce, salt, count] = said.match(/^r=([^,]+),s=([^,]+),i=(\d+)$/);
    assert.ok(nonce.startsWith(this.nonce) && nonce.length > this.nonce.length);
    assert.ok(Number(count) >= 4096);
    const salted = crypto.pbkdf2Sync(
      this.password, Buffer.from(salt, 'base64'), Number(count), 32, 'sha256');
    const client = hmac(salted, 'Client Key');
    const unsigned = `c=biws,r=${nonce}`;
    const all = `${this.bare},${said},${unsigned}`;
    this.signature = hmac(hmac(salted, 'Server Key'), all);
    const mask = hmac(sha256(client), all);
    const proof = Buffer.from(client.map((byte, at) => byte ^ mask[at]));
    return Buffer.from(`${unsigned},p=${proof.toString('base64')}`);
  }

  check(last) { assert.equal(last.toString(), `v=${this.signature.toString('base64')}`); }
}

function connect(user, password) {
  let scram = new Scram(user, password);
  const client = mqtt.connect({
    host: 'localhost', port, protocolVersion: 5, reconnectPeriod: 0, connectTimeout: 20_000,
    properties: { authenticationMethod: METHOD, authenticationData: scram.first() },
  });
  client.handleAuth = (packet, done) => {
    assert.equal(packet.properties.authenticationMethod, METHOD);
    if (packet.reasonCode === 0) {
      scram.check(packet.properties.authenticationData);
      client.emit('proven');
      return done();
    }
    assert.equal(packet.reasonCode, 0x18);
    const data = scram.final(packet.properties.authenticationData);
    return done(null, {
      cmd: 'auth', reasonCode: 0x18,
      properties: { authenticationMethod: METHOD, authenticationData: data },
    });
  };
  client.proveAgain = (password) => {
    scram = new Scram(user, password);
    client._sendPacket({
      cmd: 'auth', reasonCode: 0x19,
      properties: { authenticationMethod: METHOD, authenticationData: scram.first() },
    });
  };
  return new Promise((resolve, reject) => {
    client.once('connect', (packet) => {
      assert.equal(packet.properties.authenticationMethod, METHOD);
      scram.check(packet.properties.authenticationData);
      resolve(client);
    });
    client.once('error', reject);
  });
}

async function works(client) {
  const heard = new Promise((resolve) => client.once('message', (topic, body) => resolve(body)));
  await client.publishAsync('proven', 'x', { qos: 1 });
  assert.equal((await heard).toString(), 'x');
}

async function all() {
  for (const [user, password] of [['guest', 'wrong'], ['nobody', 'guest']]) {
    await assert.rejects(connect(user, password), (error) => error.code === 0x86);
  }
  const client = await connect('guest', 'guest');
  await client.subscribeAsync('proven', { qos: 1 });
  await works(client);
  const proven = new Promise((resolve) => client.once('proven', resolve));
  client.proveAgain('guest');
  await proven;
  await works(client);
  const sent = new Promise((resolve) => client.once('disconnect', resolve));
  client.proveAgain('wrong');
  assert.equal((await sent).reasonCode, 0x87);
}

const late = setTimeout(() => { console.error('too late'); process.exit(2); }, 60_000);
all().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
late.unref();
