// Autobahn JS under Node: node autobahn_node.js '{"url": …}'

const autobahn = require("autobahn");
const {WebSocket} = require("ws");
const talk = require("./autobahn_client.js");

// Autobahn takes the WebSocket that Node has from version 22 on. Before, ws has one, which throws what nobody listens to.
globalThis.WebSocket ??= class extends WebSocket {
   constructor(...args) {
      super(...args);
      this.on("error", () => {});
   }
};

talk(autobahn, JSON.parse(process.argv[2]), (what) => console.log(JSON.stringify(what)), () => {});
