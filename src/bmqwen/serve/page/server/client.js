// The server that sent this page: what it serves, its tokenizer, its chat endpoint.

import { EventReader } from "./events.js";
import { Fault, faultFrom } from "./fault.js";

// After a break in the line an answer is looked for again, as often as this and after so long.
const LOOK_AGAIN_MS = [300, 1_500, 4_000];

/** The folder of the page's files, which the script in the document leads to. */
export const pageAddress = document.querySelector("script[type=module]").src;

/** Fetch, with a Fault for no connection and for every status but 2xx. An abort stays an AbortError. */
async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault("offline");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw faultFrom(body?.error, response.status, response.headers.get("Retry-After"));
}

function authorization(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function post(path, body, key, { signal, headers } = {}) {
  return request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...authorization(key), ...headers },
    body: JSON.stringify(body),
    signal,
  });
}

/** Model, precision, engine, context_length, version, key_required, sampling, limits. */
export async function serverInfo(key) {
  const response = await request("/api/info", { headers: authorization(key) });
  return response.json();
}

/** Does the server take this key? Raises a Fault when it cannot be asked. */
export async function keyFits(key) {
  try {
    await request("/v1/models", { headers: authorization(key) });
    return true;
  } catch (fault) {
    if (fault.kind === "key") return false;
    throw fault;
  }
}

/** Token ids of a text, or of messages as the model reads them with these `settings`: it goes on with the last one if `begun`. */
export async function tokensOf(given, key, { enable_thinking: thinking } = {}, begun = false) {
  const variables = thinking === undefined ? {} : { chat_template_kwargs: { enable_thinking: thinking } };
  const chat = { messages: given, ...variables, continue_final_message: begun };
  const response = await post("/tokenize", typeof given === "string" ? { prompt: given } : chat, key);
  return (await response.json()).tokens;
}

/** End an answer, whoever reads it. */
export function stopAnswer(answerId, key) {
  return request(`/v1/answers/${answerId}`, { method: "DELETE", headers: authorization(key), keepalive: true });
}

/**
 * One answer, streamed: yields {text}, {thought}, {call}, {finish}, {usage, timings} and {progress}, most with the number
 * `seen` of the event. After a break in the line it is read on. Raises a Fault; what was yielded before stays good.
 *
 * `answerId` names the answer at the server; without a `body` it is read on after event `seen`.
 */
export async function* streamAnswer({ path, body, answerId, seen = 0, key, signal }) {
  let response = body
    ? await post(
        path,
        { ...body, stream: true, stream_options: { include_usage: true } },
        key,
        { signal, headers: { "X-Answer-Id": answerId } },
      )
    : await readOn(answerId, seen, key, signal);
  for (;;) {
    try {
      for await (const event of eventsOf(response)) {
        if (event.data === "[DONE]") return;
        if (event.id) seen = Number(event.id);
        if (event.comment) yield* progressOf(event.comment);
        else for (const part of partsOf(JSON.parse(event.data))) yield { ...part, seen };
      }
    } catch (error) {
      if (error.name === "AbortError" || error instanceof Fault) throw error;
    }
    response = await lookAgain(answerId, seen, key, signal);
  }
}

function readOn(answerId, seen, key, signal) {
  return request(`/v1/answers/${answerId}?after=${seen}`, { headers: authorization(key), signal });
}

/** Raises Fault("cut") when the answer is lost. */
async function lookAgain(answerId, seen, key, signal) {
  for (const wait of LOOK_AGAIN_MS) {
    await new Promise((resolve) => setTimeout(resolve, wait));
    try {
      return await readOn(answerId, seen, key, signal);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      if (error.kind !== "offline") break;
    }
  }
  throw new Fault("cut");
}

async function* eventsOf(response) {
  const events = new EventReader();
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield* events.push(decoder.decode(value, { stream: true }));
  }
}

/** Comments of the stream say how an answer comes along before its first word: ": queue 2", ": read 512/2048". */
function* progressOf(comment) {
  const [, word, first, second] = /^(queue|read) (\d+)(?:\/(\d+))?$/u.exec(comment) ?? [];
  if (word === "queue") yield { progress: { ahead: Number(first) } };
  else if (word === "read" && second) yield { progress: { read: Number(first), prompt: Number(second) } };
}

function* partsOf(chunk) {
  if (chunk.error) throw faultFrom(chunk.error, 200);
  const choice = chunk.choices?.[0];
  const delta = choice?.delta ?? {};
  if (delta.reasoning_content) yield { thought: delta.reasoning_content };
  for (const call of delta.tool_calls ?? []) yield { call };
  const text = delta.content ?? choice?.text;
  if (text) yield { text };
  if (choice?.finish_reason) yield { finish: choice.finish_reason };
  if (chunk.usage) yield { usage: chunk.usage, timings: chunk.timings ?? null };
}
