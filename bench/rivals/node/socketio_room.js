// A chat room made of Socket.IO: an event in, numbered, an event out to everyone in the room. Nothing is stored.
//
//   node socketio_room.js PORT
//
// Set as its documentation advises for speed and memory: WebSocket only, no compression, the first request not kept.
"use strict";
const { createServer } = require("node:http");
const { Server } = require("socket.io");

const http = createServer();
const io = new Server(http, { transports: ["websocket"], perMessageDeflate: false, httpCompression: false, serveClient: false });
const seqs = new Map(); // by room
let id = 0;

io.engine.on("connection", (connection) => {
  connection.query = new URL(connection.request.url, "http://here").searchParams;
  connection.request = null;
});

io.on("connection", (socket) => {
  const room = socket.conn.query.get("token"), member = socket.conn.query.get("member");
  socket.join(room);
  socket.on("message", (said) => {
    const seq = (seqs.get(room) ?? 0) + 1;
    seqs.set(room, seq);
    io.to(room).emit("message", { id: ++id, seq, mid: member, rid: room, ctime: new Date().toISOString(), text: said.text });
  });
});

http.listen(Number(process.argv[2]), "127.0.0.1", 4096);
