// wampy.js under Node, doing what autobahn_client.js does: node wampy_node.mjs '{"url": …}'
//
// It subscribes again by itself when it comes back. A call that the loss of the connection broke off is rejected.

import {setTimeout} from "node:timers/promises";
import {WebSocket} from "ws";
import {Wampy} from "wampy";
import {CborSerializer} from "wampy/CborSerializer.js";
import {JsonSerializer} from "wampy/JsonSerializer.js";
import {MsgpackSerializer} from "wampy/MsgpackSerializer.js";
import {sign} from "wampy/wampcra.js";

const task = JSON.parse(process.argv[2]);
const serializers = {json: JsonSerializer, msgpack: MsgpackSerializer, cbor: CborSerializer};
const authextra = {device: "talker"};
let sent = 0;
let stopped = false;

function say(what) {
   console.log(JSON.stringify(what));
}

function onSession(details) {
   say({saw: "session", method: details.authmethod});
   authextra.resume ??= {epoch: details.authextra.epoch, rooms: {}};
}

function onEvent({details, argsList, argsDict}) {
   say({saw: "event", text: argsList[0], topic: details.topic ?? task.topic, ...argsDict});
   if (argsDict.seq && argsDict.type !== "caught_up") {
      authextra.resume.rooms[argsDict.rid] = argsDict.seq;
   }
   if (argsDict.type === "message" && argsList[0] === "stop") {
      stopped = true;
   }
}

const wampy = new Wampy(task.url, {
   ws: WebSocket,
   realm: "mercury",
   serializer: new serializers[task.serializer](),
   uriValidation: "loose",
   authid: task.member,
   authmethods: [task.method],
   authextra: authextra,
   authMode: "auto",
   authPlugins: {ticket: () => task.token, wampcra: sign(task.token)},
   reconnectInterval: 300,
   maxRetries: 0,
   onReconnectSuccess: onSession,
   onReconnect: () => say({saw: "closed"}),
   onClose: () => say({saw: "out"}),
});

async function persist(call) {
   for (;;) {
      try {
         const answer = await call();
         return answer.argsList[0];
      } catch (error) {
         if (error.errorUri) {
            throw error;
         }
         await setTimeout(100);
      }
   }
}

onSession(await wampy.connect());
if (task.side) {
   await wampy.subscribe(task.side, onEvent);
}
await wampy.subscribe(task.topic, onEvent);

while (!stopped) {
   const text = `${task.member} ${sent}`;
   const answer = await persist(() => wampy.call("mercury.send", {argsList: [task.rid, text], argsDict: {cid: text}}));
   say({saw: "sent", text: text, seq: answer.seq, duplicate: answer.duplicate});
   sent += 1;
   await setTimeout(10);
}

for (let after = 0, more = true; more; ) {
   const page = await persist(() =>
      wampy.call("mercury.history", {argsList: [task.rid], argsDict: {after: after, limit: 100}})
   );
   page.messages.forEach((message) => say({saw: "history", text: message.text, seq: message.seq}));
   after = page.messages.at(-1)?.seq ?? after;
   more = page.more;
}

say({saw: "all"});
if (task.leaves) {
   await wampy.disconnect();
}
