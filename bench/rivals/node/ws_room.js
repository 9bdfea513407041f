// A chat room made of ws: JSON in, numbered, JSON out to everyone in the room. Nothing is stored.
//
//   node ws_room.js PORT
//
// A frame is prepared once for all, as Socket.IO does it with ws: sending the text to each member would form it anew.
"use strict";
const { Sender, WebSocketServer } = require("ws");

const TEXT = { fin: true, rsv1: false, opcode: 1, mask: false, readOnly: false };
const rooms = new Map(); // by name: { seq, members }
let id = 0;

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 4096, perMessageDeflate: false });

server.on("connection", (socket, request) => {
  const query = new URL(request.url, "ws://here").searchParams;
  const name = query.get("token"), member = query.get("member");
  if (!rooms.has(name)) rooms.set(name, { seq: 0, members: new Set() });
  const room = rooms.get(name);
  room.members.add(socket);
  socket.on("close", () => room.members.delete(socket));
  socket.on("error", () => socket.terminate());
  socket.on("message", (data) => {
    const said = JSON.parse(data);
    const told = { id: ++id, seq: ++room.seq, mid: member, rid: name, ctime: new Date().toISOString(), text: said.text };
    const frame = [Buffer.concat(Sender.frame(Buffer.from(JSON.stringify(told)), TEXT))];
    for (const other of room.members) other._sender.sendFrame(frame);
  });
});
