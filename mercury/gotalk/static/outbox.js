// Messages that the server has not acknowledged. They go one after another, and outlive a reload of the page.
//
// Whoever gets no answer does not know whether a message was stored; so it is sent again under the same cid, by which
// the server knows it, and is never there twice.

const LATER = new Set(["", "rate_limited", "unavailable", "internal"]); // refusals that may be over next time

export const word = () => [...crypto.getRandomValues(new Uint32Array(4))].map((n) => n.toString(36)).join("");

export class Outbox {
  // `send(item)` sends one and fails with a Refusal; `changed(item)` is called when something has become of it.
  constructor(name, send, changed) {
    this.name = name;
    this.send = send;
    this.changed = changed;
    this.isSending = false;
    this.items = JSON.parse(sessionStorage.getItem(name) ?? "[]");
  }

  // Each item has: to, text, cid. If it was tried in vain: `why`, and whether it goes `later` without being asked to.

  add(to, text) {
    this.items.push({ to, text, cid: word() });
    this.flush();
  }

  retry(item) {
    item.why = "";
    this.flush();
  }

  drop(item) {
    this.items = this.items.filter((one) => one !== item);
    this.keep(item);
  }

  // The connection is back: try what failed for the lack of it.
  resume() {
    for (const item of this.items) if (item.later) item.why = "";
    this.flush();
  }

  keep(item) {
    sessionStorage.setItem(this.name, JSON.stringify(this.items));
    this.changed(item);
  }

  async flush() {
    this.keep();
    if (this.isSending) return;
    this.isSending = true;
    for (let item; (item = this.items.find((one) => !one.why)); ) {
      try {
        await this.send(item);
        this.drop(item);
      } catch (error) {
        this.failed(item, error);
      }
    }
    this.isSending = false;
  }

  failed(item, error) {
    item.why = error.message;
    item.later = LATER.has(error.code);
    const held = item.later ? this.items.filter((one) => !one.why) : []; // each in its turn
    for (const one of held) Object.assign(one, { why: item.why, later: true });
    if (error.wait) setTimeout(() => this.resume(), error.wait * 1000);
    this.keep(item);
  }
}
