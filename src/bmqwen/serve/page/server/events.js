// Server-sent events: from pieces of a response's body to the data of each event.

export class EventReader {
  #rest = "";

  /** Take a piece of text; returns the data of the events that it completes. */
  push(text) {
    const lines = (this.#rest + text).split(/\r?\n/u);
    this.#rest = lines.pop();
    // The server sends one line of data an event; comments (lines with a colon first) keep the line alive.
    return lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim());
  }
}
