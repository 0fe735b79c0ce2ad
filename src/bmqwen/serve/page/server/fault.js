// What can go wrong with a request, sorted by what a reader can do about it.

/** kind: key | full | long | busy | restarted | loading | late | cut | offline | refused | failed; detail: the server's own sentence. */
export class Fault extends Error {
  constructor(kind, detail = "", retryAfter = null) {
    super(detail || kind);
    this.kind = kind;
    this.detail = detail;
    this.retryAfter = retryAfter;
  }

  /** As a turn keeps it. */
  get record() {
    const retryAt = this.retryAfter === null ? null : Date.now() + 1000 * this.retryAfter;
    return { kind: this.kind, detail: this.detail, retryAt };
  }
}

// The codes of this server, and OpenAI's own for the same.
const KIND_OF_CODE = {
  invalid_api_key: "key",
  context_length_exceeded: "full",
  request_too_large: "long",
  queue_full: "busy",
  rate_limit_exceeded: "busy",
  engine_lost: "restarted",
  engine_hung: "restarted",
  device_failed: "restarted",
  not_ready: "loading",
  time_limit: "late",
};

const KIND_OF_STATUS = { 401: "key", 408: "late", 413: "long", 429: "busy", 503: "restarted", 504: "late" };

/** From an error in OpenAI's shape, with the HTTP status it came with (200 inside a stream). */
export function faultFrom(error, status, retryAfter = null) {
  const detail = typeof error?.message === "string" ? error.message : "";
  const kind = KIND_OF_CODE[error?.code] ?? KIND_OF_STATUS[status] ?? (status >= 400 && status < 500 ? "refused" : "failed");
  const seconds = Number.parseInt(retryAfter ?? "", 10);
  return new Fault(kind, detail, Number.isFinite(seconds) ? seconds : null);
}
