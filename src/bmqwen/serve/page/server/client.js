// The server that sent this page: what it serves, and its chat endpoint.

import { EventReader } from "./events.js";
import { Fault, faultFrom } from "./fault.js";

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

/**
 * One answer, streamed: yields {text}, {finish} and {usage, timings}. Raises a Fault, also when the stream ends too early;
 * what was yielded before stays good.
 */
export async function* streamAnswer(body, key, signal) {
  const response = await request("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...authorization(key) },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  const events = new EventReader();
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Fault("cut");
    });
    if (done) throw new Fault("cut");
    for (const data of events.push(decoder.decode(value, { stream: true }))) {
      if (data === "[DONE]") return;
      yield* partsOf(JSON.parse(data));
    }
  }
}

function* partsOf(chunk) {
  if (chunk.error) throw faultFrom(chunk.error, 200);
  const choice = chunk.choices?.[0];
  if (choice?.delta?.content) yield { text: choice.delta.content };
  if (choice?.finish_reason) yield { finish: choice.finish_reason };
  if (chunk.usage) yield { usage: chunk.usage, timings: chunk.timings ?? null };
}
