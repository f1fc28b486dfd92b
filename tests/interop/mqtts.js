// mqtt.js over TLS: as mqtts.py.
const assert = require('node:assert');
const fs = require('node:fs');
const mqtt = require('mqtt');

const [port, own, certificate, key] = process.argv.slice(2);
const SIZES = [1, 16_000, 1_000_000, 3_000_000];

async function thereAndBack(options) {
  const client = await mqtt.connectAsync({
    protocol: 'mqtts', host: 'localhost', port: Number(port), ca: fs.readFileSync(own),
    reconnectPeriod: 0, connectTimeout: 20_000, ...options,
  });
  await client.subscribeAsync('tls/#', { qos: 1 });
  for (const size of SIZES) {
    const heard = new Promise((resolve) => client.once('message', (topic, body) => resolve(body)));
    await client.publishAsync('tls/x', Buffer.alloc(size), { qos: 1 });
    assert.equal((await heard).length, size);
  }
  await client.endAsync();
}

async function all() {
  const shown = { cert: fs.readFileSync(certificate), key: fs.readFileSync(key) };
  await thereAndBack({ protocolVersion: 5, ...shown });
  await thereAndBack({ protocolVersion: 4, username: 'guest', password: 'guest' });
  await assert.rejects(thereAndBack({ protocolVersion: 5 }), /Not authorized|Bad User Name/i);
}

const late = setTimeout(() => { console.error('too late'); process.exit(2); }, 60_000);
all().then(() => clearTimeout(late), (error) => { console.error(error); process.exit(1); });
