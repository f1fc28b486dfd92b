// A client of every protocol, on the Node libraries: the twin of `peer.py`.
//
// It reads commands as JSON lines on stdin and answers with events as JSON lines on stdout.
'use strict';

const crypto = require('node:crypto');
const readline = require('node:readline');
const amqplib = require('amqplib');
const mqtt = require('mqtt');
const rocketmq = require('rocketmq-client-nodejs');

const HOST = '127.0.0.1';
const PORTS = JSON.parse(process.env.MAINSTEM_PORTS);
const WAIT_MS = 20_000;
// FilterType.SQL of apache.rocketmq.v2; the library does not export the enum.
const FILTER_SQL = 2;
// The library's default logger writes below the home directory.
const quiet = { info() {}, warn() {}, debug() {}, error() {}, close() {} };

function emit(event, fields) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + '\n');
}

function tokenOf(body, headers, address) {
  if (body.subarray(0, 6).equals(Buffer.from('token:'))) {
    return body.subarray(6, body.indexOf(10)).toString();
  }
  return headers.token ?? address;
}

function received(reader, body, headers, address, said) {
  emit('received', {
    reader,
    token: tokenOf(body, headers, address),
    size: body.length,
    md5: crypto.createHash('md5').update(body).digest('hex'),
    said,
  });
}

// --- AMQP ------------------------------------------------------------------------------------

function amqpConnection() {
  return amqplib.connect(`amqp://guest:guest@${HOST}:${PORTS.amqp}/%2F?heartbeat=0`);
}

async function amqpPublisher() {
  const connection = await amqpConnection();
  const channel = await connection.createConfirmChannel();
  return async (command, body) => {
    const options = { deliveryMode: 2, headers: { token: command.token } };
    const { say } = command;
    if (say) {
      Object.assign(options, {
        contentType: say.content_type,
        correlationId: say.correlation,
        replyTo: say.reply_queue,
        messageId: say.message_id,
        priority: say.priority,
        expiration: String(say.expiry_ms),
      });
      Object.assign(options.headers, say.headers, { count: 7, ready: true, tag: say.tag, keys: say.key });
    }
    channel.publish(command.exchange, command.key, body, options);
    await channel.waitForConfirms();
    return {};
  };
}

async function amqpRead(command) {
  const connection = await amqpConnection();
  const channel = await connection.createChannel();
  const args = command.stream ? { 'x-queue-type': 'stream' } : {};
  await channel.assertQueue(command.queue, { durable: true, arguments: args });
  for (const [exchange, key] of command.binds) {
    await channel.bindQueue(command.queue, exchange, key);
  }
  await channel.prefetch(50);
  const onMessage = (message) => {
    const { fields, properties } = message;
    received(command.reader, message.content, properties.headers, fields.routingKey.split('.').at(-1), {
      exchange: fields.exchange,
      routing_key: fields.routingKey,
      content_type: properties.contentType,
      priority: properties.priority,
      correlation: properties.correlationId,
      reply_to: properties.replyTo,
      message_id: properties.messageId,
      expiration: properties.expiration,
      delivery_mode: properties.deliveryMode,
      timestamp: properties.timestamp,
      headers: properties.headers,
    });
    channel.ack(message);
  };
  const consume = command.stream ? { 'x-stream-offset': 'first' } : {};
  await channel.consume(command.queue, onMessage, { arguments: consume });
  emit('ready', { reader: command.reader });
}

// --- MQTT ------------------------------------------------------------------------------------

function mqttClient(version, clientId, kept) {
  const v5 = version === 'mqtt5';
  return mqtt.connectAsync(`mqtt://${HOST}:${PORTS.mqtt}`, {
    clientId,
    protocolVersion: v5 ? 5 : 4,
    clean: v5 ? false : !kept,
    properties: v5 ? { sessionExpiryInterval: kept ? 3600 : 0 } : undefined,
    reconnectPeriod: 0,
    connectTimeout: WAIT_MS,
  });
}

async function mqttPublisher(version) {
  const client = await mqttClient(version, `publisher-${version}-js`, false);
  return async (command, body) => {
    let properties;
    if (version === 'mqtt5') {
      properties = { userProperties: { token: command.token } };
      const { say } = command;
      if (say) {
        Object.assign(properties, {
          contentType: say.content_type,
          correlationData: Buffer.from(say.correlation),
          responseTopic: say.reply_topic,
          messageExpiryInterval: Math.floor(say.expiry_ms / 1000),
        });
        Object.assign(properties.userProperties, say.headers, {
          color: [say.headers.color, 'green'],
          priority: String(say.priority),
          tag: say.tag,
          keys: say.key,
        });
      }
    }
    await client.publishAsync(command.topic, body, { qos: 1, properties });
    return {};
  };
}

// The library groups repeated names; the order among different names is lost there, not here.
function userPairs(userProperties) {
  const pairs = [];
  for (const [name, value] of Object.entries(userProperties ?? {})) {
    for (const one of [value].flat()) pairs.push([name, one]);
  }
  return pairs;
}

