// What Autobahn JS does in the tests, in Node and in a browser: it talks in a room, comes back when it is disconnected,
// and says all that it sees, one line of JSON each.
//
// `task`: {url, member, token, method, serializer, topic, rid, side}. When somebody says "stop" in the room, it says no
// more. `side`: the topic of a second room, to which it listens while it is in there. `done`: when it is out for good.

function talk(autobahn, task, say, done) {
   const serializers = {
      json: autobahn.serializer.JSONSerializer,
      msgpack: autobahn.serializer.MsgpackSerializer,
      cbor: autobahn.serializer.CBORSerializer,
   };
   const authextra = {device: "talker"};
   let sent = 0;
   let stopped = false;

   const connection = new autobahn.Connection({
      url: task.url,
      realm: "mercury",
      serializers: [new serializers[task.serializer]()],
      authmethods: [task.method],
      authid: task.member,
      authextra: authextra,
      onchallenge: (session, method, extra) => {
         if (method === "ticket") {
            return task.token;
         }
         const key = autobahn.auth_cra.derive_key(task.token, extra.salt, extra.iterations, extra.keylen);
         return autobahn.auth_cra.sign(key, extra.challenge);
      },
      initial_retry_delay: 0.2,
      max_retry_delay: 0.6,
      max_retries: -1,
   });

   function on_event(args, kwargs, details) {
      say({saw: "event", text: args[0], topic: details.topic, ...kwargs});
      if (kwargs.seq && kwargs.type !== "caught_up") {
         authextra.resume.rooms[kwargs.rid] = kwargs.seq;
      }
      if (kwargs.type === "message" && args[0] === "stop") {
         stopped = true;
      }
   }

   // What was not answered when the connection was lost never is: the next session says it again, with the same cid.
   async function speak(session) {
      while (session.isOpen && !stopped) {
         const text = `${task.member} ${sent}`;
         const answer = await session.call("mercury.send", [task.rid, text], {cid: text});
         say({saw: "sent", text: text, seq: answer.seq, duplicate: answer.duplicate});
         sent += 1;
         await new Promise((resolve) => setTimeout(resolve, 10));
      }
      if (session.isOpen) {
         await look_back(session);
         say({saw: "all"});
         if (task.leaves) {
            connection.close();
         }
      }
   }

   async function look_back(session) {
      let after = 0;
      for (let more = true; more; ) {
         const page = await session.call("mercury.history", [task.rid], {after: after, limit: 100});
         page.messages.forEach((message) => say({saw: "history", text: message.text, seq: message.seq}));
         after = page.messages.length ? page.messages[page.messages.length - 1].seq : after;
         more = page.more;
      }
   }

   connection.onopen = (session, details) => {
      say({saw: "session", method: details.authmethod});
      const failed = (error) => say({saw: "error", error: error.error || String(error)});
      if (!authextra.resume) {
         authextra.resume = {epoch: details.authextra.epoch, rooms: {}};
         listen_aside(session).catch(failed);
      }
      session
         .subscribe(task.topic, on_event)
         .then(() => speak(session))
         .catch(failed);
   };

   async function listen_aside(session) {
      if (task.side) {
         const subscription = await session.subscribe(task.side, on_event);
         say({saw: "revoked", why: await subscription.on_unsubscribe});
      }
   }

   connection.onclose = (reason, details) => {
      say({saw: "closed", reason: reason, why: details.reason, again: details.will_retry});
      if (!details.will_retry) {
         done();
      }
   };

   connection.open();
}

if (typeof module !== "undefined") {
   module.exports = talk;
}
