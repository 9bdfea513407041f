// The page /send: whom one knows, one conversation at a time, and a long poll that tells when there is something new.
//
// What is shown is what the server has, so a reload, a second window and another device show the same. The poll
// acknowledges what it was given; that is common to all windows of a browser, which tell each other what they got.

import { Refusal, call } from "/call.js";
import { Outbox, word } from "/outbox.js";
import * as view from "/view.js";

const WAIT = 25; // seconds that a poll waits for something new
const LONGEST_PAUSE = 10; // seconds between two tries to connect

let me = null; // { Id, Name }
let people = new Map(); // by Id: { Id, Name, Friend, Unread, Last }
let other = 0; // whose conversation is open, or 0
let read = 0; // up to which Seq of it the server knows to be read
let polling = new AbortController();
let outbox, windows;
let wake = () => {};

// Asking

async function ask(path, fields = {}, ...how) {
  try {
    return await call(path, me ? { id: me.Id, ...fields } : fields, ...how);
  } catch (error) {
    if (error.code === "unauthorized") leave();
    throw error;
  }
}

function leave() {
  polling.abort();
  view.hide();
  location.replace("/login");
}

// What nobody waits for. Whether there is a connection, the poll finds out, and then all is looked at again.
function inBackground(work) {
  work.catch((error) => {
    if (!(error instanceof Refusal)) throw error;
  });
}

// Looking

async function look() {
  const { People, ...myself } = await ask("/people");
  if (!me) begin(myself);
  for (const one of People) {
    const known = people.get(one.Id);
    if (known?.Last > one.Last) Object.assign(one, { Unread: known.Unread, Last: known.Last }); // it was on its way
    if (one.Id === other && one.Last <= read) one.Unread = 0; // and so was this
  }
  people = new Map(People.map((one) => [one.Id, one]));
  if (chosen() !== other) open();
  view.showPeople(people, other);
  await catchUp();
}

function begin(myself) {
  me = myself;
  view.showMe(me);
  outbox = new Outbox(`outbox ${me.Id}`, send, () => view.showOutbox(outbox, other));
  windows = new BroadcastChannel(`gotalk ${me.Id}`);
  windows.onmessage = (event) => inBackground(receive(...event.data));
}

async function catchUp(id = other) {
  if (!id || id !== other) return;
  let more;
  do {
    const newest = view.newest();
    const page = await ask("/history", newest ? { friendid: id, after: newest } : { friendid: id });
    if (id !== other) return;
    view.showMessages(page.Messages, me, people.get(id));
    if (newest) more = page.More;
    else view.showEarlier(page.More);
  } while (more);
  inBackground(markRead());
}

async function markRead() {
  const person = people.get(other);
  const newest = view.newest();
  if (document.hidden || newest <= read) return;
  read = person.Last = newest;
  person.Unread = 0;
  view.showPeople(people, other);
  await ask("/read", { friendid: other, seq: newest });
}

async function earlier() {
  const id = other;
  const { Messages, More } = await ask("/history", { friendid: id, before: view.oldest() });
  if (id !== other) return;
  view.showMessages(Messages, me, people.get(id));
  view.showEarlier(More);
}

// Somebody has written; `ids`: in whose conversations there is something new.
async function receive(messages, ids) {
  for (const message of messages) {
    const person = people.get(message.UserIdSend);
    if (!(message.Seq > person?.Last)) continue;
    person.Last = message.Seq;
    if (person.Id !== other || document.hidden) person.Unread += 1;
    view.announce(person.Name, message.Content);
  }
  view.showPeople(people, other);
  if (ids.every((id) => people.has(id))) await catchUp(ids.includes(other) ? other : 0);
  else await look(); // somebody new
}

async function listen() {
  let ack = 0;
  let failures = 0;
  let isNew = true;
  while (!polling.signal.aborted) {
    try {
      if (isNew) {
        await look();
        outbox.resume();
        view.showConnection("Connected");
        isNew = false;
      }
      const begun = performance.now();
      const said = await ask("/sync", { device: device(), ack, wait: WAIT }, WAIT + 15, polling.signal);
      failures = 0;
      if (Array.isArray(said)) {
        const ids = [...new Set(said.map((message) => message.UserIdSend))];
        windows.postMessage([said, ids]);
        await receive(said, ids);
        ack = said.at(-1).Id;
      } else {
        if (performance.now() - begun < 1000) await pause(1); // the server is about to go
        await look(); // for what no poll tells: new friends, and what one has said on other devices
      }
    } catch (error) {
      if (polling.signal.aborted) return;
      if (!(error instanceof Refusal)) throw error;
      isNew = true;
      view.showConnection("No connection, trying again …", true);
      await pause(Math.max(error.wait, Math.min(LONGEST_PAUSE, 0.5 * 2 ** failures++) * (0.5 + Math.random() / 2)));
    }
  }
}

const pause = (seconds) =>
  new Promise((resolve) => {
    wake = resolve;
    setTimeout(resolve, seconds * 1000);
  });

// All windows of a browser are one device.
function device() {
  if (!localStorage.getItem("gotalk")) localStorage.setItem("gotalk", word());
  return localStorage.getItem("gotalk");
}

// Doing

const chosen = () => (people.has(Number(location.hash.slice(1))) ? Number(location.hash.slice(1)) : 0);

function open() {
  other = chosen();
  read = 0;
  view.showConversation(people.get(other), outbox);
  view.showPeople(people, other);
}

async function send({ to, text, cid }) {
  await ask("/send", { sendToId: to, content: text, cid });
  windows.postMessage([[], [to]]);
  await catchUp(to).catch(() => {}); // it is stored; the next look shows it
}

async function befriend(name) {
  const { Id } = await ask("/getuseridbyname", { username: name });
  await ask("/addfriend", { friendid: Id });
  await look();
  location.hash = Id;
}

async function logOut() {
  polling.abort();
  try {
    await call("/logout", {});
    sessionStorage.clear();
    leave();
  } catch (error) {
    view.showConnection(`You are still logged in. ${error.message}`, true);
    polling = new AbortController();
    listen();
  }
}

addEventListener("hashchange", () => {
  if (!me) return;
  open();
  inBackground(catchUp());
});
addEventListener("online", () => wake());
addEventListener("pageshow", (event) => event.persisted && location.reload());
document.addEventListener("visibilitychange", () => document.hidden || !me || inBackground(look()));

view.listen({
  say: (text) => outbox.add(other, text),
  retry: (item) => outbox.retry(item),
  drop: (item) => outbox.drop(item),
  earlier: () => inBackground(earlier()),
  befriend,
  adopt: () => inBackground(befriend(people.get(other).Name)),
  logOut,
});
listen();
