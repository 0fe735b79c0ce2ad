// Server-sent events: from pieces of a response's body to {id, data} of each event, and {comment}.

export class EventReader {
  #rest = "";
  #id = null;

  /** Take a piece of text; returns the events and comments that it completes. The server sends one line of data an event. */
  push(text) {
    const lines = (this.#rest + text).split(/\r?\n/u);
    this.#rest = lines.pop();
    const events = [];
    for (const line of lines) {
      if (line.startsWith("id:")) this.#id = line.slice(3).trim();
      else if (line.startsWith(":")) events.push({ comment: line.slice(1).trim() });
      else if (line.startsWith("data:")) {
        events.push({ id: this.#id, data: line.slice(5).trim() });
        this.#id = null;
      }
    }
    return events;
  }
}