async function mqttRead(command) {
  const client = await mqttClient(command.by, command.client_id, command.qos > 0);
  client.on('message', (topic, payload, packet) => {
    const said = { topic, qos: packet.qos, retain: packet.retain };
    let user = [];
    if (command.by === 'mqtt5') {
      const properties = packet.properties ?? {};
      user = userPairs(properties.userProperties);
      Object.assign(said, {
        content_type: properties.contentType,
        correlation: properties.correlationData?.toString(),
        reply_to: properties.responseTopic,
        expiry: properties.messageExpiryInterval,
        user,
      });
    }
    received(command.reader, payload, Object.fromEntries(user), topic.split('/').at(-1), said);
  });
  const [granted] = await client.subscribeAsync(command.filter, { qos: command.qos });
  if (granted.qos >= 128) throw new Error(`SUBACK ${granted.qos}`);
  emit('ready', { reader: command.reader });
}

// --- RocketMQ --------------------------------------------------------------------------------

const rocketmqOptions = { endpoints: `${HOST}:${PORTS.rocketmq}`, namespace: '', logger: quiet };

async function rocketmqPublisher(topic) {
  const producer = new rocketmq.Producer({ ...rocketmqOptions, topics: [topic] });
  await producer.startup();
  return async (command, body) => {
    const properties = new Map([['token', command.token]]);
    const message = { topic: command.topic, body, properties };
    if (command.tag) message.tag = command.tag;
    const { say } = command;
    if (say) {
      message.keys = [say.key];
      properties.set('content-type', say.content_type);
      properties.set('correlationid', say.correlation);
      properties.set('replyto', `q:${say.reply_queue}`);
      for (const [name, value] of Object.entries(say.headers)) properties.set(name, value);
    }
    const receipt = await producer.send(message);
    return { message_id: receipt.messageId };
  };
}

async function rocketmqRead(command) {
  const { topic, expression } = command;
  const filter = command.sql ? new rocketmq.FilterExpression(expression, FILTER_SQL) : expression;
  const consumer = new rocketmq.SimpleConsumer({
    ...rocketmqOptions,
    consumerGroup: command.group,
    subscriptions: new Map([[topic, filter]]),
    awaitDuration: 5000,
  });
  await consumer.startup();
  emit('ready', { reader: command.reader });
  for (;;) {
    for (const message of await consumer.receive(16, 30_000)) {
      const properties = Object.fromEntries(message.properties);
      received(command.reader, message.body, properties, (message.tag ?? '').split('/').at(-1), {
        topic: message.topic,
        tag: message.tag || undefined,
        keys: [...message.keys].sort(),
        priority: message.priority,
        message_id: message.messageId,
        corrupted: message.corrupted === true,
        properties,
      });
      await consumer.ack(message);
    }
  }
}

// --- HTTP ------------------------------------------------------------------------------------

async function httpPublish(command, body) {
  const headers = { 'X-Meta-token': command.token, 'Content-Type': 'application/octet-stream' };
  const { say } = command;
  if (say) {
    Object.assign(headers, {
      'Content-Type': say.content_type,
      'X-Correlation-Id': say.correlation,
      'X-Reply-To': `t:${say.reply_topic}`,
      'X-Message-Id': say.message_id,
      'X-Priority': String(say.priority),
      'X-Expires-In': String(Math.floor(say.expiry_ms / 1000)),
      'X-Tag': say.tag,
      'X-Keys': say.key,
    });
    for (const [name, value] of Object.entries(say.headers)) headers[`X-Meta-${name}`] = value;
  }
  headers.Authorization = `Basic ${Buffer.from('guest:guest').toString('base64')}`;
  const url = `http://${HOST}:${PORTS.http}/topics/${command.topic}`;
  const answer = await fetch(url, { method: 'POST', headers, body, signal: AbortSignal.timeout(WAIT_MS) });
  if (!answer.ok) throw new Error(`HTTP ${answer.status}: ${await answer.text()}`);
  return {};
}

// --- the command loop ------------------------------------------------------------------------

const publishers = new Map();
const makePublisher = {
  amqp: () => amqpPublisher(),
  mqtt311: () => mqttPublisher('mqtt311'),
  mqtt5: () => mqttPublisher('mqtt5'),
  rocketmq: (command) => rocketmqPublisher(command.topic),
  http: async () => httpPublish,
};

async function publish(command) {
  if (!publishers.has(command.by)) {
    publishers.set(command.by, await makePublisher[command.by](command));
  }
  const fields = await publishers.get(command.by)(command, Buffer.from(command.body, 'base64'));
  emit('published', { token: command.token, ...fields });
}

const reads = { amqp: amqpRead, mqtt311: mqttRead, mqtt5: mqttRead, rocketmq: rocketmqRead };

function guarded(action, command) {
  return action(command).catch((error) => {
    emit('failed', { what: command.reader ?? command.token, error: String(error.stack ?? error) });
  });
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    if (command.op === 'read') guarded(reads[command.by], command);
    else if (command.op === 'publish') await guarded(publish, command);
    else break;
  }
  // Clients of the libraries keep the process alive; the test is over.
  process.exit(0);
}

main();
