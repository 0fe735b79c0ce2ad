// What can go wrong with a request, sorted by what a reader can do about it.

/**
 * kind: a name in the page's words (language/en.js, `fault`); detail: the server's own sentence; retryAfter: seconds;
 * counts: {tokens, fits} of a prompt that is too long.
 */
export class Fault extends Error {
  constructor(kind, { detail = "", retryAfter = null, counts = {} } = {}) {
    super(detail || kind);
    Object.assign(this, { kind, detail, retryAfter, counts });
  }

  /** As a turn keeps it. */
  get record() {
    const retryAt = this.retryAfter === null ? null : Date.now() + 1000 * this.retryAfter;
    return { kind: this.kind, detail: this.detail, retryAt, ...this.counts };
  }
}

// The codes of this server, and OpenAI's own for the same. A test holds them against the server's.
const KIND_OF_CODE = {
  invalid_api_key: "key",
  context_length_exceeded: "full",
  request_too_large: "long",
  queue_full: "busy",
  rate_limit_exceeded: "busy",
  engine_lost: "restarted",
  engine_hung: "hung",
  device_failed: "device",
  interrupted: "device",
  not_ready: "loading",
  answer_stopped: "stopped",
  time_limit: "late",
  model_not_found: "model",
  origin_refused: "origin",
  unsupported_field: "field",
  invalid_request: "refused",
  invalid_schema: "refused",
  unsupported_media_type: "refused",
  not_found: "address",
  not_offered: "address",
  method_not_allowed: "address",
  internal_error: "failed",
  storage_failed: "storage",
};

const KIND_OF_STATUS = { 401: "key", 408: "late", 413: "long", 429: "busy", 503: "restarted", 504: "hung" };

/** From an error in OpenAI's shape, with the HTTP status it came with (200 inside a stream). */
export function faultFrom(error, status, retryAfter = null) {
  const detail = typeof error?.message === "string" ? error.message : "";
  const other = KIND_OF_STATUS[status] ?? (status >= 400 && status < 500 ? "refused" : "failed");
  const known = KIND_OF_CODE[error?.code] ?? other;
  // A server that says so in the middle of an answer is on its way out.
  const kind = known === "loading" && status === 200 ? "stopping" : known;
  const seconds = Number.parseInt(retryAfter ?? "", 10);
  return new Fault(kind, { detail, retryAfter: Number.isFinite(seconds) ? seconds : null });
}
