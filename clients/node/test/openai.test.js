// openai-node: chat, streams, completions, embeddings, errors, aborts.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import OpenAI from 'openai';
import { CAPITAL, CHAT_MODEL, EMBEDDING_MODEL, ENDLESS, connect, running, startServer, waitUntil } from './janus.js';

const PARIS = 'The capital city of France is Paris.';
let server;
let client;

before(async () => {
  server = await startServer();
  client = connect(server);
}, { timeout: 150_000 });

after(async () => server?.stop());

/** One short greedy answer unless told otherwise. */
const ask = (parameters = {}, options = {}) =>
  client.chat.completions.create(
    { model: CHAT_MODEL, messages: CAPITAL, temperature: 0, max_tokens: 32, ...parameters }, options);

const idle = () => waitUntil('idle', 3_000, async () => (await running(server)) === 0);

function cosine(a, b) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

describe('chat', () => {
  test('whole answer', async () => {
    const completion = await ask();
    assert.equal(completion.object, 'chat.completion');
    assert.equal(completion.choices[0].message.content, PARIS);
    assert.equal(completion.choices[0].finish_reason, 'stop');
    assert.equal(completion.usage.total_tokens, completion.usage.prompt_tokens + completion.usage.completion_tokens);
    assert.ok(completion._request_id);
  });

  test('stream', async () => {
    const pieces = [];
    let usage;
    for await (const chunk of await ask({ stream: true, stream_options: { include_usage: true } })) {
      pieces.push(chunk.choices[0]?.delta.content ?? '');
      usage = chunk.usage ?? usage;
    }
    assert.equal(pieces.join(''), PARIS);
    assert.ok(pieces.filter(Boolean).length > 3);
    assert.equal(usage.prompt_tokens, 43);
  });

  test('the accumulating helper', async () => {
    const stream = client.chat.completions.stream(
      { model: CHAT_MODEL, messages: CAPITAL, temperature: 0, max_tokens: 32 });
    assert.equal(await stream.finalContent(), PARIS);
  });

  test('as a web stream', async () => {
    const stream = await ask({ stream: true });
    const text = await new Response(stream.toReadableStream()).text();
    const chunks = text.trim().split('\n').map((line) => JSON.parse(line));
    assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join(''), PARIS);
  });

  test('raw response', async () => {
    const { response, request_id } = await ask({ max_tokens: 1 }).withResponse();
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('x-request-id'), request_id);
    assert.ok(Number(response.headers.get('openai-processing-ms')) >= 0);
  });
});

test('completions', async () => {
  const completion = await client.completions.create(
    { model: CHAT_MODEL, prompt: ['Once upon a time', '1, 2, 3,'], temperature: 0, max_tokens: 4 });
  assert.deepEqual(completion.choices.map((choice) => choice.index), [0, 1]);
});

test('models', async () => {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.ok(ids.includes(CHAT_MODEL) && ids.includes(EMBEDDING_MODEL));
});

describe('embeddings', () => {
  test('base64 by default and float agree', async () => {
    const embed = async (format) =>
      (await client.embeddings.create({ model: EMBEDDING_MODEL, input: 'hello world', ...format })).data[0].embedding;
    const packed = await embed({});
    assert.equal(packed.length, 384);
    assert.ok(cosine(packed, await embed({ encoding_format: 'float' })) > 0.999999);
  });

  test('ids and texts, in order', async () => {
    // [CLS] hello world [SEP]
    const ids = [101, 7592, 2088, 102];
    const { data } = await client.embeddings.create({ model: EMBEDDING_MODEL, input: ['other', 'hello world'] });
    const byIds = await client.embeddings.create({ model: EMBEDDING_MODEL, input: ids });
    assert.deepEqual(data.map((item) => item.index), [0, 1]);
    assert.ok(cosine(data[1].embedding, byIds.data[0].embedding) > 0.9999);
  });
});

describe('errors', () => {
  const rows = [
    ['unknown model', { model: 'gpt-nonsense' }, OpenAI.NotFoundError, 'model_not_found', undefined],
    ['bad temperature', { temperature: 9 }, OpenAI.BadRequestError, undefined, 'temperature'],
    ['tools', { tools: [{ type: 'function', function: { name: 'f' } }] }, OpenAI.BadRequestError, undefined, 'tools'],
    ['too long', { messages: [{ role: 'user', content: 'word '.repeat(20_000) }] },
      OpenAI.BadRequestError, 'context_length_exceeded', undefined],
  ];
  for (const stream of [false, true]) {
    for (const [name, parameters, kind, code, param] of rows) {
      test(`${name}, ${stream ? 'streaming' : 'whole'}`, async () => {
        await assert.rejects(ask({ ...parameters, stream }), (error) => {
          assert.equal(error.constructor, kind);
          if (code) assert.equal(error.code, code);
          if (param) assert.ok(error.param.startsWith(param));
          assert.ok(error.requestID);
          return true;
        });
      });
    }
  }

  test('timeout', async () => {
    await assert.rejects(ask(ENDLESS, { timeout: 300 }), OpenAI.APIConnectionTimeoutError);
    await idle();
  });
});

describe('aborts free their place', () => {
  test('breaking out of a stream', async () => {
    for await (const chunk of await ask({ ...ENDLESS, stream: true })) {
      assert.ok(chunk.choices.length);
      break;
    }
    await idle();
  });

  test('an abort signal, streaming', async () => {
    const stream = await ask({ ...ENDLESS, stream: true });
    await stream[Symbol.asyncIterator]().next();
    stream.controller.abort();
    await idle();
  });

  test('an abort signal, whole', async () => {
    const controller = new AbortController();
    const answer = ask(ENDLESS, { signal: controller.signal });
    await waitUntil('running', 10_000, async () => (await running(server)) === 1);
    controller.abort();
    await assert.rejects(answer, OpenAI.APIUserAbortError);
    await idle();
  });
});

test('eight clients at once', async () => {
  const answers = await Promise.all(
    Array.from({ length: 8 }, () => connect(server).chat.completions.create(
      { model: CHAT_MODEL, messages: CAPITAL, temperature: 0, max_tokens: 16 })));
  assert.deepEqual(new Set(answers.map((answer) => answer.choices[0].message.content)), new Set([PARIS]));
});
