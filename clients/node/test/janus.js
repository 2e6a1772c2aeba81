// The server under test (JANUS_URL, or one started from JANUS_BIN), and a client for it.
import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI from 'openai';

export const CHAT_MODEL = 'smollm2-135m-instruct';
export const EMBEDDING_MODEL = 'all-minilm-l6-v2';
export const CAPITAL = [{ role: 'user', content: 'What is the capital city of France? Answer in one sentence.' }];
/** Longer than any test waits: only a cancel ends it in time. */
export const ENDLESS = { max_tokens: 1800, ignore_eos: true };

const READY_MS_MAX = 120_000;

/** `{ url, stop }`; throws what is missing when there is nothing to test. */
export async function startServer() {
  if (process.env.JANUS_URL) return { url: process.env.JANUS_URL.replace(/\/$/, ''), stop: async () => {} };
  if (!process.env.JANUS_BIN) {
    throw new Error('NOT RUN: set JANUS_URL to a running server or JANUS_BIN to the janus binary');
  }
  const port = await freePort();
  const models = process.env.JANUS_TEST_MODELS ?? join(homedir(), '.cache/janus-test-models');
  const child = spawn(
    process.env.JANUS_BIN,
    ['serve', '--models-dir', models, '--listen', `127.0.0.1:${port}`],
    { stdio: 'ignore' },
  );
  const url = `http://127.0.0.1:${port}`;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  await waitUntil('ready', READY_MS_MAX, async () => {
    if (child.exitCode !== null) throw new Error(`janus ended with ${child.exitCode} before it was ready`);
    return fetch(`${url}/readyz`).then((response) => response.ok, () => false);
  });
  return { url, stop: async () => (child.kill('SIGTERM'), ended) };
}

export function connect(server, options = {}) {
  return new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'any', maxRetries: 0, timeout: 60_000, ...options });
}

/** Generations the engine is working on. */
export async function running(server) {
  const page = await fetch(`${server.url}/metrics`).then((response) => response.text());
  const values = [...page.matchAll(/^janus_engine_running_sequences(?:\{.*\})? (\S+)$/gm)];
  if (values.length === 0) throw new Error('/metrics has no janus_engine_running_sequences');
  return values.reduce((sum, [, value]) => sum + Number(value), 0);
}

export async function waitUntil(what, ms, condition) {
  const end = Date.now() + ms;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`not ${what} after ${ms} ms`);
    await sleep(20);
  }
}

function freePort() {
  return new Promise((resolve, reject) => {
    const listener = createServer().once('error', reject);
    listener.listen(0, '127.0.0.1', () => {
      const { port } = listener.address();
      listener.close(() => resolve(port));
    });
  });
}
